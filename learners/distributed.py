"""Process groups and DeepSpeed's surroundings: what must be set before it is imported, and after.

DeepSpeed reads the environment when it is imported, so this module imports it late, and everything else in
``learners`` gets it from here.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import ModuleType
from typing import TypeVar

import torch
import torch.distributed as dist

from configs.running import COLLECTIVE_TIMEOUT_S

T = TypeVar("T")


def load_deepspeed() -> ModuleType:
    """Import DeepSpeed so that it neither compiles anything nor looks for devices that are not there.

    Without this ``init_distributed`` builds a shared-memory operation with a C++ compiler: half a minute, and
    an error where there is none. It is no faster than plain gloo for us.
    """
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    __compatible_ops__["deepspeed_shm_comm"] = False
    if not torch.cuda.is_available():
        from deepspeed.runtime import compiler

        # Or every rank imports PyTorch's compiler, 2 s, for the kernels of an optimiser (Muon) that is only looked up.
        compiler.compile = lambda: lambda function: function
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed calls collectives by names that this PyTorch announces to rename: nothing a user could act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    return deepspeed


def world() -> tuple[int, int]:
    """Rank and world size of this process."""
    return dist.get_rank(), dist.get_world_size()


def device() -> torch.device:
    """Where this rank computes: its current GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def gather_objects(value: T) -> list[T]:
    """``value`` of every rank, in order of ranks, on every rank."""
    _, size = world()
    if size == 1:
        return [value]
    gathered = [value] * size
    dist.all_gather_object(gathered, value)
    return gathered


@contextmanager
def single_process() -> Iterator[None]:
    """A process group of this process alone, for work without Ray; closed on leaving.

    The store lives in the process and gloo binds to loopback, so nothing listens on the network.
    """
    deepspeed = load_deepspeed()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # DeepSpeed looks for MPI unless the variables of a launcher are there.
    launcher = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    before = {name: os.environ.get(name) for name in launcher}
    os.environ.update(launcher)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    store = dist.HashStore()  # type: ignore[attr-defined]  # public, but missing from the type stubs
    dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S))
    try:
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
        yield
    finally:
        deepspeed.comm.destroy_process_group()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
