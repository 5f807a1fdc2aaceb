"""What a judge is asked, from the data files in ``wordings/``, and how its words are read."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.yaml12 import read_yaml
from judges import verdicts
from judges.records import TIE
from judges.reply import Reply

FOLDER = Path(__file__).parent / "wordings"
_VALUES = {verdicts.FIRST: 1.0, verdicts.SECOND: 0.0, verdicts.EVEN: TIE}


@dataclass(frozen=True)
class Wording:
    """One way of asking.

    Attributes:
        name: Of its file.
        version: Of its words.
        reasons: The judge reasons before its verdict, which may be a tie; else its whole answer is the label.
        system: System message.
        question: User message; with the places language, instruction, first and second.
        again: User message after an answer that could not be read.
    """

    name: str
    version: int
    reasons: bool
    system: str
    question: str
    again: str

    def messages(self, language: str, instruction: str, first: str, second: str) -> list[dict[str, str]]:
        """The chat that asks for a verdict; ``language`` is an English name."""
        places = {"language": language, "instruction": instruction, "first": first, "second": second}
        return [
            {"role": "system", "content": self.system},
            {"role": "user", "content": self.question.format_map(places)},
        ]

    def reminded(self, messages: Sequence[Mapping[str, str]], words: str) -> list[dict[str, str]]:
        """The chat that asks again after ``words``, which could not be read."""
        return [
            *(dict(message) for message in messages),
            {"role": "assistant", "content": words},
            {"role": "user", "content": self.again},
        ]

    def read(self, reply: Reply, logprobs_only: bool = False) -> tuple[float, str] | None:
        """What a judge prefers.

        Args:
            reply: Its answer.
            logprobs_only: Words without log-probabilities do not count.

        Returns:
            (1 for the answer shown first, 0 for the second, 0.5 for a tie, or in between by the label's probability;
            where it was read: "logprobs" or "words"). None if it can't be told.
        """
        if not self.reasons:
            share = _probability(reply)
            if share is not None:
                return share, "logprobs"
        preference = None if logprobs_only else self.read_words(reply.words)
        return None if preference is None else (preference, "words")

    def read_words(self, words: str) -> float | None:
        """1 if the judge prefers the answer shown first, 0 for the second, 0.5 for a tie, None if it can't be told."""
        label = verdicts.last_verdict(words) if self.reasons else verdicts.whole_answer(words)
        return None if label is None else _VALUES[label]


def _probability(reply: Reply) -> float | None:
    """Probability of the first label against the second, at the first token that is not white space.

    It counts only where that label is the whole answer, and the tokens are the answer's: "A better answer is B" begins
    with a label too, and so may what a judge thinks. AlpacaEval 2's rule: a label that is not among the alternatives
    has probability 0.
    """
    said = verdicts.bare_label(reply.words)
    token = next((token for token in reply.logprobs if token.text.strip()), None)
    if said is None or token is None or _label(token.text) != said:
        return None
    if verdicts.bare_label("".join(token.text for token in reply.logprobs)) != said:
        return None
    mass = {verdicts.FIRST: 0.0, verdicts.SECOND: 0.0}
    for text, logprob in token.alternatives.items():
        label = _label(text)
        if label is not None:
            mass[label] += math.exp(min(0.0, logprob))
    total = mass[verdicts.FIRST] + mass[verdicts.SECOND]
    return mass[verdicts.FIRST] / total if total > 0 else None


def _label(token: str) -> str | None:
    """The label that a token is; a small letter may be the beginning of a word."""
    text = token.strip()
    return verdicts.bare_label(text) if len(text) == 1 and text != text.lower() else None


@functools.cache
def load_wording(name: str) -> Wording:
    """Read ``wordings/<name>.yaml``."""
    raw = read_yaml(FOLDER / f"{name}.yaml", "judge's wording")
    return Wording(name=name, **raw)


def merge_orders(a_first: float, b_first: float) -> tuple[float, bool]:
    """One preference from both orders of the answers.

    Args:
        a_first: Preference for the answer shown first, with a shown first.
        b_first: The same with b shown first.

    Returns:
        (preference for a, inconsistent): the mean of the two if both name the same winner or both a tie, otherwise a
        tie, which is inconsistent.
    """
    for_a = (a_first, 1 - b_first)
    sides = {(value > TIE) - (value < TIE) for value in for_a}
    if len(sides) > 1:
        return TIE, True
    return sum(for_a) / 2, False
