"""What a judge is asked, from the data files in ``wordings/``, and how its words are read."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.yaml12 import read_yaml
from judges.records import TIE

FOLDER = Path(__file__).parent / "wordings"
_THOUGHTS = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL)  # what a reasoning model says to itself


@dataclass(frozen=True)
class Wording:
    """One way of asking.

    Attributes:
        name: Of its file.
        version: Of its words.
        first: Label of the answer that is shown first.
        second: Label of the other.
        tie: Label of a tie; None if the judge must choose.
        verdict: Finds the label (group ``verdict``) in the judge's words.
        system: System message.
        question: User message; with the places language, instruction, first and second.
        again: User message after an answer that could not be read.
    """

    name: str
    version: int
    first: str
    second: str
    tie: str | None
    verdict: re.Pattern[str]
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

    def read_words(self, words: str) -> float | None:
        """1 if the judge prefers the answer shown first, 0 for the second, 0.5 for a tie, None if it can't be told."""
        found = list(self.verdict.finditer(_THOUGHTS.sub("", words).strip()))
        if not found:
            return None
        return self._values.get(found[-1]["verdict"].lower())

    def read_logprobs(self, positions: object) -> float | None:
        """Probability of the first label against the second, at the first token that is not white space.

        AlpacaEval 2's rule: a label that is not among the alternatives has probability 0.

        Args:
            positions: ``choices[0].logprobs.content`` of the response.

        Returns:
            None if the server gave none, or if that token is not a label (the judge then says something else).
        """
        position = next((p for p in _entries(positions) if str(p.get("token", "")).strip()), None)
        if position is None or self._label(position) is None:
            return None
        alternatives = {str(a.get("token")): a for a in [*_entries(position.get("top_logprobs")), position]}
        mass = {self.first: 0.0, self.second: 0.0}
        for alternative in alternatives.values():
            label, logprob = self._label(alternative), alternative.get("logprob")
            if label is not None and isinstance(logprob, int | float):
                mass[label] += math.exp(min(0.0, logprob))
        total = mass[self.first] + mass[self.second]
        return mass[self.first] / total if total > 0 else None

    def _label(self, position: Mapping[str, Any]) -> str | None:
        token = str(position.get("token", "")).strip()
        return token if token in (self.first, self.second) else None

    @property
    def _values(self) -> dict[str, float]:
        values = {self.first.lower(): 1.0, self.second.lower(): 0.0}
        return values if self.tie is None else {**values, self.tie.lower(): TIE}


@functools.cache
def load_wording(name: str) -> Wording:
    """Read ``wordings/<name>.yaml``."""
    raw = read_yaml(FOLDER / f"{name}.yaml", "judge's wording")
    pattern = re.compile(raw.pop("verdict"), re.IGNORECASE)
    return Wording(name=name, verdict=pattern, tie=raw.pop("tie", None), **raw)


def _entries(value: object) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


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
