"""Grade-school maths in many languages (MGSM): the number in which a solution ends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from evaluation.announcements import announced
from evaluation.numbers import Number, find_numbers, normalise, parse_number
from rollout.language import answer_part

How = Literal["boxed", "hashes", "phrase", "bold", "last", "none"]

_HASHES = re.compile(r"^\s*#{4}[ \t]*(?P<rest>\S.*)$", re.MULTILINE)
_HEADING = re.compile(r"\d+\s*[.):]\s+\D|[^\d]*[^\W\d_]{3}[^\d]*\d")  # "1. Add" or "Step 2": no answer
_BOXED = re.compile(r"\\boxed\s*\{")
_BOLD = re.compile(r"\*\*(.+?)\*\*")
_BRACKETED = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|【[^【】]*】")
_OPERATOR = re.compile(r"[-+*/×÷·^]|\\times|\\cdot|\\div")
_LINK = re.compile(r"(?:[^\W\d_]|[-+*/×÷·=≈^\s$€£¥%().\\{}]|[\u20a0-\u20cf]){1,60}")
_CLAUSE = re.compile("[,、;；]")
_LINK_WORDS = 3  # in a calculation between two numbers ("9 eggs * $2")
_DIRECT_WORDS = 1  # that may stand between the announcement and its number ("is only 18")
_NO_SPACES = ("ja", "zh")  # words can't be counted there


@dataclass(frozen=True, slots=True)
class Extraction:
    """The answer that a text gives and what gave it away; None if the text has no number."""

    value: Fraction | None
    how: How


def extract_answer(text: str, language: str) -> Extraction:
    r"""The number that a solution ends in.

    By precedence: the last ``\boxed{}``; the last ``####`` line that is no heading; the last announcement ("the answer
    is", in any language); a bold number in the last paragraph with numbers; the last number.

    Args:
        text: A solution, written in any language; reasoning before the answer is not read.
        language: That the answer should be in; decides what separators mean.
    """
    text = normalise(answer_part(text))
    for how, find in (("boxed", _boxed), ("hashes", _hashes), ("phrase", _announced), ("bold", _bold)):
        value = find(text, language)
        if value is not None:
            return Extraction(value, how)  # type: ignore[arg-type]
    numbers = list(find_numbers(text, language))
    return Extraction(numbers[-1].value, "last") if numbers else Extraction(None, "none")


def is_right(text: str, gold: str, language: str) -> bool:
    """Whether the extracted answer equals the gold one, exactly; ``gold`` is read the English way."""
    expected = parse_number(gold, "en")
    if expected is None:
        raise ValueError(f"gold answer '{gold}' is no number")
    return extract_answer(text, language).value == expected


def _boxed(text: str, language: str) -> Fraction | None:
    for found in reversed(list(_BOXED.finditer(text))):
        depth, end = 1, found.end()
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        box = text[found.end() : end - 1 if not depth else end]
        numbers = list(find_numbers(box, language))
        equals = box.rfind("=")
        after = [number for number in numbers if number.start > equals]
        if numbers:
            return (after or numbers)[0].value
    return None


def _hashes(text: str, language: str) -> Fraction | None:
    for found in reversed(list(_HASHES.finditer(text))):
        rest = found["rest"]
        if not _HEADING.match(rest):
            value = _chosen(rest, language)
            if value is not None:
                return value
    return None


def _announced(text: str, language: str) -> Fraction | None:
    return next((value for rest in announced(text) if (value := _chosen(rest, language)) is not None), None)


def _bold(text: str, language: str) -> Fraction | None:
    for paragraph in reversed(text.splitlines()):
        if next(find_numbers(paragraph, language), None) is None:
            continue
        bold = [list(find_numbers(found[1], language)) for found in _BOLD.finditer(paragraph)]
        return next((numbers[-1].value for numbers in reversed(bold) if numbers), None)
    return None


def _chosen(sentence: str, language: str) -> Fraction | None:
    """Of the numbers of an announcing sentence, brackets left out: the first if it follows at once, or what the
    calculation that begins with it comes to; else what the last calculation comes to, else the last."""
    bare = _BRACKETED.sub(" ", sentence)
    numbers = list(find_numbers(bare, language))
    if not numbers:
        numbers, bare = list(find_numbers(sentence, language)), sentence
    if not numbers:
        return None
    if _direct(bare, numbers, language):
        return _result(bare, numbers)
    equals = bare.rfind("=")
    after = [number for number in numbers if number.start > equals]
    return after[0].value if equals >= 0 and after else numbers[-1].value


def _result(text: str, numbers: Sequence[Number]) -> Fraction:
    """What a calculation that begins with the first number comes to: "9 * 2 = 18" is 18, "18 = 9 * 2" too.

    A bare number followed by a sentence ("18, because 16 - 3 = 13") is no calculation, and is the value.
    """
    reached, calculated = numbers[0].value, False
    for number, other in pairwise(numbers):
        link = text[number.end : other.start]
        # The sign of a number belongs to the link: "16 -3".
        signed = link + text[other.start : other.start + 1]
        if not _LINK.fullmatch(link or " ") or len(re.findall(r"[^\W\d_]+", link)) > _LINK_WORDS:
            break
        if "=" in link:
            if not calculated:
                break
            reached = other.value
        elif _OPERATOR.search(signed):
            calculated = True
        else:
            break
    return reached


def _direct(sentence: str, numbers: Sequence[Number], language: str) -> bool:
    between = re.sub(r"[^\w\s]", " ", sentence[: numbers[0].start])
    words = between.split()
    if language.split("-", 1)[0] in _NO_SPACES:
        if words or len(numbers) == 1:
            return not words
        # "12人で2,125円" continues to the answer; "18, 因为 ..." has given it, and "16-3=13" is a calculation.
        link = sentence[numbers[0].end : numbers[1].start]
        return _CLAUSE.search(link) is not None or _OPERATOR.search(link) is not None or "=" in link
    return len(words) <= _DIRECT_WORDS and len(between) <= 16
