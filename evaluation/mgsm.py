"""Grade-school maths in many languages (MGSM): the answer in a text, accuracy, and answers in the wrong language."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from evaluation.numbers import Number, find_numbers, normalise, parse_number
from evaluation.stats import wilson
from rollout.detect import LanguageDetector

How = Literal["boxed", "hashes", "phrase", "bold", "last", "none"]

# What announces an answer. All languages at once: models announce in English inside other languages too.
_PHRASES = (
    r"(?:final |correct )?answer(?:\s+is|\s*:)|^\W*answer\b",
    r"(?:Antwort|Lösung|Ergebnis|Endergebnis)(?:\s+(?:ist|lautet|beträgt))?\s*(?::|=|ist\b|lautet\b|\*)",
    r"(?:respuesta|resultado|solución)(?:\s+(?:final|correcta))?\s*(?:\*\*)?\s*(?::|es\b|=)",
    r"(?:réponse|résultat|solution)(?:\s+(?:finale|correcte))?\s*(?:\*\*)?\s*(?::|est\b|=)",
    r"(?:risposta|risultato)(?:\s+finale)?\s*(?::|è\b)|(?:resposta|resultado)(?:\s+final)?\s*(?::|é\b)",
    r"(?:итоговый\s+)?ответ\s*(?:\*\*)?\s*(?::|[-–—]|равен\b|=)",
    r"jibu(?:\s+(?:ni|la mwisho ni|sahihi ni|la mwisho))?\s*(?::|ni\b)|jibu ni\b",
    r"答案(?:\s*[:是为為])|答\s*:|答え\s*[:はが]|答えは|回答\s*:",
    r"(?:정답|답)\s*(?::|은|는)",
    r"คำตอบ\s*(?:คือ|:|เท่ากับ)|ตอบ\s*:?",
    r"উত্তর\s*(?::|হল|হলো|হচ্ছে|ঃ)|উত্তরঃ",
    r"(?:సమాధానం|జవాబు)\s*:?",
    r"(?:الجواب|الإجابة|الاجابة)(?:\s+(?:النهائية|النهائي|الصحيحة))?\s*(?::|هو|هي)",
    r"उत्तर\s*(?::|है)?",
)
_PHRASE = re.compile("|".join(f"(?:{p})" for p in _PHRASES), re.IGNORECASE | re.MULTILINE)
_HASHES = re.compile(r"^\s*#{4}[ \t]*(?P<rest>\S.*)$", re.MULTILINE)
_HEADING = re.compile(r"\d+\s*[.):]\s+\D|[^\d]*[^\W\d_]{3}[^\d]*\d")  # "1. Add" or "Step 2": no answer
_BOXED = re.compile(r"\\boxed\s*\{")
_BOLD = re.compile(r"\*\*(.+?)\*\*")
_SENTENCE_END = re.compile(r"(?<!\d)[.!?](?=\s|$)|(?<=\d)[.!?](?=\s+\D|\s*$)|[。！？।؟\n]")
_DIRECT_WORDS = 1  # that may stand between the announcement and its number ("is only 18")
_NO_SPACES = ("ja", "zh")  # words can't be counted there; the last number outside brackets is taken


@dataclass(frozen=True, slots=True)
class Extraction:
    """The answer that a text gives and what gave it away; None if the text has no number."""

    value: Fraction | None
    how: How


@dataclass(frozen=True, slots=True)
class MgsmAnswer:
    """One answer to one problem; ``gold`` is the number as the data set writes it, such as "2,125"."""

    item: str
    language: str
    text: str
    gold: str


@dataclass(frozen=True, slots=True)
class MgsmResult:
    """One language.

    Attributes:
        accuracy: Share of answers whose number is the gold one.
        ci95: Wilson's interval.
        items: Answers.
        no_answer: Answers without any number; they count as wrong.
        off_target: Share of the answers in a decided language that are in another one; None if none was decided.
        unsure: Answers whose language was not decided; in neither part of that share.
        how: Answers by what gave the number away.
    """

    accuracy: float
    ci95: tuple[float, float]
    items: int
    no_answer: int
    off_target: float | None
    unsure: int
    how: dict[str, int]


def extract_answer(text: str, language: str) -> Extraction:
    r"""The number that a solution ends in.

    By precedence: the last ``\boxed{}``; the last ``####`` line that is no heading; the last announcement ("the answer
    is", in any language); a bold number in the last paragraph with numbers; the last number.

    Args:
        text: A solution, written in any language.
        language: That the answer should be in; decides what separators mean.
    """
    text = normalise(text)
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


def score_mgsm(answers: Sequence[MgsmAnswer], detector: LanguageDetector) -> dict[str, MgsmResult]:
    """Accuracy and off-target rate by language.

    Raises:
        ValueError: An item occurs twice in a language, or a gold answer is no number.
    """
    if len({(a.language, a.item) for a in answers}) != len(answers):
        raise ValueError("an item occurs twice in one language")
    groups: dict[str, list[MgsmAnswer]] = {}
    for answer in answers:
        groups.setdefault(answer.language, []).append(answer)
    out: dict[str, MgsmResult] = {}
    for code, rows in sorted(groups.items()):
        right = sum(is_right(row.text, row.gold, code) for row in rows)
        how = Counter(extract_answer(row.text, code).how for row in rows)
        detected = [detector.detect(row.text, code) for row in rows]
        decided = [language for language in detected if language is not None]
        out[code] = MgsmResult(
            accuracy=right / len(rows),
            ci95=wilson(right, len(rows)),
            items=len(rows),
            no_answer=how["none"],
            off_target=sum(language != code for language in decided) / len(decided) if decided else None,
            unsure=len(rows) - len(decided),
            how=dict(sorted(how.items())),
        )
    return out


def _boxed(text: str, language: str) -> Fraction | None:
    for found in reversed(list(_BOXED.finditer(text))):
        depth, end = 1, found.end()
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        numbers = list(find_numbers(text[found.end() : end - 1 if not depth else end], language))
        if numbers:
            return numbers[-1].value
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
    for found in reversed(list(_PHRASE.finditer(text))):
        rest = text[found.end() :].lstrip(" :*\n\t")
        end = next((m.start() for m in _SENTENCE_END.finditer(rest) if m.start() > 0), len(rest))
        value = _chosen(rest[:end], language)
        if value is not None:
            return value
    return None


def _bold(text: str, language: str) -> Fraction | None:
    for paragraph in reversed(text.splitlines()):
        if next(find_numbers(paragraph, language), None) is None:
            continue
        bold = [list(find_numbers(found[1], language)) for found in _BOLD.finditer(paragraph)]
        return next((numbers[-1].value for numbers in reversed(bold) if numbers), None)
    return None


def _chosen(sentence: str, language: str) -> Fraction | None:
    """Of the numbers of an announcing sentence: what a calculation comes to, else the first if it follows at once,
    else the last."""
    numbers = list(find_numbers(sentence, language))
    if not numbers:
        return None
    equals = sentence.rfind("=")
    after = [number for number in numbers if number.start > equals]
    if equals >= 0 and after:
        return after[0].value
    if language.split("-", 1)[0] in _NO_SPACES:
        numbers = list(find_numbers(re.sub(r"\(.*?\)", "", sentence), language)) or numbers
        return numbers[-1].value
    return numbers[0].value if _direct(sentence, numbers[0]) else numbers[-1].value


def _direct(sentence: str, number: Number) -> bool:
    between = re.sub(r"[^\w\s]", " ", sentence[: number.start])
    return len(between.split()) <= _DIRECT_WORDS and len(between) <= 16
