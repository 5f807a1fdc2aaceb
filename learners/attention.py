"""Attention over packed segments on a CPU: none of it is computed where nobody looks.

A packed row holds segments, and a token sees its own prompt and its own completion (``learners.packing``). A dense mask
over the row computes the square of its length and throws most of it away. Here a segment is taken apart instead:

- its prompt and first completion are one causal sequence;
- all further completions look at the prompt together, and each at itself causally; the two are merged by their
  log-sum-exponentials, as in FlashAttention (arXiv 2205.14135, section 3.1).

Short segments are not worth the calls: neighbours of them share a small dense mask. Forward passes, and backward passes
in float32, are PyTorch's flash kernel for CPUs. In bfloat16 its backward pass is several times slower than the same
products as batched matrix products, which are what is used there.

Models call it as an attention function of Transformers; without a ``PackedMask`` it is plain SDPA.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from learners.packing import PackedBatch, visible

NAME = "isogloss_packed"

# Query-key pairs that take as long as one more call of a kernel (measured: 60 us a call; a pair about 15 ns for 9 heads
# of 64 and 18 ns, under a mask, for 4 of 32, forward).
_PAIRS_PER_CALL = 4096

# Queries whose scores are held at once in the bfloat16 backward pass.
_CHUNK = 256

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, slots=True)
class Split:
    """A segment that is taken apart; positions count from the start of the packed sequence."""

    start: int  # of the prompt
    prompt: int  # where it ends
    first: int  # where the first completion ends, and the others begin
    others: tuple[tuple[int, int], ...]

    @property
    def stop(self) -> int:
        """Where the segment ends."""
        return self.others[-1][1] if self.others else self.first


@dataclass(frozen=True, slots=True)
class Shared:
    """Neighbouring segments under one dense mask."""

    start: int
    stop: int
    mask: Tensor  # [1, 1, T, T] bool
    _additive: dict[torch.dtype, Tensor] = field(default_factory=dict)

    def additive(self, dtype: torch.dtype) -> Tensor:
        """The mask as the kernel takes it: 0 where a key is seen, else minus infinity. Made once for all layers."""
        if dtype not in self._additive:
            hidden = torch.zeros(self.mask.shape, dtype=dtype)
            self._additive[dtype] = hidden.masked_fill_(~self.mask, -torch.inf)
        return self._additive[dtype]


Layout = tuple[Split | Shared, ...]


class PackedMask(Tensor):
    """What goes through a model in place of a mask; the model hands it on untouched."""

    units: Layout

    @staticmethod
    def of(layout: Layout) -> PackedMask:
        """A mask that says how a batch without padding is laid out."""
        mask: PackedMask = torch.zeros(1, 1, 1, 1).as_subclass(PackedMask)
        mask.units = layout
        return mask


def layout_of(batch: PackedBatch, window: int | None = None) -> Layout:
    """How the segments of a batch without padding (one row) are computed.

    Segments are gone through in their order. Each is taken apart, or joins its neighbours under their mask, or begins
    a mask of its own: whichever adds the least.

    Args:
        batch: On the CPU.
        window: Sliding window in tokens; segments that are longer get a dense mask.
    """
    segment, branch, position = batch.segment_ids[0], batch.branch_ids[0], batch.position_ids[0]
    found: list[Split | Shared] = []
    pending: tuple[int, int] | None = None  # short segments that will share a mask

    def share() -> None:
        nonlocal pending
        if pending is not None:
            part = slice(*pending)
            mask = visible(segment[None, part], branch[None, part], position[None, part], window)
            found.append(Shared(*pending, mask))
            pending = None

    for one, longest in _segments(batch):
        size = one.stop - one.start
        apart = _apart(one) if window is None or longest <= window else None
        alone = size**2 + _PAIRS_PER_CALL
        joined = size * (size + 2 * (pending[1] - pending[0])) if pending is not None else alone
        if apart is not None and apart <= min(alone, joined):
            share()
            found.append(one)
            continue
        if joined > alone:
            share()
        pending = (one.start if pending is None else pending[0], one.stop)
    share()
    return tuple(found)


def _segments(batch: PackedBatch) -> Iterator[tuple[Split, int]]:
    """Each segment taken apart, and the tokens of its prompt with its longest completion."""
    runs, counts = torch.unique_consecutive(
        torch.stack((batch.segment_ids[0], batch.branch_ids[0])), dim=1, return_counts=True
    )
    starts = [0, *counts.cumsum(0).tolist()]
    owners, branches = runs.tolist()
    at = 0
    while at < len(owners):
        end = at + 1
        while end < len(owners) and owners[end] == owners[at] and branches[end] > branches[end - 1]:
            end += 1
        bounds = [(starts[k], starts[k + 1]) for k in range(at + 1, end)]
        start, prompt = starts[at], starts[at + 1]
        longest = prompt - start + max((b - a for a, b in bounds), default=0)
        yield Split(start, prompt, bounds[0][1] if bounds else prompt, tuple(bounds[1:])), longest
        at = end


def _apart(one: Split) -> int:
    """What a segment costs taken apart, in query-key pairs."""
    pairs = (one.first - one.start) ** 2 + sum((b - a) * (one.prompt - one.start + b - a) for a, b in one.others)
    calls = 1 + (1 + len(one.others) if one.others else 0)
    return pairs + calls * _PAIRS_PER_CALL


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention function of Transformers: ``[1, H, N, D]`` and twice ``[1, G, N, D]`` -> ``[1, N, H, D]``."""
    if not isinstance(attention_mask, PackedMask):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **others)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    result: Tensor = _Packed.apply(query, key, value, attention_mask.units, scale)
    return result, None


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


class _Packed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
        _, heads, length, width = query.shape
        result = query.new_empty(1, length, heads, width)
        out = result.transpose(1, 2)
        wide = torch.float64 if query.dtype == torch.float64 else torch.float32
        normaliser = query.new_empty(1, length, heads, dtype=wide).transpose(1, 2)  # log-sum-exponentials

        def attend(
            a: int, b: int, c: int, d: int, causal: bool, *, mask: Tensor | None = None
        ) -> tuple[Tensor, Tensor]:
            part: tuple[Tensor, Tensor] = _forward(
                query[:, :, a:b], key[:, :, c:d], value[:, :, c:d], 0.0, causal, attn_mask=mask, scale=scale
            )
            return part

        for unit in layout:
            a, b = unit.start, unit.first if isinstance(unit, Split) else unit.stop
            mask = unit.additive(query.dtype) if isinstance(unit, Shared) else None
            out[:, :, a:b], normaliser[:, :, a:b] = attend(a, b, a, b, mask is None, mask=mask)
            if isinstance(unit, Shared) or not unit.others:
                continue
            far, far_sum = attend(b, unit.stop, a, unit.prompt, False)
            for c, d in unit.others:
                out[:, :, c:d], normaliser[:, :, c:d] = attend(c, d, c, d, True)
            near, near_sum = out[:, :, b : unit.stop], normaliser[:, :, b : unit.stop]
            total = torch.logaddexp(far_sum, near_sum)
            near.copy_(near * (near_sum - total).exp().unsqueeze(-1) + far * (far_sum - total).exp().unsqueeze(-1))
            near_sum.copy_(total)
        ctx.save_for_backward(query, key, value, result, normaliser)
        ctx.layout, ctx.scale = layout, scale
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_result: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, result, normaliser = ctx.saved_tensors
        out, grad = result.transpose(1, 2), grad_result.transpose(1, 2)
        # Memory in the order that the model's projections read it in.
        grads = [torch.empty_like(one.transpose(1, 2)).transpose(1, 2) for one in (query, key, value)]
        grad_query, grad_key, grad_value = grads

        # With the merged output and normaliser each part's gradients are those of the whole.
        def slopes(a: int, b: int, c: int, d: int, causal: bool, *, mask: Tensor | None = None) -> tuple[Tensor, ...]:
            parts = (query[:, :, a:b], key[:, :, c:d], value[:, :, c:d])
            done, sums = out[:, :, a:b], normaliser[:, :, a:b]
            if mask is None and query.dtype == torch.bfloat16:
                return _products(grad[:, :, a:b], *parts, done, normaliser=sums, causal=causal, scale=ctx.scale)
            found: tuple[Tensor, ...] = _backward(
                grad[:, :, a:b], *parts, done, sums, 0.0, causal, attn_mask=mask, scale=ctx.scale
            )
            return found

        def keep(a: int, b: int, found: tuple[Tensor, ...]) -> None:
            for whole, part in zip(grads, found, strict=True):
                whole[:, :, a:b] = part

        for unit in ctx.layout:
            a, b = unit.start, unit.first if isinstance(unit, Split) else unit.stop
            mask = unit.additive(query.dtype) if isinstance(unit, Shared) else None
            keep(a, b, slopes(a, b, a, b, mask is None, mask=mask))
            if isinstance(unit, Shared) or not unit.others:
                continue
            for c, d in unit.others:
                keep(c, d, slopes(c, d, c, d, True))
            by_query, by_key, by_value = slopes(b, unit.stop, a, unit.prompt, False)
            grad_query[:, :, b : unit.stop] += by_query
            grad_key[:, :, a : unit.prompt] += by_key
            grad_value[:, :, a : unit.prompt] += by_value
        return grad_query, grad_key, grad_value, None, None


def _products(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    *,
    normaliser: Tensor,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward pass as batched matrix products, probabilities computed again; sums in float32.

    The heads that share a key are rows of one product, so keys are neither repeated nor their gradients summed apart.
    """
    groups, keys, width = key.shape[1:]
    heads, length = query.shape[1:3]
    shared = heads // groups
    grad_query = torch.empty_like(query)
    k, v = key[0].contiguous(), value[0].contiguous()
    inner = (grad * out).sum(-1, dtype=torch.float32)  # [1, H, L]
    sums: list[Tensor] = []
    for start in range(0, length, _CHUNK):
        stop = min(start + _CHUNK, length)
        size, seen = stop - start, stop if causal else keys

        def rows(tensor: Tensor, start: int = start, stop: int = stop) -> Tensor:
            return tensor[0, :, start:stop].reshape(groups, shared * (stop - start), -1)

        q, g = rows(query), rows(grad)
        scores = torch.bmm(q, k[:, :seen].mT)
        chances = torch.sub(scores.float().mul_(scale), rows(normaliser)).exp_()
        if causal:
            chances.view(groups, shared, size, seen).tril_(start)
        slope = torch.bmm(g, v[:, :seen].mT).float().sub_(rows(inner)).mul_(chances).mul_(scale).to(query.dtype)
        grad_query[0, :, start:stop] = torch.bmm(slope, k[:, :seen]).view(heads, size, width)
        found = [torch.bmm(slope.mT, q), torch.bmm(chances.to(query.dtype).mT, g)]
        if stop == length and not sums:
            return grad_query, found[0][None], found[1][None]
        if not sums:
            sums = [torch.zeros(k.shape, dtype=torch.float32) for _ in found]
        for total, part in zip(sums, found, strict=True):
            total[:, :seen] += part
    return grad_query, sums[0][None].to(key.dtype), sums[1][None].to(key.dtype)
