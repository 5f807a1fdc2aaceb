"""Objectives over pairs by name, and what each needs. A new one is a function, a line here and one in the config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from learners.objectives import pairs
from learners.objectives.inputs import ObjectiveSettings, PairLogprobs

GROUP_OBJECTIVE = "rloo"  # the one that takes groups; all others take pairs


@dataclass(frozen=True, slots=True)
class PairObjective:
    """An objective over pairs.

    Attributes:
        loss: Loss of each pair.
        rewards: Implicit rewards of chosen and rejected, which the metrics compare.
        needs_reference: Whether it uses the reference's log-probabilities; if not, they are not computed.
        needs_divergence: Whether it uses ``PairLogprobs.divergence``.
    """

    loss: Callable[[PairLogprobs, ObjectiveSettings], Tensor]
    rewards: Callable[[PairLogprobs, float], tuple[Tensor, Tensor]] = pairs.reference_rewards
    needs_reference: bool = True
    needs_divergence: bool = False


PAIR_OBJECTIVES: dict[str, PairObjective] = {
    "sigmoid": PairObjective(pairs.sigmoid),
    "robust": PairObjective(pairs.robust),
    "ipo": PairObjective(pairs.ipo),
    "ipo_mean": PairObjective(pairs.ipo_mean),
    "hinge": PairObjective(pairs.hinge),
    "simpo": PairObjective(pairs.simpo, pairs.mean_likelihood_rewards, needs_reference=False),
    "cpo": PairObjective(pairs.cpo, pairs.likelihood_rewards, needs_reference=False),
    "kto": PairObjective(pairs.kto, needs_divergence=True),
    "dpop": PairObjective(pairs.dpop),
    "apo_zero": PairObjective(pairs.apo_zero),
    "apo_down": PairObjective(pairs.apo_down),
}


def needs_reference(objective: str) -> bool:
    """Whether an objective uses log-probabilities of the loss reference."""
    return objective == GROUP_OBJECTIVE or PAIR_OBJECTIVES[objective].needs_reference
