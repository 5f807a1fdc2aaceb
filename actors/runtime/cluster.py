"""Starting or joining Ray, and leaving it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from actors.machine.checks import refuse_failing
from actors.machine.facts import ray_facts
from actors.machine.findings import Wants
from actors.runtime.signals import StopRequested
from actors.runtime.watch import JOINED_PATIENCE_S, LOCAL_PATIENCE_S, RAYLET, Watch
from configs.errors import UserError
from configs.json_types import JsonObject
from configs.schema import ClusterConfig

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
_CONNECT_S = 10.0  # until the head of a cluster that was asked for takes a connection


@dataclass(frozen=True, slots=True)
class Cluster:
    """A connection to Ray.

    Attributes:
        address: Of the head (host:port).
        resources: What it has in all.
        nodes: CPU and GPU of every living node, by address.
        seconds: How long starting or joining took.
        watch: Ends this process with a message once Ray's servers are gone.
    """

    address: str
    resources: dict[str, float]
    nodes: dict[str, dict[str, float]]
    seconds: float
    watch: Watch


def _tell_reports_apart() -> None:
    """Ray prints its nodes' reports (1,000 characters for each worker that died) whatever ``log_to_driver`` says. What
    died is told by who waits for it, in a line; Ray's text goes to this module's logger.
    """
    from ray._private import worker  # its listener has no other switch

    def told(data: JsonObject, ignore_prefix: bool) -> None:
        logger.info("Ray reports: %s", " ".join(str(line) for line in data.get("lines", ())))

    worker.print_to_stdstream = told


def _init_local(config: ClusterConfig, dashboard: bool) -> dict[str, str]:
    # No cluster was asked for, so RAY_ADDRESS (for `isogloss submit`, a dashboard's) means nothing here; Ray reads it.
    os.environ.pop("RAY_ADDRESS", None)
    try:
        context: Any = ray.init(
            address="local",
            num_cpus=config.num_cpus,  # type: ignore[arg-type]  # Ray counts in fractions, its annotation says int
            include_dashboard=dashboard,
            dashboard_host=LOOPBACK,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _node_ip_address=LOOPBACK,
        )
    except Exception as error:  # of no common type: a plain Exception where the raylet takes more than 30 s
        ray.shutdown()
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"Ray could not be started on this machine: {reason}\n"
            "  is it very busy, or short of memory, shared memory or disk? `isogloss doctor` looks; then give the same "
            "command again, with --resume if the run's folder is there"
        ) from error
    addresses = {node["NodeManagerAddress"] for node in ray.nodes()}
    if addresses != {LOOPBACK}:
        ray.shutdown()
        raise RuntimeError(
            f"Ray listens on {', '.join(sorted(addresses))} instead of {LOOPBACK}: "
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 must be set before Ray is imported (apply_driver_env does)"
        )
    return dict(context.address_info)


def _join(address: str) -> dict[str, str]:
    try:
        host, _, port = address.rpartition(":")
        if port.isdigit() and "://" not in host:
            # Where nobody listens Ray would try for two minutes, and end in an error of no type of its own.
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
        context: Any = ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cluster.address: no Ray cluster answers at '{address}' ({error}); start one with `ray start --head`, "
            "or remove the field to run on this machine alone"
        ) from error
    return dict(context.address_info)


def living_nodes() -> dict[str, dict[str, float]]:
    """CPU and GPU of every living node of the cluster that this process is connected to, by address."""
    living = [node for node in ray.nodes() if node["Alive"]]
    names = [f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})" for node in living]  # an address may be shared
    has = [{kind: node["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU")} for node in living]
    return dict(zip(names, has, strict=True))


def _raylet() -> str:
    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"


@contextmanager
def _kept_handler() -> Iterator[None]:
    """Keep the handler of SIGTERM, in whose place Ray puts one that ends the process with an exit code of Ray's; what
    that one was told meanwhile is told to the kept one.
    """
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as left:
        if left.code != signal.SIGTERM:
            raise
        ray.shutdown()
        signal.signal(signal.SIGTERM, kept)
        signal.raise_signal(signal.SIGTERM)
        raise StopRequested from None
    finally:
        signal.signal(signal.SIGTERM, kept)


@contextmanager
def start_cluster(
    config: ClusterConfig,
    run_dir: Path,
    dashboard: bool = False,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[Cluster]:
    """Start a Ray cluster on this machine's loopback interface, or join the configured one; leave it at the end.

    Args:
        config: The cluster section.
        run_dir: Run folder; gets a line ``ray-session`` that says where Ray's logs are.
        dashboard: Whether a local cluster gets a dashboard (start-up takes seconds longer).
        should_stop: Of a caller that handles SIGTERM, and whose handler stays; without, Ray's is in place afterwards.

    While the block lasts, a loss of Ray's head or of this node's raylet ends the process (``Cluster.watch``).

    Raises:
        StopRequested: ``should_stop`` became true before Ray was up.
        UserError: Ray cannot work with the environment or the address, or nothing answers at ``cluster.address``.
    """
    if ray.is_initialized():
        raise RuntimeError("this process is already connected to a Ray cluster")
    refuse_failing(ray_facts(os.environ), Wants(address=config.address))
    begun = time.monotonic()
    _tell_reports_apart()
    with contextlib.nullcontext() if should_stop is None else _kept_handler():
        info = _init_local(config, dashboard) if config.address is None else _join(config.address)
    try:
        if should_stop is not None and should_stop():
            raise StopRequested
        run_dir.mkdir(parents=True, exist_ok=True)
        session, address = info["session_dir"], info["gcs_address"]
        (run_dir / "ray-session").write_text(f"{session}/logs\n", encoding="utf-8")
        seconds = time.monotonic() - begun
        patience = LOCAL_PATIENCE_S if config.address is None else JOINED_PATIENCE_S
        with Watch({"Ray's head": address, RAYLET: _raylet()}, patience).watching() as watch:
            yield Cluster(address, ray.cluster_resources(), living_nodes(), seconds, watch)
    finally:
        ray.shutdown()
