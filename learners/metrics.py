"""What is measured of every optimiser step, over all its examples and for each language.

Of pairs: ``loss`` (all terms), ``preference_loss``, ``nll``, the objective's implicit rewards ``reward_chosen``,
``reward_rejected``, ``reward_margin`` and ``reward_accuracy`` (share of pairs whose chosen answer has the higher one; a
tie counts half), ``logprob_*`` (nats) and ``tokens_*`` of both answers, end of turn included; KTO's ``z0`` as
``divergence``, of the whole step only. Of groups (RLOO), as means over answers: ``loss``, ``reward_mean``,
``reward_std`` (within a group), ``advantage_abs``, ``ratio`` to the policy that the round began with,
``clip_fraction``, ``logprob``, ``tokens``.

``kl_reference`` is the mean over answers of ``log pi(y|x) - log pi_ref(y|x)`` of whole answers, nats a sequence: the
plain one-sample estimator of ``KL(pi || pi_ref)``, unbiased for answers sampled from ``pi`` itself. Answers here are of
the policy that was sampled from, selected (pairs) or replayed (anchors), so it may be negative: read it as how far
training has moved them. What an objective has not got is absent: ``simpo`` and ``cpo`` have no ``kl_reference``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from configs.json_types import JsonObject

# Figures that are counts: summed where others are averaged.
COUNTS = ("pairs", "groups", "answers")


@dataclass(frozen=True, slots=True)
class ExampleStats:
    """One pair or group as it was seen in its step; ``figures`` are means over its answers, nats and tokens."""

    id: str
    language: str
    kind: str  # "pairs" or "groups"
    answers: int
    units: int  # its weight in means: 1 for a pair, the number of answers for a group
    positions: int  # that went through the model
    figures: dict[str, float]

    @property
    def finite(self) -> bool:
        """Whether the loss is a number."""
        return math.isfinite(self.figures["loss"])


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One optimiser step. ``values`` is over all examples, ``languages`` the same for each language."""

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

    def as_dict(self) -> JsonObject:
        """Plain data for JSON lines."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RoundMetrics:
    """A round of training; ``pairs`` counts its examples, which are groups for RLOO."""

    round: int
    pairs: int
    seconds: float
    steps: list[StepMetrics] = field(default_factory=list)

    def as_dict(self) -> JsonObject:
        """Plain data for JSON lines."""
        return asdict(self)


def summarise(stats: Sequence[ExampleStats], seconds: float) -> dict[str, float]:
    """Counts, the means of all figures over the examples, and ``tokens_per_second`` of a step of ``seconds``.

    A group's figures are means over its answers and weigh as much as it has answers.
    ``tokens_per_second`` counts the positions that these examples put through the model, all ranks together: those of
    the languages add up to that of the step.
    """
    units = sum(one.units for one in stats)
    found = {stats[0].kind: float(len(stats))}
    if stats[0].kind == "groups":
        found["answers"] = float(sum(one.answers for one in stats))
    for name in stats[0].figures:
        found[name] = math.fsum(one.figures[name] * one.units for one in stats) / units
    return {**found, "tokens_per_second": sum(one.positions for one in stats) / seconds}


def by_language(stats: Sequence[ExampleStats], seconds: float) -> dict[str, dict[str, float]]:
    """``summarise`` of each language's examples, languages sorted."""
    codes = sorted({one.language for one in stats})
    return {code: summarise([one for one in stats if one.language == code], seconds) for code in codes}


def weight(row: dict[str, float]) -> float:
    """How much a row of ``summarise`` weighs in a mean over several: its pairs, or its groups' answers."""
    return row["pairs"] if "pairs" in row else row["answers"]
