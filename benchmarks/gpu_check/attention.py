"""Attention over packed rows in three ways: a dense mask, FlashAttention over runs, and flex attention."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu_check.machine import Device
from benchmarks.gpu_check.result import Found
from benchmarks.gpu_check.work import random_pairs
from learners.packing import PackedBatch, pack
from learners.varlen import flash, runs_of


@dataclass(frozen=True)
class Heads:
    """Heads of a model's attention."""

    name: str
    queries: int
    keys: int
    size: int


Way = Callable[[Tensor, Tensor, Tensor], Tensor]  # [R, heads, T, D] each -> [R, T, heads, D]


def kinds(device: Device, heads: tuple[Heads, ...], positions: int) -> Found:
    """Forward and backward pass of one layer's attention in bfloat16, and its distance from float32."""
    found = Found(("heads", "way", "forward, ms", "forward and backward, ms", "off float32, relative", "GiB at most"))
    examples = random_pairs(max(2, positions // 600), 1000, 128, 256)
    batch = max(pack([one.segment for one in examples], positions), key=lambda one: one.tokens)
    rows, length = batch.input_ids.shape
    found.notes.append(f"{rows} rows of {length} positions, {batch.tokens:,} of them with a token")
    there = batch.to(device.torch)
    for one in heads:
        torch.manual_seed(0)
        shapes = [(rows, count, length, one.size) for count in (one.queries, one.keys, one.keys)]
        inputs = [torch.randn(shape, device=device.torch, dtype=torch.bfloat16) for shape in shapes]
        ways = {"dense mask": dense(there), "runs": by_runs(batch, device), "flex": flexible(there, device)}
        expected = dense(there)(*(tensor.float() for tensor in inputs))
        for name, way in ways.items():
            try:
                found.rows.append((one.name, name, *_measured(device, way, inputs, expected, there)))
            except Exception as error:  # one way that this torch has not got says nothing against the others
                found.rows.append(
                    (one.name, name, f"{type(error).__name__}: {error}".splitlines()[0][:120], "", "", "")
                )
    return found


def _measured(
    device: Device, way: Way, inputs: list[Tensor], expected: Tensor, batch: PackedBatch
) -> tuple[str, str, str, str]:
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    there = batch.segment_ids >= 0
    device.reset()
    output = way(*inputs).detach()
    apart = float((output.float() - expected)[there].norm() / expected[there].norm())
    weights = torch.randn_like(output)
    times: dict[bool, list[float]] = {False: [], True: []}
    for both in (False, True) * 6:
        device.wait()
        started = time.perf_counter()
        output = way(*inputs)
        if both:
            output.backward(weights)
        device.wait()
        times[both].append(time.perf_counter() - started)
    peak = device.peak()
    forward, both_ways = (f"{median(times[both][1:]) * 1e3:.2f}" for both in (False, True))
    return forward, both_ways, f"{apart:.1e}", f"{peak:.2f}"


def dense(batch: PackedBatch) -> Way:
    """What Transformers do with a mask of ``[R, 1, T, T]``."""
    mask = batch.attention_mask()

    def way(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        times = query.shape[1] // key.shape[1]
        key, value = (one.repeat_interleave(times, dim=1) for one in (key, value))
        return scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)

    return way


def by_runs(batch: PackedBatch, device: Device) -> Way:
    """FlashAttention over runs of different lengths; on a CPU, which has none, the dense mask."""
    if device.torch.type == "cpu":
        return dense(batch)
    runs = runs_of(batch.segment_ids, batch.branch_ids).to(device.torch)
    return lambda query, key, value: flash(query, key, value, runs, scale=None, window=None)


def flexible(batch: PackedBatch, device: Device) -> Way:
    """Flex attention, compiled, with a mask of blocks; on a CPU, where it would not train, the dense mask."""
    if device.torch.type == "cpu":
        return dense(batch)
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    segment, branch = batch.segment_ids, batch.branch_ids

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = (segment[row, query] == segment[row, key]) & (query >= key)
        return same & ((branch[row, key] == 0) | (branch[row, query] == branch[row, key]))

    rows, length = segment.shape
    mask = create_block_mask(sees, rows, None, length, length, device=device.torch)
    compiled = torch.compile(flex_attention, dynamic=False)

    def way(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return compiled(query, key, value, block_mask=mask, enable_gqa=True).transpose(1, 2)

    return way
