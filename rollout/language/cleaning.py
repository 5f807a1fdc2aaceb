"""What of a text is the answer, and what of that has a language: one cleaning for all users."""

from __future__ import annotations

import re
import unicodedata

_FENCE = re.compile(r"^\s*(```|~~~)")
_NO_LANGUAGE = re.compile(
    r"`[^`]*`"  # inline code
    r"|(?:https?://|www\.)\S+"
    r"|[\w.+-]+@[\w-]+\.[\w.]+"  # addresses
    r"|\$\$?[^$\n]+\$\$?|\\\[.*?\\\]|\\\(.*?\\\)|\\begin\{(\w+)\}.*?\\end\{\1\}"  # formulas
    r"|</?[A-Za-z][^<>\n]{0,80}>"  # tags
)
_MARKS = ("`", "://", "www.", "@", "$", "\\", "<")  # without any of them `_NO_LANGUAGE` finds nothing
# Parts in which a model reasons before it answers, as chat templates of reasoning models mark them.
_THINKING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
)
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"}  # Unicode categories of what nobody sees


def answer_part(text: str) -> str:
    """The answer without the reasoning before it.

    A part that was begun and not ended leaves no answer; an end without a beginning (some templates begin the part in
    the prompt) ends what stands before it.
    """
    for begin, end in _THINKING:
        begun, closed = begin in text, text.rfind(end)
        opened = begun and text.lstrip().startswith(begin)
        if closed >= 0 and (opened or not begun):
            text = text[closed + len(end) :]
        elif opened:
            return ""
    return text.strip()


def normalised(text: str) -> str:
    """A text as it is compared with others: NFC, without what nobody sees, white space collapsed."""
    text = unicodedata.normalize("NFC", text)
    joined = " ".join(text.split())
    if joined.isprintable():  # nearly every text: no control, format character or separator but the spaces
        return joined
    kept = (char for char in text if char.isspace() or visible(char))
    return " ".join("".join(kept).split())


def visible(text: str) -> bool:
    """Whether a reader sees anything of a text: zero-width characters, controls and white space alone are nothing."""
    return any(unicodedata.category(char) not in _INVISIBLE for char in text)


def prose(text: str) -> list[str]:
    """The lines of an answer that hold letters, without reasoning, code, formulas, tags and addresses."""
    lines: list[str] = []
    fence: str | None = None
    for line in answer_part(text).splitlines():
        mark = _FENCE.match(line)
        if mark:
            fence = mark[1] if fence is None else None if fence == mark[1] else fence
            continue
        if fence is None:
            marked = any(mark in line for mark in _MARKS)
            kept = (_NO_LANGUAGE.sub(" ", line) if marked else line).strip()
            if any(char.isalpha() for char in kept):
                lines.append(kept)
    return lines
