"""What a run asks of a machine, and the form of what a check found there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from actors.machine.facts import Facts

Level = Literal["ok", "warn", "fail"]

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Wants:
    """What a run asks of the machine; the defaults are those of a run without a config.

    Attributes:
        address: ``cluster.address``; None is a cluster of this machine alone.
        gpu: Whether anything runs on a GPU.
        cpus: CPUs that all processes reserve together; 0 is not known.
        gpus: GPUs likewise.
        num_cpus: ``cluster.num_cpus``.
        weights: Bytes of the policy's weights; 0 is not known.
        memory: Bytes of main memory that the processes take, by a rough sum; 0 is not known.
        disk: Bytes that the run folder grows to, by a rough sum; 0 is not known.
        min_free_disk: ``run.min_free_disk_gb`` in bytes.
        ports: Those that are to be listened on, by field.
        judged: Whether a judge is asked over HTTP.
        dtype: Of weights and arithmetic; None is not known.
    """

    address: str | None = None
    gpu: bool = False
    cpus: float = 0.0
    gpus: float = 0.0
    num_cpus: float | None = None
    weights: int = 0
    memory: int = 0
    disk: int = 0
    min_free_disk: int = 0
    ports: tuple[tuple[str, int], ...] = ()
    judged: bool = False
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table: what was looked at, how it is, and what to do about it (where anything is to be done)."""

    subject: str
    level: Level
    found: str
    cure: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: {self.found}" + (f"; {self.cure}" if self.cure else "")


Check = Callable[[Facts, Wants], Finding]
