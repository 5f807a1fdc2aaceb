"""Rewards that need the text of answer and prompt alone: language, repetition, echo, words, length, form. Pure."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from typing import Literal

from configs.measures import (
    EchoMeasure,
    FormatMeasure,
    LanguageMeasure,
    LengthMeasure,
    Measure,
    OverlongMeasure,
    RepetitionMeasure,
    WordsMeasure,
)
from rollout.language import LanguageDetector, answer_part, prose
from rollout.records import Candidate
from rollout.word_lists import IsWord, word_test
from rollout.words import characters, is_unspaced, ngrams, of_letters, words

_CHARACTERS_A_WORD = 3  # of scripts that put no spaces between words, in a slice
_UNDECIDED = 0.5  # of an answer whose language cannot be told: even odds

Measured = tuple[float, dict[str, float]]  # the reward, and what it was made of


def text_measure(
    measure: Measure, prompt: str, candidate: Candidate, detector: LanguageDetector, max_new_tokens: int
) -> Measured | None:
    """Reward of a candidate by its text; None if the measure is of another kind.

    Args:
        measure: What is measured.
        prompt: The user's last turn.
        candidate: The answer.
        detector: Of the run's languages.
        max_new_tokens: Tokens at which answers are cut off.
    """
    text = answer_part(candidate.text)
    match measure:
        case LanguageMeasure():
            return language_confidence(detector, text, candidate.key.language, measure.slice_words)
        case RepetitionMeasure():
            return unrepeated(text, measure.ngram, measure.longest_loop)
        case EchoMeasure():
            return 1 - echoed(prompt, text, measure.ngram), {}
        case WordsMeasure():
            code, cut = candidate.key.language, candidate.finish_reason == "length"
            return known_words(text, word_test(measure.files, code), cut, code)
        case LengthMeasure():
            lengths = {"words": len(words(text)), "characters": len(text), "tokens": len(candidate.token_ids)}
            length = lengths[measure.unit]
            return within_length(length, measure.low, measure.high), {"length": float(length)}
        case OverlongMeasure():
            longest = measure.longest or max_new_tokens
            return overlong(len(candidate.token_ids), candidate.finish_reason, longest, measure.buffer), {}
        case FormatMeasure():
            return float(_compiled(measure.pattern).search(text) is not None), {}
    return None


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.DOTALL)


def known_words(text: str, is_word: IsWord | None, cut: bool, language: str = "") -> Measured:
    """Share of a text's distinct words of two letters or more that are words; 1 where there is none.

    ``parts`` counts the "words" that were looked up.

    Args:
        text: An answer.
        is_word: Told of a word as :func:`rollout.words.words` gives it; without it every text is worth 1.
        cut: Whether the last word may be cut off, so that it does not count.
        language: As for :func:`rollout.words.words`.
    """
    found = words(text, language)
    if is_word is None:
        return 1.0, {"words": 0.0}
    distinct = {word for word in (found[:-1] if cut else found) if of_letters(word)}
    return (sum(map(is_word, distinct)) / len(distinct) if distinct else 1.0), {"words": float(len(distinct))}


def slices(text: str, slice_words: int) -> list[str]:
    """As many consecutive pieces of about equal length as have at least ``slice_words`` words each; at least one.

    Of scripts without spaces, three times as many characters. Pieces are not shorter, since short ones are easily taken
    for a neighbouring language.
    """
    parts: Sequence[str] = text.split()
    size, glue = slice_words, " "
    if sum(map(is_unspaced, text)) > sum(char.isalpha() for char in text) / 2:
        parts, size, glue = " ".join(parts), slice_words * _CHARACTERS_A_WORD, ""
    if not parts:
        return []
    count = max(1, len(parts) // size)
    ends = [index * len(parts) // count for index in range(count + 1)]
    return [glue.join(parts[start:stop]) for start, stop in itertools.pairwise(ends)]


def language_confidence(detector: LanguageDetector, text: str, expected: str, slice_words: int) -> Measured:
    """Mean confidence, over the slices of a text, that it is in ``expected``.

    Slices that cannot be told (too short, no letters) are left out; where none can be told the answer is worth 0.5.
    ``parts`` counts the "slices" and those "undecided".
    """
    pieces = slices("\n".join(prose(text)), slice_words)
    found = [detector.confidence(piece, expected) for piece in pieces]
    told = [value for value in found if value is not None]
    parts = {"slices": float(len(found)), "undecided": float(len(found) - len(told))}
    return (sum(told) / len(told) if told else _UNDECIDED), parts


def unrepeated(text: str, ngram: int, longest_loop: int) -> Measured:
    """Share of distinct n-grams less the share of words in loops, -1 to 1; 1 for a text shorter than an n-gram.

    A loop is a run of words that is there at least three times, one after the other: its words count from the second
    time on. Distinct n-grams alone forgive a short loop at the end of a long text. ``parts`` has both shares. Of a text
    without words, such as a row of emoji, characters are taken.
    """
    found = words(text) or characters(text)
    grams = ngrams(found, ngram)
    distinct = len(set(grams)) / len(grams) if grams else 1.0
    looped = sum(_looped(found, longest_loop)) / len(found) if found else 0.0
    return distinct - looped, {"distinct": distinct, "loops": looped}


def echoed(prompt: str, text: str, ngram: int) -> float:
    """Share of the answer's n-grams of words that stand in the prompt; of an answer shorter than that, its whole."""
    found = words(text)
    if not found:
        return 0.0
    size = min(ngram, len(found))
    known, grams = set(ngrams(words(prompt), size)), ngrams(found, size)
    return sum(gram in known for gram in grams) / len(grams)


def _looped(found: Sequence[str], longest: int) -> list[bool]:
    """Whether each word repeats an earlier time of a loop."""
    marks = [False] * len(found)
    for period in range(1, min(longest, len(found) // 3) + 1):
        run = 0  # words that equal the one a period before, in a row
        for place in range(period, len(found) + 1):
            if place < len(found) and found[place] == found[place - period]:
                run += 1
                continue
            if run >= 2 * period:
                marks[place - run : place] = [True] * run
            run = 0
    return marks


def within_length(length: int, low: int | None, high: int | None) -> float:
    """1 from ``low`` to ``high``; ``length / low`` below; above, falling to 0 at twice ``high``."""
    if low is not None and length < low:
        return length / low
    if high is not None and length > high:
        return max(0.0, 1 - (length - high) / high)
    return 1.0


def overlong(tokens: int, finish_reason: Literal["stop", "length"], longest: int, buffer: int) -> float:
    """The soft penalty of DAPO (arXiv 2503.14476, equation 13): 0, falling to -1 over the last ``buffer`` tokens.

    An answer that was cut off is as long as it could be.
    """
    if finish_reason == "length" or tokens > longest:
        return -1.0
    return min(0.0, (longest - buffer - tokens) / buffer)
