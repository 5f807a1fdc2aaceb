r"""A judge's words, read as a verdict: ``A``, ``Final verdict: A``, ``\boxed{answer_A}``, ``答案是Ａ``, ``Ответ: А``.

Nothing is guessed. A text is cut into words of the few kinds in ``vocabulary.yaml``, and counts where it is the label
alone, or where all its words announce or praise the label ("the better answer is B", "B is better"). One unknown word
("A good answer", "not A", "the worse one is A"), or both labels, and it is no verdict.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.yaml12 import read_yaml
from rollout.language.cleaning import THINKING

FIRST, SECOND, EVEN = "A", "B", "tie"
VOCABULARY = Path(__file__).parent / "wordings" / "vocabulary.yaml"

Kind = Literal["label", "sign", "verdict", "noun", "verb", "choose", "better", "wins", "than", "filler", "end"]
Form = Literal["bare", "announced", "praised"]

_LONGEST = 240  # characters of a sentence that states a verdict
_READ = 20_000  # characters at the end of an answer that are read
_BEGINS, _ENDS = (tuple(map(re.escape, marks)) for marks in zip(*THINKING, strict=True))
_THOUGHTS = re.compile(rf"\A.*(?:{'|'.join(_ENDS)})", re.DOTALL | re.IGNORECASE)
_UNFINISHED = re.compile(rf"\A\s*(?:{'|'.join(_BEGINS)})", re.IGNORECASE)

# Letters that look like the labels, or stand first and second in a script of their own. NFKC has already turned
# full-width, circled and mathematical letters into plain ones.
_LIKE = {
    **dict.fromkeys("\u0410\u0391\u13aa\ua4ee\u1d00🅐🅰", FIRST),  # Cyrillic, Greek, Cherokee, Lisu, small capital
    **dict.fromkeys("\u0412\u0392\u13f4\ua4d0\u0299🅑🅱\u0411", SECOND),
    **dict.fromkeys("\u0430\u03b1\u0251", "a"),
    **dict.fromkeys("\u03b2", "b"),
    **dict.fromkeys("أاאकअকก甲", FIRST),
    **dict.fromkeys("بבखबখข乙", SECOND),
}
_LABELS = {**{letter: letter for letter in "ABab"}, **_LIKE}
_MARKUP = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|sf)?|math(?:bf|rm|it|sf|tt)?|mbox|operatorname|underline|emph)\s*\{([^{}]*)\}"
)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{([^{}]*)\}|\[\[([^\[\]]{1,40})\]\]")
_PLAIN_TAG = re.compile(r"</?(?:b|i|u|em|strong|code|p|br|span|div|center|s)\s*/?>|<\|[^<>]{0,40}\|>", re.IGNORECASE)
_TAG = re.compile(r"<(/?)([^\W\d_][\w -]{0,30})>")
_GAP = re.compile(r"[\s\"'“”‘’«»「」『』【】〈〉()\[\]{}*_.,!。！、，।|~#>`$\\]+")
_SIGN = re.compile(r"(?:->|=>|[:=→⇒–—…-])+")
_LINE = re.compile(r"[\r\n\u2028\u2029]+")
_SENTENCE = re.compile(r"(?<=[.!?;。！？；।])\s*(?=\S)")


@dataclass(frozen=True, slots=True)
class _Word:
    kind: Kind
    text: str


def without_thoughts(words: str) -> str:
    """What a judge says after it has thought; "" if it only thought."""
    said = _THOUGHTS.sub("", words)
    return "" if _UNFINISHED.match(said) else said.strip()[-_READ:]


def bare_label(words: str) -> str | None:
    """The label, if it is the whole answer but for punctuation and mark-up; else None."""
    found = _state(_plain(without_thoughts(words)), ties=False)
    return found[0] if found is not None and found[1] == "bare" else None


def whole_answer(words: str) -> str | None:
    """The label that a judge names who was asked for the label alone.

    The whole text states it, or every line or sentence that states one states the same.
    """
    text = _plain(without_thoughts(words))
    whole = _state(text, ties=False)
    if whole is not None:
        return whole[0]
    found = {label for label, _ in _statements(text, ties=False)}
    return found.pop() if len(found) == 1 else None


def last_verdict(words: str) -> str | None:
    """The label, or ``tie``, of a judge that reasons first: the last verdict it announces, else its last line."""
    text = _plain(without_thoughts(words))
    announced = [label for label, form in _statements(text, ties=True) if form == "announced"]
    if announced:
        return announced[-1]
    lines = [line for line in _LINE.split(text) if line.strip()]
    last = _state(lines[-1], ties=True) if lines else None
    return last[0] if last is not None else None


def _plain(text: str) -> str:
    """Without look-alike forms, invisible characters and mark-up; a box stands on a line of its own as a verdict."""
    text = unicodedata.normalize("NFKC", text)
    text = "".join(char for char in text if unicodedata.category(char) != "Cf" and not "\ufe00" <= char <= "\ufe0f")
    before = ""
    while before != text:
        before, text = text, _MARKUP.sub(r" \1 ", text)
    text = _BOXED.sub(lambda found: f"\nverdict: {found[1] or found[2] or ''}\n", text)
    text = _PLAIN_TAG.sub(" ", text)
    return _TAG.sub(lambda tag: " " if tag[1] else f"{tag[2]}: ", text)


def _statements(text: str, ties: bool) -> Iterator[tuple[str, Form]]:
    for line in _LINE.split(text):
        whole = _state(line, ties)
        if whole is not None:
            yield whole
            continue
        for sentence in _SENTENCE.split(line):
            found = _state(sentence, ties)
            if found is not None and found[1] != "bare":
                yield found


def _state(text: str, ties: bool) -> tuple[str, Form] | None:
    """(label, how it is stated), or None if the text is no statement of one verdict."""
    words = _cut(text, ties)
    if words is None:
        return None
    places = [place for place, word in enumerate(words) if word.kind == "label"]
    if len(places) == 2:
        first, second = places
        if words[first].text.upper() == FIRST and _points(words[first + 1 : second], article=True):
            words, places = words[:first] + words[first + 1 :], [second - 1]  # "A better answer is B"
        elif _compared(words, first, second):
            words, places = words[:second], [first]  # "B is better than A"
    if len(places) != 1:
        return None
    place = places[0]
    label, before, after = words[place].text, words[:place], words[place + 1 :]
    form = _form(before, after)
    if form is None or (label in ("a", "b") and (after or (before and before[-1].kind not in ("sign", "noun")))):
        return None
    return (label if label == EVEN else label.upper()), form


def _form(before: list[_Word], after: list[_Word]) -> Form | None:
    kinds = {word.kind for word in after}
    praised = bool(after) and (
        after[0].kind == "wins" or (after[0].kind == "verb" and bool(kinds & {"better", "noun", "verdict"}))
    )
    # A language without a copula: "B лучше". In English that is how "A better answer" begins.
    follows = next((word for word in after if word.kind not in ("filler", "verb")), None)
    praised = praised or (follows is not None and follows.kind == "better" and not follows.text.isascii())
    if after and not praised and not kinds <= {"end"}:
        return None
    if _points(before, article=False):
        return "announced"
    if after and not praised and "better" in {word.kind for word in before}:
        return "announced"  # a language with its verb at the end: "बेहतर उत्तर A है"
    if any(word.kind not in ("filler", "noun", "sign") for word in before):
        return None
    if praised:
        return "praised"
    # "- A", "Answer A"; but "so A", "the A" are no answers.
    return "bare" if all(word.kind in ("noun", "sign") for word in before) else None


def _points(words: list[_Word], article: bool) -> bool:
    """Whether words announce the label that follows them.

    Args:
        words: Before the label.
        article: They follow an "A", which is an article if they do: a word that it can belong to comes first then.
    """
    kinds = [word.kind for word in words]
    if article and (not kinds or kinds[0] not in ("better", "noun", "verdict", "filler")):
        return False
    while kinds and kinds[-1] in ("noun", "filler") and any(kind in ("verb", "sign", "choose") for kind in kinds[:-1]):
        kinds.pop()
    if not kinds:
        return False
    if kinds[-1] in ("choose", "verdict"):
        return True
    return kinds[-1] in ("verb", "sign") and bool({"noun", "verdict", "better", "wins", "choose"} & set(kinds[:-1]))


def _compared(words: list[_Word], first: int, second: int) -> bool:
    between = [word.kind for word in words[first + 1 : second] if word.kind != "noun"]
    different = words[first].text.upper() != words[second].text.upper()
    return different and bool(between) and between[-1] == "than" and second == len(words) - 1


def _cut(text: str, ties: bool) -> list[_Word] | None:
    """The text as words of known kinds; None if one is unknown, or it is too long for a statement."""
    if len(text.strip()) > _LONGEST:
        return None
    words: list[_Word] = []
    kinds, known = _vocabulary()
    place = 0
    while True:
        gap = _GAP.match(text, place)
        place = gap.end() if gap else place
        if place == len(text):
            return words
        sign = _SIGN.match(text, place)
        if sign is not None:
            words.append(_Word("sign", sign[0]))
            place = sign.end()
            continue
        if _is_label(text, place):
            words.append(_Word("label", _LABELS[text[place]]))
            place += 1
            continue
        found = known.match(text, place)
        if found is None or (_cased(text, found.end() - 1) and _cased(text, found.end())):
            return None
        kind = kinds[" ".join(found[0].casefold().split())]
        if kind == "tie":
            if not ties:
                return None
            words.append(_Word("label", EVEN))
        else:
            words.append(_Word(kind, found[0]))  # type: ignore[arg-type]
        place = found.end()


def _is_label(text: str, place: int) -> bool:
    char = text[place]
    if char not in _LABELS:
        return False
    if char.upper() != char.lower() or not char.isalpha():
        return not _cased(text, place - 1) and not _cased(text, place + 1)
    return not _letter(text, place - 1) and not _letter(text, place + 1)


def _cased(text: str, place: int) -> bool:
    """Whether there is a letter of a script with capitals, a digit or a combining mark: a word continues there."""
    if not 0 <= place < len(text):
        return False
    char = text[place]
    return char.upper() != char.lower() or char.isdigit() or unicodedata.category(char) == "Mn" or char in "ªº"


def _letter(text: str, place: int) -> bool:
    return 0 <= place < len(text) and unicodedata.category(text[place])[0] in "LM"


@functools.cache
def _vocabulary() -> tuple[dict[str, str], re.Pattern[str]]:
    """(kind by word, a pattern that finds the longest word at a place)."""
    kinds: dict[str, str] = {}
    for kind, text in read_yaml(VOCABULARY, "vocabulary of verdicts").items():
        for word in text.split("|"):
            form = " ".join(unicodedata.normalize("NFKC", word).casefold().split())
            if kinds.setdefault(form, kind) != kind:
                raise ValueError(f"{VOCABULARY.name}: '{form}' is both {kinds[form]} and {kind}")
    alternatives = [re.escape(word).replace(r"\ ", r"\s+") for word in sorted(kinds, key=len, reverse=True)]
    return kinds, re.compile("|".join(alternatives), re.IGNORECASE)
