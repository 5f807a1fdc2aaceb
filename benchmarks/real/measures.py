"""What is measured of an answer, and the paired differences between two systems' answers to the same prompts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.fidelity import answer_fidelity
from evaluation.stats import Delta, paired_bootstrap
from rollout.language import LanguageDetector, prose
from rollout.text_measures import echoed, known_words
from rollout.word_lists import word_test
from rollout.words import ngrams

SLICE_WORDS = 12
RESAMPLES = 2000
_WORD = re.compile(r"[^\W\d_]+")
# English function words that none of the other five languages has. A name or a term is no switch, these are.
_ENGLISH_WORDS = """
the and you your with this that these those which they them their there have been were would could should because about
from what when where people
"""
_ENGLISH = frozenset(_ENGLISH_WORDS.split())


@dataclass(frozen=True, slots=True)
class Measured:
    """One answer.

    Attributes:
        outcome: The detector's word for the whole: "right", "other" or "undecided".
        detected: The language that it found.
        wholly: Right, and neither a line nor a slice of 12 words is surely in another language.
        lines_pass: No line is surely in another language (LPR of the Language Confusion Benchmark, arXiv 2406.20052).
        words_pass: No English function word in it; where the language is not written in Latin letters, no word in them
            of two letters or more (WPR there). True for English.
        switches: Two lines are surely in different languages.
        characters: Length.
        distinct: Share of distinct word n-grams, n 1 to 3; 1 for an answer with fewer words.
        echo: Share of its word trigrams that stand in the prompt: 1 for an answer that says the question back.
        known: Share of its distinct words of two letters or more that the asked language's word list has (wordfreq's,
            which has common foreign words too); 1 for an answer without any, NaN for a language without a list. The
            last word, which may be cut off, does not count.
    """

    outcome: str
    detected: str | None
    wholly: bool
    lines_pass: bool
    words_pass: bool
    switches: bool
    characters: int
    distinct: tuple[float, float, float]
    echo: float
    known: float


def measure(text: str, prompt: str, language: str, detector: LanguageDetector) -> Measured:
    """Measure one answer.

    Args:
        text: The answer.
        prompt: The question.
        language: Asked for.
        detector: Over the languages of the run.
    """
    fidelity = answer_fidelity(text, language, detector)
    verdict = detector.judge(text, language)
    slices_pass = all(detector.judge(part, language).outcome != "other" for part in slices(text))
    return Measured(
        outcome=verdict.outcome,
        detected=verdict.code,
        wholly=verdict.outcome == "right" and fidelity.wrong_lines == 0 and slices_pass,
        lines_pass=fidelity.wrong_lines == 0,
        words_pass=_words_pass(text, language),
        switches=fidelity.switches,
        characters=len(text),
        distinct=(distinct(text, 1), distinct(text, 2), distinct(text, 3)),
        echo=echoed(prompt, text, 3),
        known=known(text, language),
    )


def slices(text: str) -> list[str]:
    """The answer's prose in pieces of ``SLICE_WORDS`` words; a rest of less than half of that joins the last one.

    None of an answer without prose: nothing, or code alone.
    """
    words = " ".join(prose(text)).split()
    if not words:
        return []
    starts = list(range(0, len(words), SLICE_WORDS))
    if len(starts) > 1 and len(words) - starts[-1] < SLICE_WORDS // 2:
        starts.pop()
    ends = [*starts[1:], len(words)]
    return [" ".join(words[start:end]) for start, end in zip(starts, ends, strict=True)]


def distinct(text: str, n: int) -> float:
    """Share of distinct ones among an answer's word n-grams, case folded; 1 where it has none."""
    words = [word.casefold() for word in _WORD.findall(text)]
    grams = ngrams(words, n)
    return len(set(grams)) / len(grams) if grams else 1.0


def known(text: str, language: str) -> float:
    """Share of an answer's distinct words that are words of the language, as ``Measured.known`` says."""
    is_word = word_test({}, language)
    return float("nan") if is_word is None else known_words(text, is_word, cut=True)[0]


def _words_pass(text: str, language: str) -> bool:
    if language == "en":
        return True
    words = _WORD.findall("\n".join(prose(text)))
    if language == "ru":
        return not any(len(word) > 1 and word.isascii() for word in words)
    return not any(word.casefold() in _ENGLISH for word in words)


def _says_back(measured: Measured) -> float:
    return float(measured.echo >= 0.5)


# name -> (heading, value of an answer, whether shown in per cent)
MEASURES: dict[str, tuple[str, Callable[[Measured], float], bool]] = {
    "right": ("in the asked language, %", lambda m: float(m.outcome == "right"), True),
    "other": ("in another language, %", lambda m: float(m.outcome == "other"), True),
    "undecided": ("language undecided, %", lambda m: float(m.outcome == "undecided"), True),
    "english": ("in English instead, %", lambda m: float(m.outcome == "other" and m.detected == "en"), True),
    "wholly": ("wholly in the asked language, %", lambda m: float(m.wholly), True),
    "lines": ("line pass rate, %", lambda m: float(m.lines_pass), True),
    "words": ("word pass rate, %", lambda m: float(m.words_pass), True),
    "switches": ("switches between lines, %", lambda m: float(m.switches), True),
    "characters": ("characters", lambda m: float(m.characters), False),
    "distinct1": ("distinct words, %", lambda m: m.distinct[0], True),
    "distinct2": ("distinct bigrams, %", lambda m: m.distinct[1], True),
    "distinct3": ("distinct trigrams, %", lambda m: m.distinct[2], True),
    "known": ("distinct words that are in the language's word list, %", lambda m: m.known, True),
    "echo": ("trigrams that the prompt has too, %", lambda m: m.echo, True),
    "says_back": ("answers that say the prompt back (half of their trigrams or more), %", _says_back, True),
}

System = Mapping[str, Sequence[Measured]]  # language -> measured answers, by prompt, in the same order for all


def values(system: System, languages: Sequence[str], name: str) -> NDArray[np.float64]:
    """(prompts, languages)."""
    value = MEASURES[name][1]
    return np.array([[value(measured) for measured in system[code]] for code in languages]).T


def told(system: System, languages: Sequence[str], name: str) -> list[str]:
    """Those of the languages that a measure can tell something of."""
    return [code for code in languages if not np.isnan(values(system, [code], name)).any()]


def difference(first: System, second: System, languages: Sequence[str], name: str) -> Delta:
    """``second`` less ``first`` over the same prompts: 95 % paired bootstrap, languages of a prompt kept together."""
    return paired_bootstrap(values(first, languages, name), values(second, languages, name), RESAMPLES, seed=0)


def halved(start: System, end: System, languages: Sequence[str], share: float) -> Delta:
    """Whether the answers in another language fell by at least ``share`` of what they were.

    Returns:
        Of ``(1 - share) * start - end``: above 0 where they did; its interval says how surely.
    """
    before, after = values(start, languages, "other"), values(end, languages, "other")
    return paired_bootstrap(after, (1 - share) * before, RESAMPLES, seed=0)
