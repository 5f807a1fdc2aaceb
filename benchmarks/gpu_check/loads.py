"""What the parts compute with: sizes that fill a large GPU and take it a second or less, and toy ones to rehearse."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.gpu_check.attention import Heads
from benchmarks.gpu_check.machine import Device
from benchmarks.gpu_check.speed import Load
from benchmarks.gpu_check.work import Shape

SMOLLM_135M = Shape("135 M", 576, 1536, 30, 9, 3, 49_152)
LLAMA_1B = Shape("1.24 B", 2048, 8192, 16, 32, 8, 128_256)
LLAMA_8B = Shape("8.03 B", 4096, 14336, 32, 32, 8, 128_256, tied=False)
_TOY = Shape("toy", 64, 128, 2, 4, 2, 512)


@dataclass(frozen=True)
class Loads:
    """Sizes of every part: ``matrix`` is a side of the ceilings' products, ``positions`` those of the memory part."""

    matrix: int
    pairs: int
    small: Load
    large: Load
    adapters: Load
    positions: tuple[int, ...]
    heads: tuple[Heads, ...]


FULL = Loads(
    matrix=8192,
    pairs=64,
    small=Load(SMOLLM_135M, pairs=64, prompt=128, answer=256, budgets=(4096, 16384, 65536), plain=(4, 8, 16)),
    large=Load(LLAMA_1B, pairs=32, prompt=128, answer=256, budgets=(4096, 16384, 32768), plain=(4, 8)),
    adapters=Load(LLAMA_8B, pairs=16, prompt=128, answer=256, budgets=(4096, 8192), plain=()),
    positions=(4096, 16384),
    heads=(Heads("9 and 3 of 64", 9, 3, 64), Heads("32 and 8 of 128", 32, 8, 128)),
)
TOY = Loads(
    matrix=128,
    pairs=3,
    small=Load(_TOY, pairs=4, prompt=16, answer=8, budgets=(64, 256), plain=(1, 4)),
    large=Load(_TOY, pairs=4, prompt=16, answer=8, budgets=(64, 256), plain=(1, 4)),
    adapters=Load(_TOY, pairs=4, prompt=16, answer=8, budgets=(64,), plain=()),
    positions=(64,),
    heads=(Heads("4 and 2 of 16", 4, 2, 16),),
)


def of(device: Device) -> Loads:
    """Toy sizes for the rehearsal, which has no memory of its own."""
    return FULL if device.gib else TOY
