"""From the log-probabilities of a micro-batch to its share of the loss, and what is noted of every example."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from learners.metrics import ExampleStats
from learners.micro import MicroBatch, References
from learners.objectives import groups
from learners.objectives.inputs import GroupLogprobs, ObjectiveSettings, PairLogprobs
from learners.objectives.pairs import mean_nll
from learners.objectives.registry import GROUP_OBJECTIVE, PAIR_OBJECTIVES
from learners.schedule import EncodedExample
from rollout.records import Pair, SampleGroup


@dataclass(frozen=True, slots=True)
class Known:
    """Numbers that a step's loss needs beside the present policy's, without gradient; by example id.

    Attributes:
        reference: Under the loss reference; empty for an objective without one.
        old: Under the policy that the round began with (RLOO).
        divergence: KTO's ``z0`` of the step, nats.
    """

    reference: References = field(default_factory=dict)
    old: References = field(default_factory=dict)
    divergence: float = 0.0


def losses(
    micro: MicroBatch, values: Tensor, known: Known, objective: str, settings: ObjectiveSettings, nll_weight: float
) -> tuple[Tensor, list[ExampleStats]]:
    """Sum of the losses of a micro-batch's examples, each times its ``units``, and the examples' figures."""
    if objective == GROUP_OBJECTIVE:
        parts = [
            _group(one, sums, known, settings) for one, sums in zip(micro.examples, micro.sums(values), strict=True)
        ]
        return torch.stack([loss for loss, _ in parts]).sum(), [stats for _, stats in parts]
    return _pairs(micro, values, known, objective, settings, nll_weight)


def spread_loss(
    micro: MicroBatch, values: Tensor, known: Known, current: References, settings: ObjectiveSettings
) -> tuple[Tensor, list[ExampleStats]]:
    """What has the gradients of a group's loss by those of its answers that are in a micro-batch; see ``is_spread``.

    The loss of an answer depends on all answers of its group, so it is taken at their log-probabilities as they were
    computed beforehand (``current``), and its slopes are applied to those that carry a gradient.

    Returns:
        The sum to go backward from (not the loss), and the group's figures with its first answers.
    """
    assert micro.answers is not None
    (one,), (begin, end) = micro.examples, micro.answers
    sums = torch.tensor(current[one.id], device=values.device, requires_grad=True)
    loss, stats = _group(one, sums, known, settings)
    (slopes,) = torch.autograd.grad(loss, sums)
    (own,) = micro.sums(values)
    return (slopes[begin:end] * own).sum(), [stats] if begin == 0 else []


def _pairs(
    micro: MicroBatch, values: Tensor, known: Known, name: str, settings: ObjectiveSettings, nll_weight: float
) -> tuple[Tensor, list[ExampleStats]]:
    objective = PAIR_OBJECTIVES[name]
    chosen, rejected = torch.stack(micro.sums(values)).T
    lengths = torch.tensor([[len(ids) for ids in one.segment.completions] for one in micro.examples])
    chosen_tokens, rejected_tokens = lengths.to(values.device).T
    reference: tuple[Tensor | None, Tensor | None] = (None, None)
    if objective.needs_reference:
        found = torch.tensor([known.reference[one.id] for one in micro.examples], device=values.device)
        reference = (found[:, 0], found[:, 1])
    pairs = PairLogprobs(chosen, rejected, *reference, chosen_tokens, rejected_tokens, known.divergence)
    preference = objective.loss(pairs, settings)
    nll = mean_nll(chosen, chosen_tokens)
    total = preference + nll_weight * nll
    good, bad = objective.rewards(pairs, settings.beta)
    columns = {
        "loss": total,
        "preference_loss": preference,
        "nll": nll,
        "reward_chosen": good,
        "reward_rejected": bad,
        "reward_margin": good - bad,
        "reward_accuracy": ((good - bad).sign() + 1) / 2,  # a tie counts half
        "logprob_chosen": chosen,
        "logprob_rejected": rejected,
        "tokens_chosen": chosen_tokens,
        "tokens_rejected": rejected_tokens,
    }
    if objective.needs_reference:
        columns["kl_reference"] = (pairs.chosen_ratio + pairs.rejected_ratio) / 2
    rows = torch.stack([column.detach().float() for column in columns.values()]).T.tolist()
    stats = [_stats(one, dict(zip(columns, row, strict=True))) for one, row in zip(micro.examples, rows, strict=True)]
    return total.sum(), stats


def _group(one: EncodedExample, sums: Tensor, known: Known, settings: ObjectiveSettings) -> tuple[Tensor, ExampleStats]:
    assert isinstance(one.example, SampleGroup)
    group = GroupLogprobs(
        sums,
        torch.tensor(known.old[one.id], device=sums.device),
        torch.tensor(known.reference[one.id], device=sums.device),
        torch.tensor(one.example.rewards, device=sums.device),
    )
    loss = groups.rloo(group, settings)
    with torch.no_grad():
        figures = {
            "loss": loss.mean(),
            "reward_mean": group.rewards.mean(),
            "reward_std": group.rewards.std(correction=0),
            "advantage_abs": groups.advantages(group, settings).abs().mean(),
            "kl_reference": (sums - group.reference).mean(),
            "ratio": groups.importance(group).mean(),
            "clip_fraction": groups.is_clipped(group, settings).float().mean(),
            "logprob": sums.mean(),
        }
    tokens = one.segment.targets / len(one.segment.completions)
    return loss.sum(), _stats(one, {**{name: value.item() for name, value in figures.items()}, "tokens": tokens})


def _stats(one: EncodedExample, figures: dict[str, float]) -> ExampleStats:
    kind = "pairs" if isinstance(one.example, Pair) else "groups"
    answers = len(one.segment.completions)
    return ExampleStats(one.id, one.example.language, kind, answers, one.units, one.segment.tokens, figures)
