"""The device as the parts see it: the one place that a test replaces."""

from __future__ import annotations

import gc
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Protocol

import torch

GIB = 2**30


class NoDevice(Exception):
    """There is no GPU to check. The message says what is missing."""


class Device(Protocol):
    """An accelerator with a memory of its own."""

    @property
    def torch(self) -> torch.device:
        """Where tensors are put."""

    @property
    def facts(self) -> dict[str, object]:
        """Name, memory and versions, for the page."""

    @property
    def gib(self) -> float:
        """Its memory."""

    def wait(self) -> None:
        """Return once all that was started is done."""

    def allocated(self) -> float:
        """GiB that tensors take now."""

    def peak(self) -> float:
        """GiB that tensors took at most since ``reset``."""

    def reset(self) -> None:
        """Forget the peak, and give unused memory back."""


@dataclass(frozen=True)
class Cuda:
    """The first NVIDIA GPU."""

    @property
    def torch(self) -> torch.device:
        return torch.device("cuda", 0)

    @property
    def facts(self) -> dict[str, object]:
        found = torch.cuda.get_device_properties(0)
        return {
            "device": found.name,
            "GiB": round(self.gib, 1),
            "compute capability": f"{found.major}.{found.minor}",
            "multiprocessors": found.multi_processor_count,
            "CUDA": torch.version.cuda,
            **versions(),
        }

    @property
    def gib(self) -> float:
        return float(torch.cuda.get_device_properties(0).total_memory / GIB)

    def wait(self) -> None:
        torch.cuda.synchronize()

    def allocated(self) -> float:
        return torch.cuda.memory_allocated() / GIB

    def peak(self) -> float:
        return torch.cuda.max_memory_allocated() / GIB

    def reset(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class Rehearsal:
    """The CPU in a GPU's place, to try the check itself before a GPU is at hand; its figures mean nothing."""

    torch = torch.device("cpu")
    gib = 0.0

    @property
    def facts(self) -> dict[str, object]:
        return {"device": "REHEARSAL on a CPU, toy sizes: no figure means anything", **versions()}

    def wait(self) -> None:
        """Nothing is ever pending."""

    def allocated(self) -> float:
        """GiB of the tensors that Python knows, with their gradients."""
        storages: dict[int, int] = {}
        for one in gc.get_objects():
            if type(one) in (torch.Tensor, torch.nn.Parameter) and one.device.type == "cpu":
                for tensor in (one, one.grad) if one.is_leaf else (one,):
                    if tensor is not None:
                        storage = tensor.untyped_storage()
                        storages[storage.data_ptr()] = storage.nbytes()
        return sum(storages.values()) / GIB

    def peak(self) -> float:
        return self.allocated()

    def reset(self) -> None:
        gc.collect()


def rehearsal() -> Device:
    """The CPU in a GPU's place, on one thread: nothing here is worth more."""
    torch.set_num_threads(1)
    gc.freeze()  # no tensor yet among the million objects of the libraries, which would be looked through each time
    return Rehearsal()


PACKAGES = ("torch", "transformers", "triton", "deepspeed", "vllm", "ray", "trl", "pydantic")


def versions() -> dict[str, object]:
    """Versions of Python and of what the parts use, where it is there."""
    found: dict[str, object] = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def find() -> Device:
    """The GPU of this machine.

    Raises:
        NoDevice: There is none that this torch can use.
    """
    if torch.version.cuda is None:
        raise NoDevice(
            f"torch {torch.__version__} is a CPU build; gpu-check needs a CUDA build (requirements/cuda.lock) and a GPU"
        )
    if not torch.cuda.is_available():
        raise NoDevice(
            f"torch {torch.__version__} finds no GPU; gpu-check needs one NVIDIA GPU with a driver for CUDA "
            f"{torch.version.cuda} (nvidia-smi shows both)"
        )
    return Cuda()
