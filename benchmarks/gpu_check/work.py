"""The same DPO step twice: as the learner computes it, and as plain Transformers do. Random models, no files."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel

from learners.batching import EncodedExample
from learners.logprobs import LogprobModel
from learners.loss import StepInputs, losses
from learners.microbatches import References, micro_batches
from learners.objectives.inputs import ObjectiveSettings
from learners.packing import Segment
from rollout.records import Pair

BETA = 0.1
MAX_NORM = 1.0


@dataclass(frozen=True)
class Shape:
    """A Llama's measures."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = True  # input and output embeddings, as in models of up to 3 B

    def config(self) -> LlamaConfig:
        """As Transformers has it."""
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=4096,
            tie_word_embeddings=self.tied,
        )


def random_model(config: PreTrainedConfig, dtype: torch.dtype, device: torch.device, seed: int = 0) -> PreTrainedModel:
    """A model with seeded random weights."""
    torch.manual_seed(seed)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval()


def parameters_of(model: nn.Module) -> int:
    """Weights, shared ones once."""
    return sum(one.numel() for one in model.parameters())


def random_pairs(count: int, vocabulary: int, prompt: int, answer: int, seed: int = 0) -> list[EncodedExample]:
    """Pairs of random tokens; lengths are log-normal with these means, as those of instructions and answers are."""
    draw = random.Random(seed)

    def tokens(mean: float) -> tuple[int, ...]:
        length = max(2, min(4 * round(mean), round(mean * draw.lognormvariate(-0.125, 0.5))))
        return tuple(draw.randrange(vocabulary) for _ in range(length))

    found = []
    for number in range(count):
        segment = Segment(tokens(prompt), (tokens(answer), tokens(answer)))
        name = f"p{number:05d}"
        pair = Pair(name, 1, name, "en", "offline", "", "", "", chosen_score=1.0, rejected_score=0.0, weight_version=0)
        found.append(EncodedExample(pair, segment))
    return found


@contextmanager
def one_rank() -> Iterator[None]:
    """A process group of this process alone, which the learner's functions ask for their rank."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = dist.HashStore()  # type: ignore[attr-defined]  # documented, and missing from __all__
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


class Optimiser:
    """AdamW in float32; where the weights are not, over a float32 copy of them, as mixed precision has it."""

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float) -> None:
        self.parameters: list[torch.Tensor] = list(parameters)
        self._mixed = self.parameters[0].dtype != torch.float32
        self._masters = [one.detach().float() for one in self.parameters] if self._mixed else self.parameters
        self._adam = torch.optim.AdamW(self._masters, lr=rate, weight_decay=0.0, fused=True)

    def step(self) -> float:
        """Clip and apply the gradients; the norm before clipping."""
        if self._mixed:
            for master, one in zip(self._masters, self.parameters, strict=True):
                assert one.grad is not None
                master.grad, one.grad = one.grad.float(), None
        norm = nn.utils.clip_grad_norm_(self._masters, MAX_NORM)
        self._adam.step()
        if self._mixed:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self._masters)
        self._adam.zero_grad(set_to_none=True)
        return float(norm)


@dataclass(frozen=True)
class Step:
    """Loss (mean over pairs) and gradient norm of an optimiser step."""

    loss: float
    norm: float


class Way(Protocol):
    """A way to compute a step."""

    def gradients(self, examples: Sequence[EncodedExample], references: References) -> Tensor:
        """Accumulate the gradients of a step; its loss, without waiting for the device."""

    def score(self, examples: Sequence[EncodedExample]) -> References:
        """Summed log-probabilities of both answers, by id."""


class Ours:
    """The learner's own functions without DeepSpeed: packed rows that share prompts, tiles over the vocabulary."""

    def __init__(self, model: PreTrainedModel, budget: int, chunk: int = 1024) -> None:
        self.model = LogprobModel(model, chunk)
        self.budget = budget
        self.device = next(model.parameters()).device

    def gradients(self, examples: Sequence[EncodedExample], references: References) -> Tensor:
        known, total = StepInputs(references), torch.zeros((), device=self.device)
        for micro in micro_batches(examples, self.budget):
            values = self.model(micro.batch.to(self.device))
            loss, _ = losses(micro, values, known, "sigmoid", ObjectiveSettings(beta=BETA), nll_weight=0.0)
            (loss / len(examples)).backward()
            total += loss.detach() / len(examples)
        return total

    @torch.no_grad()
    def score(self, examples: Sequence[EncodedExample]) -> References:
        found: References = {}
        for micro in micro_batches(examples, self.budget):
            sums = micro.sums(self.model(micro.batch.to(self.device)))
            found |= {one.id: tuple(values.tolist()) for one, values in zip(micro.examples, sums, strict=True)}
        return found


class Plain:
    """Transformers as they come: a padded row an answer, logits of every position, pairs sorted by length."""

    def __init__(self, model: PreTrainedModel, pairs: int) -> None:
        self.model = model
        self.pairs = pairs
        self.device = next(model.parameters()).device

    def gradients(self, examples: Sequence[EncodedExample], references: References) -> Tensor:
        total = torch.zeros((), device=self.device)
        for part in self._parts(examples):
            chosen, rejected = self._sums(part).view(-1, 2).T
            known = torch.tensor([references[one.id] for one in part], device=self.device)
            margins = (chosen - known[:, 0]) - (rejected - known[:, 1])
            loss = -logsigmoid(BETA * margins).sum() / len(examples)
            loss.backward()
            total += loss.detach()
        return total

    @torch.no_grad()
    def score(self, examples: Sequence[EncodedExample]) -> References:
        found: References = {}
        for part in self._parts(examples):
            rows = self._sums(part).view(-1, 2).tolist()
            found |= {one.id: (row[0], row[1]) for one, row in zip(part, rows, strict=True)}
        return found

    def _parts(self, examples: Sequence[EncodedExample]) -> list[list[EncodedExample]]:
        ordered = sorted(examples, key=lambda one: -one.segment.longest)
        return [ordered[start : start + self.pairs] for start in range(0, len(ordered), self.pairs)]

    def _sums(self, part: Sequence[EncodedExample]) -> Tensor:
        rows = [(one.segment.prompt_ids, answer) for one in part for answer in one.segment.completions]
        length = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        there = torch.zeros_like(ids)
        labels = torch.full_like(ids, -100)
        for number, (prompt, answer) in enumerate(rows):
            end = len(prompt) + len(answer)
            ids[number, :end] = torch.tensor(prompt + answer)
            there[number, :end] = 1
            labels[number, len(prompt) : end] = ids[number, len(prompt) : end]
        ids, there, labels = ids.to(self.device), there.to(self.device), labels.to(self.device)
        logits = self.model(input_ids=ids, attention_mask=there, use_cache=False).logits[:, :-1]
        nll = cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100, reduction="none")
        return -nll.view(len(rows), -1).sum(dim=1)


def shifted(references: References, spread: float = 1.0, seed: int = 0) -> References:
    """References that differ from the policy by some nats, so that losses and margins are not all the same."""
    draw = random.Random(seed)
    return {name: tuple(value + draw.gauss(0, spread) for value in values) for name, values in references.items()}
