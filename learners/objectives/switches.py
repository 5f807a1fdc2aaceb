"""Objectives over groups as switches (``learner.group``): advantage, ratio, aggregation, clipping, divergence. Pure.

The loss of a step is ``sum_i c_i sum_t l_it`` over its answers ``i`` and their tokens ``t`` (end of turn included):

    l_it = -min(q_it A_i, clip(q_it, 1 - low, 1 + high) A_i) + w k3_it
    q_it = exp(log pi(y_it) - log pi_old(y_it))        ratio token
         = exp(mean_t of that)                         ratio sequence_mean (GSPO, arXiv 2507.18071, equation 7)
         = exp(sum_t of that)                          ratio sequence (RLOO, arXiv 2402.14740)
    c_i  = 1 / (N |y_i|), 1 / T, 1 / (N L)             aggregate sequence, token, constant

with ``N`` answers and ``T`` tokens in the step, all ranks together, and ``L`` ``learner.group.length``. GRPO
(arXiv 2402.03300) is group_z, token, sequence, k3; Dr. GRPO (2503.20783) group_mean, token, constant, off; DAPO's loss
(2503.14476) group_z, token, token, off with ``high`` above ``low``; GSPO group_z, sequence_mean, sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from learners.objectives.groups import LARGEST_EXPONENT, leave_one_out

if TYPE_CHECKING:  # see ``inputs``
    from configs.learner import GroupConfig

_EPSILON = 1e-4  # beside a standard deviation, as in TRL


@dataclass(frozen=True, slots=True)
class StepTotals:
    """What of a whole step, all ranks together, a group's loss depends on.

    Attributes:
        answers: ``N``.
        tokens: ``T``.
        deviation: Sample standard deviation of the rewards of all answers (``batch_z``).
    """

    answers: int
    tokens: int
    deviation: float


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """The ``k`` answers of one prompt: log-probabilities of their tokens, ``[|y_i|]`` float32 each, nats; rewards [k].

    ``reference`` is None without a divergence.
    """

    current: Sequence[Tensor]
    old: Sequence[Tensor]
    reference: Sequence[Tensor] | None
    rewards: Tensor


@dataclass(frozen=True, slots=True)
class GroupLoss:
    """A group's part of the loss.

    Attributes:
        losses: ``N c_i sum_t l_it`` of each answer, ``[k]``: their mean over all answers of a step is its loss.
        advantages: ``A_i``, ``[k]``.
        ratios: Mean ``q_it`` of each answer, ``[k]``.
        clipped: Share of each answer's tokens (of the answer itself, for sequence ratios) whose gradient the clipping
            cuts off, ``[k]``.
    """

    losses: Tensor
    advantages: Tensor
    ratios: Tensor
    clipped: Tensor


def advantages(group: TokenGroup, switches: GroupConfig, totals: StepTotals) -> Tensor:
    """Advantages of a group, ``[k]``, detached."""
    rewards = group.rewards
    if switches.kl == "reward":
        assert group.reference is not None, "a divergence needs the reference"
        moved = [(now.detach() - then).sum() for now, then in zip(group.current, group.reference, strict=True)]
        rewards = rewards - switches.kl_weight * torch.stack(moved)
    if switches.advantage == "loo":
        return leave_one_out(rewards)
    centred = rewards - rewards.mean()
    if switches.advantage == "group_mean":
        return centred
    deviation = rewards.std() if switches.advantage == "group_z" else totals.deviation
    return centred / (deviation + _EPSILON)


def group_loss(group: TokenGroup, switches: GroupConfig, totals: StepTotals) -> GroupLoss:
    """The loss of a group's answers (see the module)."""
    found = advantages(group, switches, totals)
    low, high = 1 - switches.clip_low, 1 + switches.clip_high
    losses, ratios, clipped = [], [], []
    for index, (now, then) in enumerate(zip(group.current, group.old, strict=True)):
        advantage, ratio = found[index], _ratio(now - then, switches.ratio)
        per_token = -torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage).expand(len(now))
        if switches.kl == "k3":
            assert group.reference is not None, "a divergence needs the reference"
            per_token = per_token + switches.kl_weight * _k3(group.reference[index] - now)
        losses.append(per_token.sum() * _weight(len(now), switches, totals))
        with torch.no_grad():
            ratios.append(ratio.mean())
            cut = ((ratio > high) & (advantage > 0)) | ((ratio < low) & (advantage < 0))
            clipped.append(cut.float().mean())
    return GroupLoss(torch.stack(losses), found, torch.stack(ratios), torch.stack(clipped))


def _ratio(moved: Tensor, kind: str) -> Tensor:
    """``[|y|]`` for tokens, ``[1]`` for a whole answer; the exponent is bounded (see ``groups.importance``)."""
    if kind == "sequence":
        moved = moved.sum()[None]
    elif kind == "sequence_mean":
        moved = moved.mean()[None]
    return torch.exp(moved.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT))


def _k3(behind: Tensor) -> Tensor:
    """Schulman's k3, ``exp(d) - d - 1`` with ``d = log pi_ref - log pi``: estimates the divergence, at least 0."""
    bounded = behind.clamp(max=LARGEST_EXPONENT)
    return torch.exp(bounded) - bounded - 1


def _weight(tokens: int, switches: GroupConfig, totals: StepTotals) -> float:
    """``N c_i``."""
    if switches.aggregate == "sequence":
        return 1 / tokens
    if switches.aggregate == "token":
        return totals.answers / totals.tokens
    assert switches.length is not None, "the config is validated"
    return 1 / switches.length
