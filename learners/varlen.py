"""Attention over packed rows for GPUs: FlashAttention over the runs that a row is made of, nothing outside of them.

A *run* is a prompt or one completion (without its last token) where it lies in a row. A run attends to itself,
causally, and a completion's run to all of its prompt before: its keys are the prompt's and its own, in a row, so causal
attention aligned at the end is the right mask. Prompts are computed once; only their keys and values are taken again
for each completion.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "isogloss_runs"


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of a batch of ``R`` rows with ``T`` positions, in their order; padded positions are runs too.

    Attributes:
        queries: ``[runs + 1]`` int32, where each run begins in the flat ``[R * T]``.
        keys: ``[runs + 1]`` int32, where its keys begin in ``gather``.
        gather: ``[K]`` int64, flat positions of all keys.
        longest_query: Positions of the longest run.
        longest_keys: Keys of the run with the most.
    """

    queries: Tensor
    keys: Tensor
    gather: Tensor
    longest_query: int
    longest_keys: int

    def to(self, device: torch.device) -> Runs:
        """The same on a device."""

        def there(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(self, queries=there(self.queries), keys=there(self.keys), gather=there(self.gather))


def runs_of(segment_ids: Tensor, branch_ids: Tensor) -> Runs:
    """The runs of a packed batch, from who owns each position (``[R, T]`` each, on the CPU)."""
    rows, length = segment_ids.shape
    row = torch.arange(rows)[:, None].expand(rows, length)
    owner = torch.stack([row, segment_ids, branch_ids]).flatten(1)
    changes = (owner[:, 1:] != owner[:, :-1]).any(dim=0)
    starts = [0, *(changes.nonzero()[:, 0] + 1).tolist()]
    ends = [*starts[1:], rows * length]
    prompts: dict[tuple[int, int], tuple[int, int]] = {}
    gather: list[Tensor] = []
    counts: list[int] = []
    for start, end, (at, segment, branch) in zip(starts, ends, owner[:, starts].T.tolist(), strict=True):
        own = torch.arange(start, end)
        if branch == 0:
            prompts[at, segment] = (start, end)
            gather.append(own)
        else:
            gather += [torch.arange(*prompts[at, segment]), own]
            own = torch.cat(gather[-2:])
        counts.append(len(own))
    offsets = torch.tensor([0, *counts]).cumsum(0)
    return Runs(
        queries=torch.tensor([*starts, rows * length], dtype=torch.int32),
        keys=offsets.int(),
        gather=torch.cat(gather),
        longest_query=max(end - start for start, end in zip(starts, ends, strict=True)),
        longest_keys=max(counts),
    )


class RunsMask(Tensor):
    """What goes through a model in place of a mask; the model hands it on untouched."""

    runs: Runs
    window: int | None

    @staticmethod
    def of(runs: Runs, window: int | None) -> RunsMask:
        """A mask that says what a batch consists of.

        Args:
            runs: On the device of the batch.
            window: Positions that a query sees, itself included; None is all before it.
        """
        mask: RunsMask = torch.zeros(1, 1, 1, 1).as_subclass(RunsMask)
        mask.runs, mask.window = runs, window
        return mask


def takes(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there is FlashAttention for these: on GPUs, in half precision."""
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)


def runs_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention function of Transformers; without a ``RunsMask`` it is plain SDPA."""
    if not isinstance(attention_mask, RunsMask):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **others)
    return flash(query, key, value, attention_mask.runs, scale=scaling, window=attention_mask.window), None


AttentionInterface.register(NAME, runs_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def flash(query: Tensor, key: Tensor, value: Tensor, runs: Runs, *, scale: float | None, window: int | None) -> Tensor:
    """Attention over the runs, in bfloat16 or float16, on a GPU.

    Args:
        query: ``[R, heads, T, D]``.
        key: ``[R, kv heads, T, D]``.
        value: As ``key``.
        runs: Of the batch, on the same device.
        scale: Of the scores; None is ``D ** -0.5``.
        window: Positions that a query sees, itself included; None is all before it.

    Returns:
        ``[R, T, heads, D]``.
    """
    from torch.nn.attention.varlen import varlen_attn

    rows, heads, length, size = query.shape
    flat = [one.transpose(1, 2).reshape(rows * length, -1, size) for one in (query, key, value)]
    attend: Callable[..., object] = varlen_attn
    # Later versions of torch want to be told that keys have fewer heads; earlier ones have no such argument.
    grouped = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
    found = attend(
        flat[0],
        flat[1].index_select(0, runs.gather),
        flat[2].index_select(0, runs.gather),
        runs.queries,
        runs.keys,
        runs.longest_query,
        runs.longest_keys,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        **grouped,
    )
    assert isinstance(found, Tensor)
    return found.view(rows, length, heads, size)
