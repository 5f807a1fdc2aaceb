"""How fast the device is, the learner's step on it against plain Transformers, and what memory either takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from transformers import PreTrainedModel

from benchmarks.gpu_check.machine import Device
from benchmarks.gpu_check.result import Found
from benchmarks.gpu_check.work import (
    Optimiser,
    Ours,
    Plain,
    Shape,
    Step,
    Way,
    one_rank,
    parameters_of,
    random_model,
    random_pairs,
    shifted,
)
from learners.batching import EncodedExample
from learners.microbatches import References

STEPS = 3  # timed, after one that warms up


def ceilings(device: Device, size: int = 8192) -> Found:
    """Matrix products and copies of this device: what everything else is compared with."""
    found = Found(("what", "measured"))
    torch.backends.cuda.matmul.allow_tf32 = False
    for kind in (torch.bfloat16, torch.float32):
        side = size if kind == torch.bfloat16 else size // 2
        left, right = (torch.randn(side, side, device=device.torch, dtype=kind) for _ in range(2))
        rate = 2 * side**3 / _seconds(device, partial(torch.matmul, left, right), 10) / 1e12
        name = str(kind).removeprefix("torch.")
        found.figures[f"{name} TFLOP/s"] = rate
        found.rows.append((f"{name} matrix product, {side} x {side}", f"{rate:.1f} TFLOP/s"))
    source = torch.empty(size * size * 4, device=device.torch, dtype=torch.float32).normal_()
    target = torch.empty_like(source)
    bandwidth = 2 * source.numel() * 4 / _seconds(device, lambda: target.copy_(source), 10) / 1e12
    found.figures["TB/s"] = bandwidth
    found.rows.append(("copy within its memory, read and written", f"{bandwidth:.2f} TB/s"))
    return found


def _seconds(device: Device, call: Callable[[], object], times: int) -> float:
    """Seconds of a call, over several in a row."""
    for _ in range(3):
        call()
    device.wait()
    started = time.perf_counter()
    for _ in range(times):
        call()
    device.wait()
    return (time.perf_counter() - started) / times


@dataclass(frozen=True)
class Load:
    """What is trained: pairs of a step, mean lengths, and the sizes of micro-batches that are tried."""

    shape: Shape
    pairs: int
    prompt: int
    answer: int
    budgets: tuple[int, ...]  # positions of one of our micro-batches; the first is the config's default
    plain: tuple[int, ...]  # pairs of one of plain Transformers'


@dataclass(frozen=True)
class Timed:
    """A way as measured: seconds a step, GiB at most, and its first step."""

    name: str
    seconds: float
    peak: float
    first: Step


def steps(device: Device, load: Load, peak_tflops: float | None = None) -> Found:
    """The learner's step against plain Transformers': same model, pairs, references and optimiser, in bfloat16."""
    found = Found(("", "pairs/s", "answer tokens/s", "positions/s", "share of the peak", "GiB at most"))
    examples = random_pairs(load.pairs, load.shape.vocabulary, load.prompt, load.answer)
    positions = {"packed": sum(one.segment.tokens for one in examples)}
    positions["plain"] = sum(2 * len(one.segment.prompt_ids) + one.segment.targets for one in examples)
    answers = sum(one.segment.targets for one in examples)
    with one_rank():
        model = random_model(load.shape.config(), torch.bfloat16, device.torch)
        size = parameters_of(model)
        references = shifted(Ours(model, load.budgets[0]).score(examples))
        del model
        timed: dict[str, list[Timed]] = {"packed": [], "plain": []}
        tries: list[tuple[str, str, Callable[[PreTrainedModel], Way]]] = [
            *(("packed", f"packed, {n:,} positions", lambda model, n=n: Ours(model, n)) for n in load.budgets),
            *(("plain", f"plain, {n} pairs", lambda model, n=n: Plain(model, n)) for n in load.plain),
        ]
        for side, name, way_of in tries:
            try:
                timed[side].append(_timed(device, load, examples, references, name=name, way_of=way_of))
            except torch.OutOfMemoryError:
                found.rows.append((name, "out of memory", "", "", "", ""))
                device.reset()
    for side, several in timed.items():
        for one in several:
            rate = positions[side] / one.seconds
            # 6 FLOPs a weight and position; attention itself is left out.
            share = 6 * size * rate / 1e12 / peak_tflops if peak_tflops else None
            found.rows.append(
                (
                    one.name,
                    f"{load.pairs / one.seconds:.1f}",
                    f"{answers / one.seconds:,.0f}",
                    f"{rate:,.0f}",
                    "" if share is None else f"{share:.0%}",
                    f"{one.peak:.1f}",
                )
            )
    best = {side: min(several, key=lambda one: one.seconds) for side, several in timed.items()}
    default = timed["packed"][0]
    times, usual = (best["plain"].seconds / one.seconds for one in (best["packed"], default))
    found.figures |= {
        "pairs/s": load.pairs / best["packed"].seconds,
        "plain pairs/s": load.pairs / best["plain"].seconds,
        "times plain, both at their best": times,
        "times plain, the config's default": usual,
    }
    first, plain = default.first, best["plain"].first
    found.check("first loss, relative", abs(first.loss - plain.loss) / abs(plain.loss), 0.02)
    found.check("first gradient norm, relative", abs(first.norm - plain.norm) / plain.norm, 0.05)
    found.notes += [
        f"{size / 1e6:,.0f} M parameters, bfloat16 with float32 master weights, {load.pairs} pairs a step, prompts of "
        f"{load.prompt} and answers of {load.answer} tokens in the mean",
        f"first loss {first.loss:.5f} and {plain.loss:.5f}, gradient norm {first.norm:.4f} and {plain.norm:.4f}",
        f"positions that go through the model: {positions['packed']:,} packed, {positions['plain']:,} unpacked",
        f"{times:.2f} times as fast as plain Transformers, both at their best, and {usual:.2f} times with the config's "
        f"default of {load.budgets[0]:,} positions",
    ]
    return found


def _timed(
    device: Device,
    load: Load,
    examples: Sequence[EncodedExample],
    references: References,
    *,
    name: str,
    way_of: Callable[[PreTrainedModel], Way],
) -> Timed:
    """One way with a fresh model; its first step warms up and is compared, the others are timed."""
    model = random_model(load.shape.config(), torch.bfloat16, device.torch)
    way, optimiser = way_of(model), Optimiser([*model.parameters()], 1e-6)
    device.reset()
    found: list[Step] = []
    seconds: list[float] = []
    for _ in range(1 + STEPS):
        device.wait()
        started = time.perf_counter()
        loss = way.gradients(examples, references)
        found.append(Step(float(loss), optimiser.step()))
        device.wait()
        seconds.append(time.perf_counter() - started)
    peak = device.peak()
    del model, way, optimiser
    device.reset()
    return Timed(name, median(seconds[1:]), peak, found[0])


def profile(device: Device, load: Load, top: int = 12) -> Found:
    """Which kernels the learner's step takes its time with."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.torch.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    examples = random_pairs(load.pairs, load.shape.vocabulary, load.prompt, load.answer)
    with one_rank():
        model = random_model(load.shape.config(), torch.bfloat16, device.torch)
        way, optimiser = Ours(model, load.budgets[-1]), Optimiser([*model.parameters()], 1e-6)
        references = shifted(way.score(examples))
        way.gradients(examples, references)
        optimiser.step()
        with torch.profiler.profile(activities=activities) as profiler:
            started = time.perf_counter()
            way.gradients(examples, references)
            optimiser.step()
            device.wait()
            seconds = time.perf_counter() - started
    on_device = device.torch.type == "cuda"

    def own(row: object) -> float:
        return float(getattr(row, "self_device_time_total" if on_device else "self_cpu_time_total"))

    gpu = torch.autograd.DeviceType.CUDA  # type: ignore[attr-defined]  # the profiler's own, and missing from __all__
    rows = [row for row in profiler.key_averages() if not on_device or row.device_type == gpu]
    rows = sorted(rows, key=own, reverse=True)
    busy = sum(own(row) for row in rows) / 1e6
    found = Found(("kernel", "ms", "share of the step", "calls"))
    for row in rows[:top]:
        ms = own(row) / 1e3
        found.rows.append((row.key[:90], f"{ms:.1f}", f"{ms / 1e3 / seconds:.0%}", row.count))
    found.figures |= {"seconds": seconds, "device busy": busy / seconds}
    found.notes.append(
        f"one step of {load.shape.name}, {seconds:.2f} s under the profiler, the device busy {busy / seconds:.0%}"
    )
    return found
