"""The answers that were sampled in training: how long they are, how much they repeat themselves, in which language.

This needs no held-out prompts: every run with candidates has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evaluation.fidelity import UNSURE

_PIECE = 12  # characters
_MEASURED = 400  # answers of a round and language whose repetition is measured


@dataclass(slots=True)
class AnswerTotals:
    """Of one round and language.

    Attributes:
        answers: Sampled ones.
        characters: Of all of them.
        repeated: Sum of :func:`repetition` over the ``measured`` ones, the first in the journal.
        measured: At most 400.
    """

    answers: int = 0
    characters: int = 0
    repeated: float = 0.0
    measured: int = 0

    def add(self, text: str) -> None:
        """Count an answer."""
        self.answers += 1
        self.characters += len(text)
        if self.measured < _MEASURED:
            self.measured += 1
            self.repeated += repetition(text)

    @property
    def length(self) -> float:
        """Mean characters."""
        return self.characters / self.answers

    @property
    def repetition(self) -> float:
        """Mean share of repeated text, per cent."""
        return 100 * self.repeated / self.measured


def repetition(text: str) -> float:
    """The share of an answer's pieces of twelve characters that stand in it earlier too, 0 to 1: a loop is near 1.

    Characters, so that it means the same in scripts without spaces.
    """
    text = " ".join(text.split())
    count = len(text) - _PIECE + 1
    return 1 - len({text[place : place + _PIECE] for place in range(count)}) / count if count > 0 else 0.0


def right_share(row: Mapping[str, int], asked: str) -> float | None:
    """Share of the decided answers that are in the language asked for, per cent; None if none was decided."""
    decided = sum(count for name, count in row.items() if name != UNSURE)
    return 100 * row.get(asked, 0) / decided if decided else None


def curves(rounds: Mapping[int, Mapping[str, float | None]], codes: Iterable[str]) -> dict[str, dict[int, float]]:
    """Language -> round -> value, of round -> language -> value; what is not known is left out."""
    out: dict[str, dict[int, float]] = {}
    for code in codes:
        points = {round_number: value for round_number, row in rounds.items() if (value := row.get(code)) is not None}
        if points:
            out[code] = points
    return out
