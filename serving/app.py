"""The endpoint: a Ray Serve application, its coordinator, and their start and end."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray import serve
from ray.actor import ActorHandle
from ray.serve.config import DeploymentActorConfig
from ray.serve.context import _disconnect, _get_global_client  # nothing public says where Serve listens
from ray.serve.schema import ApplicationStatusOverview, ProxyStatus
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from actors.runtime.calls import ActorDied, call
from actors.runtime.env import base_env, rollout_env, runtime_env
from actors.runtime.signals import StopRequested, never
from configs.errors import UserError
from configs.json_types import JsonObject
from configs.serving import ServeConfig
from serving.access import read_keys
from serving.contact import COORDINATOR, NAMESPACE
from serving.coordinator_actor import CoordinatorActor
from serving.engine import EngineSettings
from serving.facts import EndpointStatus
from serving.folder import ServingFolder
from serving.replica import PolicyReplicaApp

_COORDINATOR_S = 30.0  # until the coordinator answers, its restart by Ray included
_SPARE_S = 30.0  # the proxy's own limit lies so far above the replica's: the replica's error is the clearer one


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint.

    Attributes:
        url: Base address, e.g. ``http://127.0.0.1:8001/v1``.
        name: Of the Serve application.
        coordinator: Handle of the coordinator actor.
    """

    url: str
    name: str
    coordinator: ActorHandle

    def status(self) -> EndpointStatus:
        """What is wanted and what each replica serves; a coordinator that is being restarted is waited for."""
        again = Retrying(
            retry=retry_if_exception_type(ActorDied),
            wait=wait_fixed(0.1),
            stop=stop_after_delay(_COORDINATOR_S),
            reraise=True,
        )
        found: EndpointStatus = again(
            lambda: call(self.coordinator.status.remote(), _COORDINATOR_S, "the serving coordinator's status")
        )
        return found

    def wait_for(self, version: int, timeout: float) -> EndpointStatus:
        """Wait until every replica serves its part of a version that was promoted.

        Raises:
            UserError: Not in time, or the version was given up.
        """
        deadline = time.monotonic() + timeout
        while True:
            status = self.status()
            wanted, rows = status["wanted"], status["replicas"].values()
            named = [wanted["current"], wanted["canary"] or wanted["current"]]
            if version not in [row["version"] for row in named]:
                raise UserError(f"v{version} was given up: a replica could not load it (promotions.jsonl says why)")
            settled = all(row.get("version") == row["target"] for row in rows)
            if settled and any(row["target"] == version for row in rows):
                return status
            if time.monotonic() > deadline:
                raise UserError(f"not every replica serves v{version} within {timeout:g} s: {status['replicas']}")
            time.sleep(0.1)


@contextlib.contextmanager
def serving(
    folder: ServingFolder,
    config: ServeConfig,
    settings: EngineSettings,
    start_timeout: float,
    load_timeout: float,
    *,
    should_stop: Callable[[], bool] = never,
) -> Iterator[Endpoint]:
    """Serve what a folder says is current, on the Ray cluster that this process is connected to.

    Args:
        folder: Holds at least one promoted version.
        config: The serve section.
        settings: What the engines are made of.
        start_timeout: Until all replicas answer, in seconds.
        load_timeout: Each step of a weight update, in seconds.
        should_stop: Ends the wait for the replicas where it becomes true.

    Raises:
        StopRequested: It did.
        UserError: No key where one is configured, the port is taken, or the replicas do not start.
    """
    keys = read_keys(config)
    name = application_name(settings)
    _check_port(config, name)
    url = f"http://{config.host}:{config.port}/v1"
    coordinator = start_coordinator(folder, config, name, load_timeout, url)
    with _quiet():
        try:
            serve.start(
                http_options={
                    "host": config.host,
                    "port": config.port,
                    "request_timeout_s": config.request_timeout_s + config.drain_s + _SPARE_S,
                },
                proxy_location="HeadOnly",
                logging_config={"enable_access_log": False, "log_level": "WARNING"},
            )
            application = bind(config, settings, keys, name, load_timeout)
            serve.run_many(
                [serve.RunTarget(application, name=name, route_prefix="/")],
                wait_for_ingress_deployment_creation=False,
                wait_for_applications_running=False,
            )
            _wait_until_running(name, start_timeout, should_stop)
        except BaseException as error:
            _end(name, coordinator)
            if isinstance(error, (UserError, StopRequested)) or not isinstance(error, Exception):
                raise
            why = str(error).strip().splitlines()[-1:] or [type(error).__name__]  # Ray puts its traceback before it
            raise UserError(f"serve: the endpoint did not start on {config.host}:{config.port} ({why[0]})") from error
    try:
        yield Endpoint(url, name, coordinator)
    finally:
        _end(name, coordinator)


def application_name(settings: EngineSettings) -> str:
    """Name of the Serve application and of its coordinator."""
    return f"isogloss-{settings.name}"


def start_coordinator(
    folder: ServingFolder, config: ServeConfig, name: str, load_timeout: float, url: str
) -> ActorHandle:
    """The actor that tells the replicas what to serve; ends with this process, restarted by Ray if it dies before.

    Args:
        folder: What it follows.
        config: The serve section.
        name: Under which the replicas find it.
        load_timeout: Each step of a weight update, in seconds.
        url: For its status.
    """
    options = CoordinatorActor.options(name=name, namespace=NAMESPACE, num_cpus=0, max_restarts=-1, max_task_retries=0)
    return cast(ActorHandle, options.remote(*_coordinator_arguments(folder, config, load_timeout, url)))


def own_coordinator(folder: ServingFolder, config: ServeConfig, load_timeout: float) -> DeploymentActorConfig:
    """A coordinator that Serve starts, restarts and ends together with the deployment; each version of it has its own.

    Args:
        folder: What it follows.
        config: The serve section.
        load_timeout: Each step of a weight update, in seconds.
    """
    arguments = _coordinator_arguments(folder, config, load_timeout, None)
    options = {"num_cpus": 0, "runtime_env": runtime_env(base_env())}
    return DeploymentActorConfig(
        name=COORDINATOR, actor_class=CoordinatorActor, init_args=arguments, actor_options=options
    )


def _coordinator_arguments(
    folder: ServingFolder, config: ServeConfig, load_timeout: float, url: str | None
) -> tuple[str, JsonObject, float, str | None]:
    swap_timeout = config.drain_s + 4 * load_timeout
    return str(folder.path.resolve()), config.model_dump(mode="json"), swap_timeout, url


def bind(
    config: ServeConfig,
    settings: EngineSettings,
    keys: tuple[str, ...],
    coordinator: str | DeploymentActorConfig,
    load_timeout: float,
) -> serve.Application:
    """The Serve application, not yet running.

    Args:
        config: The serve section.
        settings: What the engines are made of.
        keys: Digests of the API keys.
        coordinator: Name of the coordinator that this process started, or one of the deployment's own.
        load_timeout: Each step of a weight update, in seconds.
    """
    own: list[Any] | None = None if isinstance(coordinator, str) else [coordinator]
    deployment: Any = serve.deployment(  # its annotation is that of a decorator
        PolicyReplicaApp,
        name="policy",
        deployment_actors=own,
        max_ongoing_requests=2 * config.max_concurrent,  # the replica itself refuses beyond max_concurrent, with 429
        autoscaling_config={
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "initial_replicas": config.min_replicas,
            "target_ongoing_requests": config.target_ongoing_requests,
            "upscale_delay_s": config.upscale_delay_s,
            "downscale_delay_s": config.downscale_delay_s,
            # Serve averages over 30 s, however short the delays are.
            "look_back_period_s": max(2.0, min(30.0, config.upscale_delay_s)),
            "metrics_interval_s": 1.0,
        },
        ray_actor_options={
            "num_cpus": config.cpus_per_replica,
            "num_gpus": config.gpus_per_replica,
            "runtime_env": runtime_env(rollout_env(config.gpus_per_replica > 0)),
        },
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=10,
        logging_config={"enable_access_log": False},
    )
    named = coordinator if isinstance(coordinator, str) else None
    application: serve.Application = deployment.bind(
        config.model_dump(mode="json"), settings, keys, named, load_timeout
    )
    return application


def _check_port(config: ServeConfig, name: str) -> None:
    if _serve_runs_there(config, name):
        return
    # Serve would try for half a minute and then say so in a log.
    with socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(f"serve.port: {config.port} is in use on {config.host}; choose another") from None


def _serve_runs_there(config: ServeConfig, name: str) -> bool:
    """Whether Serve runs on this cluster already, from an earlier endpoint, and listens where this one shall.

    Serve starts once in a cluster's life and keeps its first address. What a killed run left of its own endpoint is
    taken away, so that the run can be started again.

    Raises:
        UserError: Serve listens elsewhere, or another endpoint has the place.
    """
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return False
    has = client.http_config
    if (has.host, has.port) != (config.host, config.port):
        raise UserError(
            f"serve.port: Ray Serve already runs on this cluster and listens on {has.host}:{has.port} as long as the "
            f"cluster lives, not on {config.host}:{config.port}; set serve.host={has.host} serve.port={has.port}"
        )
    applications = serve.status().applications
    if others := sorted(other for other in applications if other.startswith("isogloss-") and other != name):
        raise UserError(
            f"serve.port: {has.host}:{has.port} is where {', '.join(others)} is served on this cluster; wait for its "
            "end, or end it"
        )
    if name in applications:
        serve.delete(name)
    return True


def _wait_until_running(name: str, timeout: float, should_stop: Callable[[], bool]) -> None:
    deadline = time.monotonic() + timeout
    while True:
        if should_stop():
            raise StopRequested
        status = serve.status()
        found = status.applications.get(name)
        state = "not known yet" if found is None else found.status.value
        message = found.message.strip() if found is not None else ""
        if state == "RUNNING":
            # Where Serve ran before, its way in may be down: replicas run all the same, and nobody reaches them.
            if ProxyStatus.HEALTHY in status.proxies.values():
                return
            message = "Serve's HTTP proxy is not up; in the log folder of Ray's session on the head, serve/ says why"
        if found is not None and state in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise UserError(f"serve: the replicas do not start: {_why(found)}")
        if time.monotonic() > deadline:
            raise UserError(
                f"serve: not ready within {timeout:g} s (cluster.start_timeout_s; {state}): {message[-500:]}"
            )
        time.sleep(0.1)


def _why(found: ApplicationStatusOverview) -> str:
    """Why an application does not run: what its deployments ended with, which Serve leaves out of its own message."""
    last = [one.message.strip().splitlines()[-1].strip() for one in found.deployments.values() if one.message.strip()]
    return f"{'; '.join(last) or found.message.strip()}; in the log folder of Ray's session, serve/ says more"


def _end(name: str, coordinator: ActorHandle) -> None:
    # Serve itself stays: on a shared cluster others may use it, and a local one ends with this process.
    with contextlib.suppress(Exception), _quiet():  # Ray may be gone already
        serve.delete(name)
    with contextlib.suppress(Exception):
        _disconnect()  # Serve would take the next cluster that this process starts for this one
    with contextlib.suppress(Exception):
        ray.kill(coordinator)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Serve's own progress lines are for its developers."""
    log = logging.getLogger("ray.serve")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
