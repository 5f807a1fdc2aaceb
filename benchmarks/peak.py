"""What this machine can do at most, and what a round of ``benchmarks.round`` takes at least on it.

    python -m benchmarks.peak [--sizes 1m_32 135m_64 135m_256] [--model FOLDER]

Measured: matrix products in float32 and bfloat16, large ones and those of a model's own layers, on one thread (seconds
of the process's own, so other work counts little) and on all cores (wall-clock, so on a quiet machine); copying memory.
Counted: 2 FLOPs a weight and position forward, 6 forward and backward, 8 for the output layer, whose tiles are computed
again, and nothing for attention, normalisation, the optimiser, or Python. A decoding step also reads all weights once.
The tokens are those that ``runs/bench/round.json`` has of our round, whose seconds are then shown beside the bound;
without it, the cap on tokens. Writes ``runs/bench/peak.json`` and ``peak.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.workload import CPU_SIZES, OUT, Size, add_sizes, chosen_sizes, prompts_of, report

SECONDS = 0.5  # of each measurement, at least
SLOTS = 256  # sequences that an engine decodes at once
ENGINES = 2


@dataclass(frozen=True)
class Shape:
    """A model as matrix products see it."""

    hidden: int
    intermediate: int
    layers: int  # weights of all layers
    head: int  # weights of the output layer
    width: int  # bytes of a weight


def shape_of(size: Size) -> Shape:
    """Of a size's model, from its config alone."""
    config = json.loads((size.model / "config.json").read_text(encoding="utf-8"))
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    layer = 2 * hidden * queries + 2 * hidden * keys + 3 * hidden * inner
    layers = layer * config["num_hidden_layers"]
    return Shape(hidden, inner, layers, hidden * config["vocab_size"], 4 if size.small else 2)


def rate(work: Callable[[], object], amount: float, clock: Callable[[], float]) -> float:
    """``amount`` a second, median of what fits into ``SECONDS``, after once to warm up."""
    work()
    spent: list[float] = []
    while sum(spent) < SECONDS or len(spent) < 3:
        begun = clock()
        work()
        spent.append(clock() - begun)
    return amount / max(statistics.median(spent), 1e-9)


def products(dtype: str, rows: int, inner: int, columns: int, threads: int) -> float:
    """GFLOP/s of ``[rows, inner] @ [inner, columns]``, repeated enough that a clock tick does not show."""
    import torch

    torch.set_num_threads(threads)
    left = torch.randn(rows, inner, dtype=getattr(torch, dtype))
    weight = torch.randn(columns, inner, dtype=getattr(torch, dtype))
    flops = 2 * rows * inner * columns
    times = max(1, round(2e9 / flops))

    def work() -> None:
        for _ in range(times):
            torch.nn.functional.linear(left, weight)

    clock = time.process_time if threads == 1 else time.perf_counter
    return rate(work, times * flops / 1e9, clock)


def bandwidth(threads: int) -> float:
    """GB/s read and written while 256 MiB are copied."""
    import torch

    torch.set_num_threads(threads)
    source = torch.ones(2**26)
    target = torch.empty_like(source)
    clock = time.process_time if threads == 1 else time.perf_counter
    return rate(lambda: target.copy_(source), 2 * 4 * source.numel() / 1e9, clock)


def counted(size: Size) -> tuple[int, int, dict[str, float]]:
    """Prompt and completion tokens of a round, and seconds by stage where a round was measured."""
    from learners.encode import ChatEncoder

    prompts = sum(ChatEncoder(size.model).prompt_lengths([text for _, text in prompts_of(size)]))
    kept = OUT / "round.json"
    measured = json.loads(kept.read_text(encoding="utf-8")).get("sizes", {}) if kept.is_file() else {}
    if size.name not in measured:
        return prompts, 2 * len(prompts_of(size)) * size.tokens, {}
    ours = measured[size.name]["ours"][-1]
    return prompts, ours["tokens"], ours["stages"]


def bounds(size: Size, shape: Shape, prompts: int, tokens: int, *, flops: float, bytes_: float) -> dict[str, float]:
    """Seconds of each stage at least.

    Args:
        size: Its prompts and cap on tokens.
        shape: The model.
        prompts: Prompt tokens of the round, each prompt once.
        tokens: Completion tokens.
        flops: GFLOP/s of all cores.
        bytes_: GB/s of all cores.
    """
    positions = prompts + tokens
    forward = 2 * (positions * shape.layers + tokens * shape.head) / 1e9
    backward = (4 * positions * shape.layers + 6 * tokens * shape.head) / 1e9
    steps = max(size.tokens, tokens / (SLOTS * ENGINES)) * ENGINES
    reading = steps * (shape.layers + shape.head) * shape.width / 1e9
    return {
        "sampling": max(forward / flops, reading / bytes_),
        "reference": forward / flops,
        "training": (forward + backward) / flops,
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sizes(parser, CPU_SIZES)
    given = parser.parse_args()
    chosen = chosen_sizes(given)
    cores = os.cpu_count() or 1
    copying = {threads: bandwidth(threads) for threads in {1, cores}}
    table = [
        f"Copying memory: {copying[1]:.1f} GB/s on one thread, {copying[cores]:.1f} on {cores}.",
        "",
        "| size | dtype | GFLOP/s, 2048 a side, 1 thread | all cores | the model's layers, 1 thread | all cores |",
        "|---|---|---|---|---|---|",
    ]
    lines = [
        "| size | stage | GFLOP/s of all cores that the bound takes | bound, s | measured, s |",
        "|---|---|---|---|---|",
    ]
    result: dict[str, Any] = {"ratios": {}, "bandwidth": copying, "sizes": {}}
    for size in chosen:
        shape, dtype = shape_of(size), "float32" if size.small else "bfloat16"
        peak = {threads: products(dtype, 2048, 2048, 2048, threads) for threads in {1, cores}}
        own = {threads: products(dtype, 1024, shape.hidden, shape.intermediate, threads) for threads in {1, cores}}
        table.append(f"| {size.name} | {dtype} | {peak[1]:.0f} | {peak[cores]:.0f} | {own[1]:.0f} | {own[cores]:.0f} |")
        prompts, tokens, measured = counted(size)
        best = max(*peak.values(), *own.values())
        least = bounds(size, shape, prompts, tokens, flops=best, bytes_=max(copying.values()))
        for stage, seconds in least.items():
            spent = measured.get({"sampling": "generate", "training": "train"}.get(stage, stage))
            shown = "" if spent is None else f"{spent:.1f}"
            lines.append(f"| {size.name} | {stage} | {best:.0f} | {seconds:.1f} | {shown} |")
        lines.append(f"| {size.name} | all, one after the other | | {sum(least.values()):.1f} | |")
        result["ratios"][size.name] = sum(least.values())
        result["sizes"][size.name] = {
            "peak": peak, "own": own, "prompt_tokens": prompts, "tokens": tokens, "bounds": least, "measured": measured,
        }  # fmt: skip
    report("peak", result, [*table, "", *lines])


if __name__ == "__main__":
    main()
