"""What a miner sees of one prompt, and what it answers. Plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from rollout.language import answer_part, normalised
from rollout.records import Candidate


class Slot(NamedTuple):
    """Whose answer a candidate stands for: ``origin`` is the language that it was first given in."""

    source: str
    origin: str
    sample: int


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """The candidates of one prompt that may enter a pair, sorted by key.

    Attributes:
        prompt_id: Of the prompt.
        language: Of the prompt, and of all candidates; "" where candidates of all languages are pooled.
        candidates: Those that passed the gates (and, where the run scores, have a reward).
        rewards: After length control, one a candidate; empty where the run scores nothing.
        bound: Rewards at or above it cannot be chosen; None without a bound.
        slots: One a candidate. Its key's, except where an answer stands in for its translation.
        barred: Whether each candidate is too odd to be chosen (``pairs.fluency_floor``); empty without a floor.
        blocked: Why this prompt can give no pair whatever its candidates are; None if it can.
    """

    prompt_id: str
    language: str
    candidates: tuple[Candidate, ...]
    rewards: tuple[float, ...]
    bound: float | None = None
    slots: tuple[Slot, ...] = ()
    blocked: str | None = None
    barred: tuple[bool, ...] = ()


class Choice(NamedTuple):
    """A pair, as places in ``PromptGroup.candidates``. ``suffix`` tells the pairs of a prompt apart in their ids."""

    chosen: int
    rejected: int
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What a prompt gave.

    Attributes:
        choices: Its pairs.
        refused: Reason -> how many pairs it could have given besides.
        compared: Pairs whose sides the sources decided and which have rewards too.
        disagreeing: Those of them in which the chosen answer has no higher reward.
    """

    choices: tuple[Choice, ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)
    compared: int = 0
    disagreeing: int = 0


Miner = Callable[[PromptGroup], Found]


def text_compared(candidate: Candidate) -> str:
    """What two candidates are equal in: their answers without reasoning, in one spelling of the same characters."""
    return normalised(answer_part(candidate.text))


def numbered(place: int, per_prompt: int) -> str:
    """Suffix of a prompt's pair number ``place`` of at most ``per_prompt``; none where there is one a prompt."""
    return "" if per_prompt == 1 else f"/{place:02d}"
