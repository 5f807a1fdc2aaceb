"""What objectives are given: summed log-probabilities of answers, and the numbers of the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:  # so that the losses can be computed where the config's own library is missing (benchmarks/gpu_check)
    from configs.learner import GroupConfig, LearnerConfig


@dataclass(frozen=True, slots=True)
class PairLogprobs:
    """Summed log-probabilities of the answers of ``P`` pairs, ``[P]`` float32 each, nats, end of turn included.

    ``reference_*`` is None for objectives without a reference, ``*_tokens`` are the answers' lengths, and
    ``divergence`` is KTO's ``z0`` (nats), one number for all pairs of a step.
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor | None
    reference_rejected: Tensor | None
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    divergence: float = 0.0

    @property
    def chosen_ratio(self) -> Tensor:
        """``log pi(y_w|x) - log pi_ref(y_w|x)``."""
        return _ratio(self.chosen, self.reference_chosen)

    @property
    def rejected_ratio(self) -> Tensor:
        """``log pi(y_l|x) - log pi_ref(y_l|x)``."""
        return _ratio(self.rejected, self.reference_rejected)

    @property
    def ratio_difference(self) -> Tensor:
        """``h``, the argument of most objectives: chosen ratio less rejected ratio."""
        return self.chosen_ratio - self.rejected_ratio


def _ratio(logprob: Tensor, reference: Tensor | None) -> Tensor:
    if reference is None:
        raise ValueError("this objective needs reference log-probabilities; register it with needs_reference")
    return logprob - reference


@dataclass(frozen=True, slots=True)
class GroupLogprobs:
    """The ``k`` answers of one prompt, ``[k]`` float32 each: summed log-probabilities (nats) and rewards.

    ``current`` carries the gradient; ``old`` is the policy that the round began with, ``reference`` the loss
    reference.
    """

    current: Tensor
    old: Tensor
    reference: Tensor
    rewards: Tensor


@dataclass(frozen=True, slots=True)
class ObjectiveSettings:
    """Numbers that an objective may use: the fields of ``learner`` of the same names."""

    beta: float = 0.1
    label_smoothing: float = 0.0
    simpo_gamma: float = 0.5
    dpop_lambda: float = 50.0
    kto_desirable_weight: float = 1.0
    kto_undesirable_weight: float = 1.0
    rloo_kl_weight: float = 0.05
    rloo_clip: float = 0.2
    group: GroupConfig | None = None
    objective_options: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, learner: LearnerConfig) -> ObjectiveSettings:
        """The settings of a run."""
        return cls(**{name: getattr(learner, name) for name in cls.__dataclass_fields__})
