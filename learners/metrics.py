"""What is measured of every optimiser step, over all its pairs and for each language."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class PairStats:
    """One pair as it was seen in its step: nats, and tokens of the answers with their end of turn."""

    id: str
    language: str
    loss: float
    preference_loss: float
    nll: float
    chosen_logprob: float
    rejected_logprob: float
    chosen_reward: float
    rejected_reward: float
    chosen_tokens: int
    rejected_tokens: int

    @property
    def finite(self) -> bool:
        """Whether the loss is a number."""
        return math.isfinite(self.loss)


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One optimiser step. ``values`` is over all pairs, ``languages`` the same for each language."""

    round: int
    epoch: int
    step: int  # counted from 1 since the start of the run
    values: dict[str, float]
    languages: dict[str, dict[str, float]]
    grad_norm: float  # before clipping
    learning_rate: float
    tokens: int  # positions that went through the model, all ranks
    padding_saved: float  # 1 - tokens / (positions of one padded row per answer)
    micro_batches: int  # of each rank
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON lines."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RoundMetrics:
    """A round of training."""

    round: int
    pairs: int
    seconds: float
    steps: list[StepMetrics] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON lines."""
        return asdict(self)


def summarise(stats: Sequence[PairStats]) -> dict[str, float]:
    """Means over pairs: losses, implicit rewards, their margin and accuracy, log-probabilities, lengths.

    ``accuracy`` is the share of pairs whose chosen answer has the higher implicit reward; a tie counts half.
    """

    def mean(values: Sequence[float]) -> float:
        return math.fsum(values) / len(values)

    wins = [
        0.5 if one.chosen_reward == one.rejected_reward else float(one.chosen_reward > one.rejected_reward)
        for one in stats
    ]
    return {
        "pairs": float(len(stats)),
        "loss": mean([one.loss for one in stats]),
        "preference_loss": mean([one.preference_loss for one in stats]),
        "nll": mean([one.nll for one in stats]),
        "reward_chosen": mean([one.chosen_reward for one in stats]),
        "reward_rejected": mean([one.rejected_reward for one in stats]),
        "reward_margin": mean([one.chosen_reward - one.rejected_reward for one in stats]),
        "reward_accuracy": mean(wins),
        "logprob_chosen": mean([one.chosen_logprob for one in stats]),
        "logprob_rejected": mean([one.rejected_logprob for one in stats]),
        "tokens_chosen": mean([float(one.chosen_tokens) for one in stats]),
        "tokens_rejected": mean([float(one.rejected_tokens) for one in stats]),
    }


def by_language(stats: Sequence[PairStats]) -> dict[str, dict[str, float]]:
    """``summarise`` of each language's pairs, languages sorted."""
    codes = sorted({one.language for one in stats})
    return {code: summarise([one for one in stats if one.language == code]) for code in codes}
