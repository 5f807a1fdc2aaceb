"""Where the processes of a broadcast meet: a record without torch, for processes that only hand it on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """One broadcast of weights, and the seat of a process in it.

    Attributes:
        host: Address of the driver's store, through which they find each other.
        port: Its port.
        size: Processes, the sender included.
        backend: "nccl" between GPUs, "gloo" otherwise.
        timeout_s: Deadline of the whole broadcast, in seconds.
        rank: Seat of this process; 0 sends. A split engine's processes take this and the following ones.
    """

    host: str
    port: int
    size: int
    backend: Literal["gloo", "nccl"]
    timeout_s: float
    rank: int = 0

    def seat(self, rank: int) -> Rendezvous:
        """The same rendezvous, for another process."""
        return replace(self, rank=rank)
