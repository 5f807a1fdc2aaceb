"""Ray clusters on this machine, started by hand as a user starts one: one raylet or two, on the loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

HEAD = "127.0.0.1"
RAY = Path(sys.executable).with_name("ray")

# `ray start` with the switch that keeps all of it on the loopback interface. For a second node Ray refuses that switch,
# since it was meant for systems that can have one node only: lifted for this one process, set again for its children.
# A node cleans the folder of uploads by its own count of who needs them, so two nodes must not share it, as they would.
SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
START_SECOND = f"""
import os
os.environ["{SWITCH}"] = "1"
from ray._private import parameter, services
from ray.scripts import scripts
services.resolve_ip_for_localhost = lambda host: host
keep = parameter.RayParams.__init__
def own_folder(self, *args, **named):
    keep(self, *args, **{{**named, "runtime_env_dir_name": "runtime_resources_of_the_second"}})
parameter.RayParams.__init__ = own_folder
os.environ["{SWITCH}"] = "0"
scripts.main()
"""


@dataclass(frozen=True)
class TwoNodes:
    """A running cluster."""

    dashboard: str  # URL
    metrics: tuple[str, str]  # URLs of both nodes
    session: Path  # Ray's folder, with the logs


@dataclass(frozen=True)
class OneNode:
    """A running head."""

    dashboard: str  # URL
    gcs: str  # host:port, for `ray.init`
    session: Path  # Ray's folder, with the logs


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((HEAD, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def fetch(url: str) -> str:
    """Body of a page; empty where nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return ""


@contextlib.contextmanager
def two_nodes(folder: Path, head_cpus: int, second_cpus: int, second: str = HEAD) -> Iterator[TwoNodes]:
    """Head and second node; both end with the block.

    Args:
        folder: For logs.
        head_cpus: CPUs that Ray lends on the head.
        second_cpus: CPUs that it lends on the second node.
        second: Address of the second node.
    """
    gcs, dashboard, client, *metrics = free_ports(5)
    further = [
        f"--address={HEAD}:{gcs}", f"--node-ip-address={second}", f"--num-cpus={second_cpus}",
        f"--metrics-export-port={metrics[1]}",
    ]  # fmt: skip
    urls = f"http://{HEAD}:{metrics[0]}", f"http://{second}:{metrics[1]}"
    with _session() as session:
        head = _head(session, gcs, dashboard, client, metrics[0], head_cpus)
        waits = [f"http://{HEAD}:{dashboard}/api/version", urls[1]]
        with _running(folder, [head, further], waits, {}):
            yield TwoNodes(f"http://{HEAD}:{dashboard}", urls, session)


@contextlib.contextmanager
def one_node(folder: Path, cpus: int, env: dict[str, str]) -> Iterator[OneNode]:
    """A head alone; it ends with the block.

    Args:
        folder: For logs; Ray's processes start in it.
        cpus: CPUs that Ray lends.
        env: Environment of all of Ray's processes, beside this process's own.
    """
    gcs, dashboard, client, metrics = free_ports(4)
    with _session() as session:
        head = _head(session, gcs, dashboard, client, metrics, cpus)
        # Ray's workers are nice to others by default: on a busy machine replicas would then take minutes to start.
        with _running(folder, [head], [f"http://{HEAD}:{dashboard}/api/version"], {"RAY_worker_niceness": "0", **env}):
            yield OneNode(f"http://{HEAD}:{dashboard}", f"{HEAD}:{gcs}", session)


@contextlib.contextmanager
def _session() -> Iterator[Path]:
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: the paths of sockets must be
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _head(session: Path, gcs: int, dashboard: int, client: int, metrics: int, cpus: int) -> list[str]:
    return [
        "--head", f"--node-ip-address={HEAD}", f"--port={gcs}", f"--num-cpus={cpus}",
        f"--dashboard-host={HEAD}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
        f"--metrics-export-port={metrics}", f"--temp-dir={session}",
    ]  # fmt: skip


@contextlib.contextmanager
def _running(folder: Path, nodes: list[list[str]], waits: list[str], more: dict[str, str]) -> Iterator[None]:
    """Nodes, the head first, started one after the other; ``waits`` has what answers when each is up."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",  # as an activated environment: jobs find `python`
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
        "RAY_metrics_report_interval_ms": "1000",
        **more,
    }
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, arguments in enumerate(nodes):
            log = (folder / f"node-{number}.log").open("wb")
            ray = [str(RAY)] if number == 0 else [sys.executable, "-c", START_SECOND]
            # An agent's port is fixed by default: a second Ray on the machine would have none to serve jobs or metrics.
            command = [*ray, "start", *arguments, "--block", "--dashboard-agent-listen-port=0"]
            processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env, cwd=folder))
            _wait(waits[number], processes[-1], log.name)
        yield
    finally:
        # Ray's own way out waits up to 16 s for each of its processes in turn; nothing here is worth it.
        family = [one for each in processes for one in _family(each.pid)]
        for process in processes:
            process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=5)
        for left in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        psutil.wait_procs(alive, timeout=10)


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []


def _wait(url: str, process: subprocess.Popen[bytes], log: str) -> None:
    deadline = time.monotonic() + 60
    while not _answers(url):
        assert process.poll() is None, Path(log).read_text()
        assert time.monotonic() < deadline, f"{url} never answered: {Path(log).read_text()}"
        time.sleep(0.3)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True  # it asks for a token: somebody is there
    except (urllib.error.URLError, OSError):
        return False
    return True
