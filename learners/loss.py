"""From the log-probabilities of a micro-batch to its share of the loss, and what is noted of every example."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from learners.batching import EncodedExample
from learners.metrics import ExampleStats
from learners.microbatches import MicroBatch, References, TokenLogprobs
from learners.objectives import groups, switches
from learners.objectives.inputs import GroupLogprobs, ObjectiveSettings, PairLogprobs
from learners.objectives.pairs import mean_nll
from learners.objectives.registry import GROUPS, pair_objective
from rollout.records import SampleGroup


@dataclass(frozen=True, slots=True)
class StepInputs:
    """Numbers that a step's loss needs beside the present policy's, without gradient; by example id.

    Attributes:
        reference: Under the loss reference; empty for an objective without one.
        old: Under the policy that the round began with (RLOO).
        divergence: KTO's ``z0`` of the step, nats.
        old_tokens: ``old`` by token (the switches of ``group``).
        reference_tokens: ``reference`` by token; empty without a divergence.
        totals: Of the step (the switches of ``group``).
    """

    reference: References = field(default_factory=dict)
    old: References = field(default_factory=dict)
    divergence: float = 0.0
    old_tokens: TokenLogprobs = field(default_factory=dict)
    reference_tokens: TokenLogprobs = field(default_factory=dict)
    totals: switches.StepTotals | None = None


def losses(
    micro: MicroBatch,
    values: Tensor,
    inputs: StepInputs,
    objective: str,
    settings: ObjectiveSettings,
    *,
    nll_weight: float,
) -> tuple[Tensor, list[ExampleStats]]:
    """Sum of the losses of a micro-batch's examples, each times its ``units``, and the examples' figures."""
    if (group := GROUPS.get(objective)) is None:
        return _pairs(micro, values, inputs, objective, settings, nll_weight=nll_weight)
    if group.by_token:
        tokens = zip(micro.examples, micro.by_token(values), strict=True)
        parts = [_switched(one, answers, inputs, settings) for one, answers in tokens]
    else:
        sums = zip(micro.examples, micro.sums(values), strict=True)
        parts = [_group(one, answers, inputs, settings) for one, answers in sums]
    return torch.stack([loss for loss, _ in parts]).sum(), [stats for _, stats in parts]


def spread_loss(
    micro: MicroBatch,
    values: Tensor,
    inputs: StepInputs,
    current: References | TokenLogprobs,
    objective: str,
    *,
    settings: ObjectiveSettings,
) -> tuple[Tensor, list[ExampleStats]]:
    """What has the gradients of a group's loss by those of its answers that are in a micro-batch; see ``is_spread``.

    The loss of an answer depends on all answers of its group, so it is taken at their log-probabilities as they were
    computed beforehand (``current``), and its slopes are applied to those that carry a gradient.

    Returns:
        The sum to go backward from (not the loss), and the group's figures with its first answers.
    """
    assert micro.answers is not None
    (one,), (begin, end) = micro.examples, micro.answers
    if not GROUPS[objective].by_token:
        sums = torch.tensor(current[one.id], device=values.device, requires_grad=True)
        loss, stats = _group(one, sums, inputs, settings)
        (slopes,) = torch.autograd.grad(loss, sums)
        (own,) = micro.sums(values)
        return (slopes[begin:end] * own).sum(), [stats] if begin == 0 else []
    tokens = [torch.tensor(answer, device=values.device, requires_grad=True) for answer in current[one.id]]
    loss, stats = _switched(one, tokens, inputs, settings)
    by_token = torch.autograd.grad(loss, tokens)[begin:end]
    (parts,) = micro.by_token(values)
    total = torch.stack([(slope * part).sum() for slope, part in zip(by_token, parts, strict=True)]).sum()
    return total, [stats] if begin == 0 else []


def _pairs(
    micro: MicroBatch, values: Tensor, inputs: StepInputs, name: str, settings: ObjectiveSettings, *, nll_weight: float
) -> tuple[Tensor, list[ExampleStats]]:
    objective = pair_objective(name)
    chosen, rejected = torch.stack(micro.sums(values)).T
    lengths = torch.tensor([[len(ids) for ids in one.segment.completions] for one in micro.examples])
    chosen_tokens, rejected_tokens = lengths.to(values.device).T
    reference: tuple[Tensor | None, Tensor | None] = (None, None)
    if objective.needs_reference:
        found = torch.tensor([inputs.reference[one.id] for one in micro.examples], device=values.device)
        reference = (found[:, 0], found[:, 1])
    pairs = PairLogprobs(chosen, rejected, *reference, chosen_tokens, rejected_tokens, inputs.divergence)
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


def _group(
    one: EncodedExample, sums: Tensor, inputs: StepInputs, settings: ObjectiveSettings
) -> tuple[Tensor, ExampleStats]:
    assert isinstance(one.example, SampleGroup)
    group = GroupLogprobs(
        sums,
        torch.tensor(inputs.old[one.id], device=sums.device),
        torch.tensor(inputs.reference[one.id], device=sums.device),
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


def _switched(
    one: EncodedExample, current: list[Tensor], inputs: StepInputs, settings: ObjectiveSettings
) -> tuple[Tensor, ExampleStats]:
    """A group's part of the loss under the switches of ``learner.group``."""
    assert isinstance(one.example, SampleGroup)
    assert inputs.totals is not None, "the step has them"
    assert settings.group is not None, "so has the config"
    device = current[0].device

    def tensors(values: tuple[np.ndarray, ...]) -> list[Tensor]:
        return [torch.tensor(answer, device=device) for answer in values]

    reference = tensors(inputs.reference_tokens[one.id]) if inputs.reference_tokens else None
    rewards = torch.tensor(one.example.rewards, device=device)
    group = switches.TokenGroup(current, tensors(inputs.old_tokens[one.id]), reference, rewards)
    found = switches.group_loss(group, settings.group, inputs.totals)
    with torch.no_grad():
        sums = torch.stack([answer.sum() for answer in current])
        figures = {
            "loss": found.losses.mean(),
            "reward_mean": rewards.mean(),
            "reward_std": rewards.std(correction=0),
            "advantage_abs": found.advantages.abs().mean(),
            "ratio": found.ratios.mean(),
            "clip_fraction": found.clipped.mean(),
            "logprob": sums.mean(),
        }
        if reference is not None:
            figures["kl_reference"] = (sums - torch.stack([answer.sum() for answer in reference])).mean()
    tokens = one.segment.targets / len(one.segment.completions)
    named = {**{name: value.item() for name, value in figures.items()}, "tokens": tokens}
    return found.losses.sum(), _stats(one, named)


def _stats(one: EncodedExample, figures: dict[str, float]) -> ExampleStats:
    answers = len(one.segment.completions)
    return ExampleStats(one.id, one.example.language, one.example.kind, answers, one.units, one.segment.tokens, figures)
