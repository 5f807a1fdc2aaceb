"""What of a text is the answer, and what of that has a language: one cleaning for all users."""

from __future__ import annotations

import re
import unicodedata

# A fence as Markdown has it, perhaps in a list or a quotation; what follows it may name a language of programming.
_FENCE = re.compile(r"^\s*(?:(?:[-*+>]|\d{1,3}[.)])\s+)*(?P<mark>`{3,}|~{3,})(?P<rest>.*)$")
_FORMULAS = r"|\\\[.*?\\\]|\\\(.*?\\\)|\\begin\{(\w+\*?)\}.*?\\end\{\1\}"
_NO_LANGUAGE, _BUT_FORMULAS = (
    re.compile(
        r"`[^`]*`"  # inline code
        r"|(?:https?://|www\.)\S+"
        r"|(?<![\w.+-])[\w.+-]+@[\w-]+\.[\w.]+"  # addresses: tried once a word, however long
        rf"|\$\$?[^$\n]+\$\$?{formulas}"
        r"|</?[A-Za-z][^<>\n]{0,80}>|<\|[^<>|\n]{1,40}\|>"  # tags, and marks of chat templates
    )
    for formulas in (_FORMULAS, "")
)
_ENDS = ("\\]", "\\)", "\\end")  # without any of them no formula ends: a line of its beginnings would take long
_MARKS = ("`", "://", "www.", "@", "$", "\\", "<")  # without any of them `_NO_LANGUAGE` finds nothing
# Nor does anything else here without any of these, of which nearly every text has none.
_SIGNS, _ADDRESSES = frozenset("`~<[◁@$\\"), ("://", "www.")
# Formulas of several lines; no line in them is empty.
_LINES = r"(?:[^\n]|\n(?!\s*\n)){0,2000}?"
_DISPLAYED = re.compile(
    rf"\$\$(?:[^$\n]|\n(?!\s*\n)){{0,2000}}?\$\$|\\\[{_LINES}\\\]|\\begin\{{(\w+\*?)\}}{_LINES}\\end\{{\1\}}"
)
# Parts in which a model reasons before it answers, as chat templates of reasoning models mark them: begin and end.
THINKING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis", "<|channel|>final<|message|>"),
)
_THINKING = tuple((begin.lower(), end.lower()) for begin, end in THINKING)
_SMALL = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}  # of other letters the small form may be longer
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"}  # Unicode categories of what nobody sees
# Letters and marks that are drawn as nothing (Unicode's Default_Ignorable_Code_Point), and the empty Braille cell.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0") | frozenset(
    map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)


def answer_part(text: str) -> str:
    """The answer without the reasoning before it.

    A part that was begun and not ended leaves no answer; an end without a beginning (some templates begin the part in
    the prompt) ends what stands before it.
    """
    if "<" not in text and "[" not in text and "◁" not in text:
        return text.strip()
    lowered = text.translate(_SMALL)
    for begin, end in _THINKING:
        begun, closed = begin in lowered, lowered.rfind(end)
        opened = begun and lowered.lstrip().startswith(begin)
        if closed >= 0 and (opened or not begun):
            text, lowered = text[closed + len(end) :], lowered[closed + len(end) :]
        elif opened:
            return ""
    return text.strip()


def normalised(text: str) -> str:
    """A text as it is compared with others: NFC, without what nobody sees, white space collapsed."""
    text = unicodedata.normalize("NFC", text)
    joined = " ".join(text.split())
    if joined.isprintable() and _BLANK.isdisjoint(joined):  # nearly every text: no control, no format character
        return joined
    return " ".join(text.translate(_SEEN).split())


def visible(text: str) -> bool:
    """Whether a reader sees anything of a text: zero-width characters, controls and white space alone are nothing."""
    return any(unicodedata.category(char) not in _INVISIBLE and char not in _BLANK for char in text)


class _Seen(dict[int, int | None]):
    """Code point -> itself, or None for what nobody sees and is no white space; filled as characters are met."""

    def __missing__(self, point: int) -> int | None:
        char = chr(point)
        self[point] = point if char.isspace() or visible(char) else None
        return self[point]


_SEEN = _Seen()


def prose(text: str) -> list[str]:
    """The lines of an answer that hold letters, without reasoning, code, formulas, tags and addresses."""
    if _SIGNS.isdisjoint(text) and not any(address in text for address in _ADDRESSES):
        return [stripped for line in text.strip().splitlines() if any(map(str.isalpha, stripped := line.strip()))]
    text = answer_part(text)
    lines: list[str] = []
    fence = ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if fence:
            # It ends with as many of the same sign, alone.
            if mark and mark["mark"].startswith(fence) and not mark["rest"].strip():
                fence = ""
        elif mark and not (mark["mark"][0] == "`" and "`" in mark["rest"]):  # that is inline code
            fence = mark["mark"]
            lines.append("")
        else:
            lines.append(line)
    if any(sign in text for sign in ("$$", "\\]", "\\end")):
        lines = _DISPLAYED.sub(" ", "\n".join(lines)).splitlines()
    marked = any(mark in text for mark in _MARKS)
    kept = ((_without_code(line) if marked else line).strip() for line in lines)
    return [line for line in kept if any(char.isalpha() for char in line)]


def _without_code(line: str) -> str:
    pattern = _NO_LANGUAGE if any(end in line for end in _ENDS) else _BUT_FORMULAS
    return pattern.sub(" ", line)
