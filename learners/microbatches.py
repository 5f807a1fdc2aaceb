"""A step in micro-batches: packed, as many on every rank, and the log-probabilities of answers read out of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from learners import distributed
from learners.batching import EncodedExample, split_over_ranks
from learners.packing import PackedBatch, pack

# Summed log-probabilities (nats) of an example's answers, by its id.
References = dict[str, tuple[float, ...]]
# Log-probabilities (nats, float32) of the single tokens of an example's answers, by its id.
TokenLogprobs = dict[str, tuple[np.ndarray, ...]]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A packed batch and the examples in it; without examples it only keeps this rank in step with the others.

    A group above the token budget is spread over several: each then has that example alone, and ``answers`` says which
    of its answers, from and up to.
    """

    batch: PackedBatch
    examples: tuple[EncodedExample, ...]
    answers: tuple[int, int] | None = None

    def sums(self, values: Tensor) -> list[Tensor]:
        """Summed log-probabilities of each example's answers that are here, ``[k]``, in the order of ``examples``."""
        return [torch.stack([answer.sum() for answer in answers]) for answers in self.by_token(values)]

    def by_token(self, values: Tensor) -> list[list[Tensor]]:
        """Log-probabilities of the tokens of each example's answers that are here, ``[|y|]`` each, likewise."""
        found: list[list[Tensor]] = [[] for _ in self.examples]
        # Split once: slices would each fill a gradient as long as all of them with zeros.
        parts = values.split([span.stop - span.start for span in self.batch.spans])
        ordered = sorted(zip(self.batch.spans, parts, strict=True), key=lambda one: (one[0].segment, one[0].completion))
        for span, part in ordered:
            found[span.segment].append(part)
        return found

    def tokens(self, values: Tensor, ids: frozenset[str]) -> TokenLogprobs:
        """The log-probabilities of each token of some of the examples."""
        found: dict[str, list[np.ndarray]] = {}
        for span in sorted(self.batch.spans, key=lambda span: (span.segment, span.completion)):
            if self.examples and (name := self.examples[span.segment].id) in ids:
                found.setdefault(name, []).append(values[span.start : span.stop].float().cpu().numpy())
        return {name: tuple(parts) for name, parts in found.items()}


def micro_batches(examples: Sequence[EncodedExample], budget: int) -> list[MicroBatch]:
    """This rank's share of a step, as many micro-batches as the rank with the most: the others' are filled up.

    ZeRO gathers and reduces in every pass, so a rank that ran fewer would leave the others waiting. Called by every
    rank with the same examples, at least one.
    """
    rank, world_size = distributed.world()
    mine = split_over_ranks(examples, world_size)[rank]
    micros = [
        MicroBatch(pack([piece], budget)[0], (one,), (first, first + len(piece.completions)))
        for one in mine
        if is_spread(one, budget)
        for first, piece in one.segment.pieces(budget)
    ]
    whole = [one for one in mine if not is_spread(one, budget)]
    for batch in pack([one.segment for one in whole], budget):
        members = sorted({span.segment for span in batch.spans})
        micros.append(MicroBatch(batch.renumbered(members), tuple(whole[index] for index in members)))
    longest = max(distributed.gather_objects(len(micros)))
    if len(micros) < longest:
        shortest = min(examples, key=lambda one: (one.segment.tokens, one.id))
        filler = MicroBatch(pack([shortest.segment], budget)[0], ())
        micros += [filler] * (longest - len(micros))
    return micros


def is_spread(one: EncodedExample, budget: int) -> bool:
    """Whether an example's answers are spread over several micro-batches: a group above the token budget.

    A pair stays together: its loss needs both answers at once.
    """
    return one.example.kind == "groups" and one.segment.tokens > budget and len(one.segment.completions) > 1


def score(
    scorer: Callable[[PackedBatch], Tensor],
    steps: Sequence[Sequence[EncodedExample]],
    budget: int,
    device: torch.device,
) -> References:
    """Summed log-probabilities of the answers of all examples of some steps, by id, on every rank.

    Given a step, the forward passes are exactly those that train it, so that the same weights give the same numbers to
    the last bit.
    """
    return score_tokens(scorer, steps, budget, device)[0]


@torch.no_grad()
def score_tokens(
    scorer: Callable[[PackedBatch], Tensor],
    steps: Sequence[Sequence[EncodedExample]],
    budget: int,
    device: torch.device,
    tokens_of: frozenset[str] = frozenset(),
) -> tuple[References, TokenLogprobs]:
    """As :func:`score`, and the single tokens' log-probabilities of the examples ``tokens_of``."""
    found: References = {}
    tokens: TokenLogprobs = {}
    for step in steps:
        for micro in micro_batches(step, budget):
            values = scorer(micro.batch.to(device))
            if micro.examples:
                for one, sums in zip(micro.examples, micro.sums(values), strict=True):
                    found[one.id] = found.get(one.id, ()) + tuple(sums.tolist())  # pieces of a group, in order
                for name, parts in micro.tokens(values, tokens_of).items():
                    tokens[name] = tokens.get(name, ()) + parts
    merged: References = {}
    merged_tokens: TokenLogprobs = {}
    for sums_part, tokens_part in distributed.gather_objects((found, tokens)):
        merged |= sums_part
        merged_tokens |= tokens_part
    return merged, merged_tokens
