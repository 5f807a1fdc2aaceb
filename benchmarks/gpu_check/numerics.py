"""Whether the device computes the same as the CPU, and what bfloat16 costs."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, PreTrainedConfig, PreTrainedModel, Qwen3Config

from benchmarks.gpu_check.machine import Device
from benchmarks.gpu_check.result import Found
from benchmarks.gpu_check.work import Ours, Plain, Shape, one_rank, random_model, random_pairs, shifted
from learners.batching import EncodedExample
from learners.microbatches import References
from learners.objectives.inputs import ObjectiveSettings, PairLogprobs
from learners.objectives.registry import PAIR_OBJECTIVES

_SMALL: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "initializer_range": 0.08,
}


def families() -> dict[str, PreTrainedConfig]:
    """Small models whose attention differs: grouped, in a window everywhere or in some layers, with normed queries."""
    return {
        "Llama": LlamaConfig(**_SMALL, num_hidden_layers=3, tie_word_embeddings=True),
        "Mistral, window 48": MistralConfig(**_SMALL, num_hidden_layers=3, sliding_window=48),
        "Qwen3": Qwen3Config(**_SMALL, num_hidden_layers=3, tie_word_embeddings=False),
        "Gemma 3, window 48 in 5 of 6": Gemma3TextConfig(**_SMALL, num_hidden_layers=6, sliding_window=48),
    }


def attention_and_losses(device: Device, pairs: int = 24) -> Found:
    """Packed log-probabilities, every loss and the gradient in float32: the device against the CPU."""
    torch.backends.cuda.matmul.allow_tf32 = False
    found = Found(
        (
            "model",
            "log-prob., nats",
            "against unpacked",
            "losses, relative",
            "gradient, relative",
            "bfloat16: by its own attention, nats",
            "with a dense mask",
        )
    )
    cpu = torch.device("cpu")
    with one_rank():
        for name, config in families().items():
            on_cpu = random_model(config, torch.float32, cpu)
            there = copy.deepcopy(on_cpu).to(device.torch)  # type: ignore[arg-type]
            examples = random_pairs(pairs, config.vocab_size, 40, 60)
            known = Ours(on_cpu, 1024).score(examples)
            packed, unpacked = Ours(there, 1024).score(examples), Plain(there, 8).score(examples)
            references = shifted(known)
            loss = max(
                _apart(_losses(name_, packed, references, examples), _losses(name_, known, references, examples))
                for name_ in PAIR_OBJECTIVES
            )
            gradient = _gradients_apart(on_cpu, there, examples, references)
            nats = (_most(packed, known), _most(packed, unpacked))
            coarse = _in_bfloat16(there, examples, known)
            found.rows.append((name, *(f"{value:.1e}" for value in (*nats, loss, gradient, *coarse))))
            found.check(f"{name}: log-probabilities of answers, nats", nats[0], 5e-3)
            found.check(f"{name}: against unpacked rows, nats", nats[1], 5e-3)
            found.check(f"{name}: losses", loss, 1e-3)
            found.check(f"{name}: gradient", gradient, 1e-3)
            # Rounding is the same in either way; what is wrong in one would be far outside of it.
            found.check(f"{name}: bfloat16, its own attention over a dense mask", coarse[0] / coarse[1], 1.5)
    found.notes.append(
        f"{pairs} pairs, sums over answers of 60 tokens in the mean; the worst of {len(PAIR_OBJECTIVES)} objectives"
    )
    return found


def _in_bfloat16(model: PreTrainedModel, examples: Sequence[EncodedExample], known: References) -> tuple[float, float]:
    """Mean distance of the answers' log-probabilities from ``known``, nats: as the learner computes, and masked."""
    rounded = copy.deepcopy(model).to(torch.bfloat16)  # type: ignore[arg-type]
    found = []
    for masked in (False, True):
        way = Ours(rounded, 1024)
        way.model.by_runs = way.model.by_runs and not masked
        scored = way.score(examples)
        apart = [abs(a - b) for name, row in scored.items() for a, b in zip(row, known[name], strict=True)]
        found.append(sum(apart) / len(apart))
    return found[0], found[1]


def _most(ours: References, theirs: References) -> float:
    return max(abs(a - b) for name, row in ours.items() for a, b in zip(row, theirs[name], strict=True))


def _apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def _losses(objective: str, values: References, references: References, examples: Sequence[EncodedExample]) -> Tensor:
    names = [one.id for one in examples]
    chosen, rejected = torch.tensor([values[name] for name in names]).T
    known = torch.tensor([references[name] for name in names]).T
    lengths = torch.tensor([[len(ids) for ids in one.segment.completions] for one in examples]).T
    pairs = PairLogprobs(chosen, rejected, known[0], known[1], lengths[0], lengths[1], 0.1)
    return PAIR_OBJECTIVES[objective].loss(pairs, ObjectiveSettings())


def _gradients_apart(
    on_cpu: PreTrainedModel, there: PreTrainedModel, examples: Sequence[EncodedExample], references: References
) -> float:
    sides = []
    for model in (on_cpu, there):
        Ours(model, 1024).gradients(examples, references)
        sides.append(torch.cat([one.grad.flatten().cpu() for one in model.parameters() if one.grad is not None]))
    return _apart(sides[1], sides[0])


def bfloat16(device: Device, shape: Shape, pairs: int = 64) -> Found:
    """The first loss and the order of rewards in bfloat16, against float32 on the same device."""
    torch.backends.cuda.matmul.allow_tf32 = False
    found = Found(("what", "float32", "bfloat16"))
    with one_rank():
        examples = random_pairs(pairs, shape.vocabulary, 64, 128)
        policies = {"float32": random_model(shape.config(), torch.float32, device.torch)}
        references = {"float32": copy.deepcopy(policies["float32"])}
        _move(policies["float32"])
        for side in (policies, references):
            side["bfloat16"] = copy.deepcopy(side["float32"]).to(torch.bfloat16)  # type: ignore[arg-type]
        own, other, rewards = {}, {}, {}
        for kind, policy in policies.items():
            ours = Ours(policy, 4096)
            scored = ours.score(examples)
            own[kind] = float(ours.gradients(examples, scored)) - math.log(2)
            policy.zero_grad(set_to_none=True)
            # What a sampler would report: the same weights, other shapes.
            other[kind] = float(ours.gradients(examples, Plain(policy, 8).score(examples))) - math.log(2)
            policy.zero_grad(set_to_none=True)
            base = Ours(references[kind], 4096).score(examples)
            rewards[kind] = [a - b for one in examples for a, b in zip(scored[one.id], base[one.id], strict=True)]
        rank = spearman(rewards["bfloat16"], rewards["float32"])
        found.rows += [
            ("first loss less ln 2, own reference", *(f"{own[kind]:+.1e}" for kind in policies)),
            ("the same, reference from unpacked rows", *(f"{other[kind]:+.1e}" for kind in policies)),
            ("rewards, standard deviation in nats", *(f"{_spread(rewards[kind]):.2f}" for kind in policies)),
            ("rank correlation of rewards", "", f"{rank:.4f}"),
        ]
        for kind in policies:
            found.check(f"first loss from ln 2, {kind}", abs(own[kind]), 1e-6)
        found.check("first loss from ln 2, reference from unpacked rows, float32", abs(other["float32"]), 1e-3)
        found.check("first loss from ln 2, reference from unpacked rows, bfloat16", abs(other["bfloat16"]), 5e-3)
        found.check("rank correlation of rewards", rank, 0.95, at_least=True)
    found.notes.append(f"{shape.name} parameters, {2 * pairs} answers of 128 tokens in the mean; weights moved by 2 %")
    return found


@torch.no_grad()
def _move(model: PreTrainedModel, share: float = 0.02) -> None:
    torch.manual_seed(1)
    for one in model.parameters():
        if one.dim() > 1:
            one.add_(torch.randn_like(one) * one.std() * share)


def _spread(values: Sequence[float]) -> float:
    return float(torch.tensor(values).std())


def spearman(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's rank correlation; ties keep their order, which does not matter for real numbers of rewards."""
    ranks = torch.stack([torch.tensor(side).argsort().argsort().double() for side in (left, right)])
    return float(torch.corrcoef(ranks)[0, 1])
