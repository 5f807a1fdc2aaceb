"""Objectives by name, and what each takes and needs. A new one is a function, a line here and one in the config.

A name that is not here is a function of the user's own (docs/extending.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from configs.errors import UserError
from configs.learner import LearnerConfig
from configs.plugins import failure, load_plugin
from learners.objectives import pairs
from learners.objectives.inputs import ObjectiveSettings, PairLogprobs
from rollout.records import ExampleKind

FIELD = "learner.objective"


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
    "sigmoid_norm": PairObjective(pairs.sigmoid_norm),
}


@dataclass(frozen=True, slots=True)
class GroupObjective:
    """An objective over sample groups.

    Attributes:
        by_token: Whether it looks at the single tokens' log-probabilities, else at each answer's sum.
        needs_reference: Whether it uses summed log-probabilities of the loss reference, as the journal keeps them. The
            switches of ``group`` need them by token, which the learner computes when it trains.
    """

    by_token: bool
    needs_reference: bool


GROUPS: dict[str, GroupObjective] = {
    "rloo": GroupObjective(by_token=False, needs_reference=True),
    "group": GroupObjective(by_token=True, needs_reference=False),
}


def takes(name: str) -> ExampleKind:
    """What an objective trains on: ``pairs`` or ``groups``."""
    return "groups" if name in GROUPS else "pairs"


class ObjectiveFunction(Protocol):
    """What ``learner.objective`` names where it is a function of the user's own.

    Called on every rank with the pairs of a micro-batch. Attributes of the function: ``needs_reference`` (True by
    default) says whether it uses the log-probabilities of the loss reference.
    """

    def __call__(self, pairs: PairLogprobs, settings: ObjectiveSettings, **options: object) -> Tensor:
        """The loss of each pair.

        Args:
            pairs: Summed log-probabilities of ``P`` pairs; those of the policy carry gradients.
            settings: ``learner.beta``, ``learner.label_smoothing`` and so on.
            options: ``learner.objective_options``.

        Returns:
            ``[P]`` float32, finite, which the NLL term is added to (``learner.nll_weight``).
        """
        ...


@functools.cache
def pair_objective(name: str, digest: str | None = None) -> PairObjective:
    """An objective over pairs.

    Args:
        name: Of one in ``PAIR_OBJECTIVES``, or of a function of the user's own.
        digest: What the source of such a function must have, where that is known.

    Raises:
        UserError: It cannot be imported here.
    """
    if name in PAIR_OBJECTIVES:
        return PAIR_OBJECTIVES[name]
    plugin = load_plugin(name, FIELD, "isogloss.objectives", digest)

    def loss(given: PairLogprobs, settings: ObjectiveSettings) -> Tensor:
        try:
            found = plugin.call(given, settings, **settings.objective_options)
        except Exception as error:
            raise UserError(f"{plugin}: failed with {failure(error)}") from error
        expected = tuple(given.chosen.shape)
        if not isinstance(found, Tensor) or tuple(found.shape) != expected or not found.is_floating_point():
            shown = type(found).__name__
            if isinstance(found, Tensor):
                shown = f"a tensor {tuple(found.shape)} of {found.dtype}"
            raise UserError(f"{plugin}: returned {shown} for {len(given.chosen)} pairs; return one float a pair, [P]")
        return found

    uses = bool(getattr(plugin.call, "needs_reference", True))
    return PairObjective(loss, pairs.reference_rewards if uses else pairs.likelihood_rewards, needs_reference=uses)


def needs_reference(learner: LearnerConfig) -> bool:
    """Whether an objective uses summed log-probabilities of the loss reference, as the journal keeps them."""
    return (GROUPS.get(learner.objective) or pair_objective(learner.objective)).needs_reference
