"""The parts: what each needs, how long it may take, and what it does. The order is that of the run."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu_check import attention, loads, memory, numerics, speed, trainers, whole
from benchmarks.gpu_check.machine import Device
from benchmarks.gpu_check.result import Found
from benchmarks.smollm2 import FOLDER as SMOLLM2

Earlier = Mapping[str, float | str]  # figures of the parts before, by "part: figure"
Work = Callable[[Device, Earlier], Found]


@dataclass(frozen=True)
class Part:
    """One part of the check.

    Attributes:
        name: For the command line.
        title: For the page.
        seconds: How long it may take.
        run: Does it.
        needs: Modules that must be there beside torch and Transformers.
        least_gib: Memory that the device must have.
        files: What must be there on a device with memory of its own (``make smollm2``).
    """

    name: str
    title: str
    seconds: int
    run: Work
    needs: tuple[str, ...] = ()
    least_gib: float = 0.0
    files: tuple[Path, ...] = ()

    def obstacle(self, gib: float) -> str:
        """Why it cannot run on a device with this memory (0: a rehearsal); empty where it can."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            return f"needs {', '.join(missing)}, which this Python has not got"
        if gib and (absent := [str(path) for path in self.files if not path.exists()]):
            return f"needs {', '.join(absent)}; run make smollm2"
        if 0 < gib < self.least_gib:
            return f"needs a device with {self.least_gib:g} GiB, this one has {gib:.0f}"
        return ""


def _numerics(device: Device, _: Earlier) -> Found:
    return numerics.attention_and_losses(device, loads.of(device).pairs)


def _attention(device: Device, _: Earlier) -> Found:
    sizes = loads.of(device)
    return attention.kinds(device, sizes.heads, sizes.small.budgets[-1] // 4)


def _bfloat16(device: Device, _: Earlier) -> Found:
    sizes = loads.of(device)
    return numerics.bfloat16(device, sizes.small.shape, sizes.pairs)


def _ceilings(device: Device, _: Earlier) -> Found:
    return speed.ceilings(device, loads.of(device).matrix)


def _peak(earlier: Earlier) -> float | None:
    found = earlier.get("ceilings: bfloat16 TFLOP/s")
    return found if isinstance(found, float) else None


def _step_135m(device: Device, earlier: Earlier) -> Found:
    return speed.steps(device, loads.of(device).small, _peak(earlier))


def _step_1b(device: Device, earlier: Earlier) -> Found:
    return speed.steps(device, loads.of(device).large, _peak(earlier))


def _profile_135m(device: Device, _: Earlier) -> Found:
    return speed.profile(device, loads.of(device).small)


def _profile_1b(device: Device, _: Earlier) -> Found:
    return speed.profile(device, loads.of(device).large)


def _memory(device: Device, _: Earlier) -> Found:
    sizes = loads.of(device)
    return memory.whole(device, [*dict.fromkeys((sizes.small.shape, sizes.large.shape))], sizes.positions)


def _adapters(device: Device, _: Earlier) -> Found:
    return memory.adapters(device, loads.of(device).adapters)


def _session(device: Device, _: Earlier) -> Found:
    return trainers.session(device, loads.of(device).small)


def _trl(device: Device, earlier: Earlier) -> Found:
    ours = earlier.get("session: pairs/s")
    return trainers.trl(device, loads.of(device).small, ours if isinstance(ours, float) else None)


def _demo(device: Device, _: Earlier) -> Found:
    return whole.demo(device)


def _endpoint(device: Device, _: Earlier) -> Found:
    return whole.endpoint(device)


def _rollout(device: Device, _: Earlier) -> Found:
    return whole.rollout(device)


def _race(device: Device, _: Earlier) -> Found:
    return whole.race(device)


_SYSTEM = ("ray", "vllm", "pydantic", "deepspeed", "xxhash")

PARTS = (
    Part("ceilings", "What the device can do", 60, _ceilings),
    Part("numerics", "Packed attention, losses and gradients against the CPU, float32", 120, _numerics),
    Part("attention", "Attention over packed rows in three ways", 150, _attention),
    Part("bfloat16", "What bfloat16 costs", 90, _bfloat16),
    Part("step-135m", "A learner's step of 135 M parameters against plain Transformers", 120, _step_135m),
    Part("step-1b", "A learner's step of 1.24 B parameters against plain Transformers", 150, _step_1b, least_gib=40),
    Part("memory", "Memory against the plan's prediction", 90, _memory, ("pydantic",), least_gib=40),
    Part("lora-8b", "Adapters of a model of 8 B parameters", 90, _adapters, ("pydantic", "peft"), least_gib=60),
    Part("session", "A round of the learner, with DeepSpeed", 120, _session, ("pydantic", "deepspeed", "xxhash")),
    Part("trl", "TRL's trainer on the same pairs", 150, _trl, ("trl", "datasets", "pydantic", "xxhash")),
    Part("profile-135m", "Where a step of 135 M parameters spends its time", 60, _profile_135m),
    Part("profile-1b", "Where a step of 1.24 B parameters spends its time", 60, _profile_1b, least_gib=40),
    Part("demo", "A round of the demo, twice", 240, _demo, _SYSTEM),
    Part("endpoint", "Hot swaps of the endpoint under load", 150, _endpoint, (*_SYSTEM, "aiohttp")),
    Part("rollout", "Sampling against vLLM bare, 135 M", 180, _rollout, _SYSTEM, files=(SMOLLM2,)),
    Part("race", "A whole round against TRL, 135 M", 330, _race, (*_SYSTEM, "trl", "datasets"), files=(SMOLLM2,)),
)


def resolved(path: str) -> Callable[[], Device]:
    """The function at ``module:name``: how a child process gets its device."""
    module, _, name = path.partition(":")
    found: Callable[[], Device] = getattr(importlib.import_module(module), name)
    return found
