"""RLOO: the objective over groups, all answers to one prompt with their rewards."""

from __future__ import annotations

import torch
from torch import Tensor

from learners.objectives.inputs import GroupLogprobs, ObjectiveSettings

# Nats. exp of it is 5e8, far beyond any clipping, and a loss and gradients of that size are still finite in float32.
LARGEST_EXPONENT = 20.0


def leave_one_out(rewards: Tensor) -> Tensor:
    """``A_i = r_i - mean of the other k - 1 rewards``, ``[k]`` -> ``[k]``, ``k`` at least 2.

    Ahmadian et al. 2024 (arXiv 2402.14740), the RLOO estimator.
    """
    return rewards - (rewards.sum() - rewards) / (len(rewards) - 1)


def advantages(group: GroupLogprobs, settings: ObjectiveSettings) -> Tensor:
    """Leave-one-out advantages of ``r - w (log pi - log pi_ref)``, ``[k]``, detached.

    The reward that RLHF maximises (arXiv 2402.14740), ``w`` being ``learner.rloo_kl_weight``. ``pi`` is the
    present policy: against the policy of the round's start the penalty would be 0 wherever that is the reference.
    """
    penalty = settings.rloo_kl_weight * (group.current.detach() - group.reference)
    return leave_one_out(group.rewards - penalty)


def importance(group: GroupLogprobs) -> Tensor:
    """``q = exp(log pi - log pi_old)`` of each answer, ``[k]``; its exponent is bounded to 20 nats either way.

    Sums over whole answers can move further in a round than float32 has exponents for (88 nats). Beyond the bound an
    answer has no gradient: where the clipping does not cut it off already (a much likelier answer that is worse than
    the others), its gradient would be all there is of the step.
    """
    return torch.exp((group.current - group.old).clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT))


def rloo(group: GroupLogprobs, settings: ObjectiveSettings) -> Tensor:
    """Loss of each answer, ``[k]``: ``-min(q A, clip(q, 1 - c, 1 + c) A)`` with ``q = exp(log pi - log pi_old)``.

    Whole answers are the actions (arXiv 2402.14740). ``pi_old`` is the policy that the round began with:
    in the round's first step ``q = 1`` and the gradient is REINFORCE's, ``-A grad log pi``; in later ones the clipped
    ratio (PPO, arXiv 1707.06347, equation 7) corrects for the policy having moved. ``c`` is ``learner.rloo_clip``.
    """
    advantage = advantages(group, settings)
    ratio = importance(group)
    clipped = ratio.clamp(1 - settings.rloo_clip, 1 + settings.rloo_clip)
    return -torch.minimum(ratio * advantage, clipped * advantage)


def is_clipped(group: GroupLogprobs, settings: ObjectiveSettings) -> Tensor:
    """Whether an answer's gradient is cut off by the clipping, ``[k]`` bool."""
    advantage, ratio = advantages(group, settings), importance(group).detach()
    high = (ratio > 1 + settings.rloo_clip) & (advantage > 0)
    return high | ((ratio < 1 - settings.rloo_clip) & (advantage < 0))
