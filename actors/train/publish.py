"""A new weight version into all actors that take it: from the object store, or by the learner's broadcast."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Literal

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from actors.engine.sync_report import SyncReport
from actors.plan.placement import broadcast_gpus
from actors.runtime.calls import ActorDied, DeadlineExceeded, call
from actors.runtime.pool import Pool
from actors.runtime.signals import LOOK_S, StopRequested, never
from configs.schema import Config
from learners.errors import BroadcastFailed
from learners.manifest import WeightsManifest
from learners.rendezvous import Rendezvous

if TYPE_CHECKING:
    from learners.broadcast import RendezvousServer

# How long those who were told to give up get to say so.
_GRACE_S = 10.0


def publish_via_object_store(
    pools: Sequence[Pool],
    manifest: WeightsManifest,
    weights: list[ObjectRef],
    timeout: float,
    should_stop: Callable[[], bool] = never,
) -> list[SyncReport]:
    """Every actor of the pools takes, loads and proves weights from the object store.

    Args:
        pools: None of their actors may be at work.
        manifest: What is published; an actor that a pool makes now begins with it.
        weights: One reference to the arrays, or none where no actor takes them.
        timeout: Deadline for all of them together, in seconds.
        should_stop: Ends the wait for them where it becomes true.

    Returns:
        What the actors report; those that died or hang are replaced, and report nothing.

    Raises:
        ActorDied: One did so too often, or a replacement does not come up.
        SyncError: One could not prove them.
        StopRequested: ``should_stop`` became true.
    """
    for pool in pools:
        pool.await_starts(should_stop)
    waiting: dict[ObjectRef, tuple[Pool, int]] = {
        handle.sync.remote(manifest, weights): (pool, index)
        for pool in pools
        for index, handle in enumerate(pool.handles)
    }
    deadline, left = time.monotonic() + timeout, list(waiting)
    while left and time.monotonic() < deadline:
        if should_stop():
            raise StopRequested
        left = ray.wait(left, num_returns=len(left), timeout=LOOK_S)[1]
    reports = []
    for reference, (pool, index) in waiting.items():
        what = f"weights v{manifest.version} to reach {pool.name} {index}"
        try:
            if reference in left:
                raise DeadlineExceeded(f"no answer within {timeout:g} s (cluster.sync_timeout_s): {what}")
            reports.append(call(reference, timeout, what))
        except (ActorDied, DeadlineExceeded) as failure:
            pool.replace(index, failure)
    return reports


def broadcast(
    config: Config,
    receivers: Sequence[ActorHandle],
    manifest: WeightsManifest,
    send: Callable[[Rendezvous], Future[None]],
    should_stop: Callable[[], bool] = never,
) -> list[SyncReport]:
    """Every actor takes, loads and proves what the learner sends.

    Args:
        config: The run.
        receivers: The rollout actors, in their order, and the reward actors if those follow the policy; none may be
            at work.
        manifest: What is published.
        send: Makes the learner send.
        should_stop: Ends the wait for them where it becomes true.

    Returns:
        What each actor reports, in their order.

    Raises:
        BroadcastFailed: Not all got them in time; each actor that did not prove the version is STALE.
        StopRequested: ``should_stop`` became true.
    """
    from learners.broadcast import RendezvousServer  # late: it imports torch, and a run begins sooner without

    cluster, split = config.cluster, config.rollout.tensor_parallel
    engines = config.rollout.actors
    seats = [1 + index * split for index in range(engines)]
    seats += [1 + engines * split + index for index in range(len(receivers) - engines)]
    processes = engines * split + len(receivers) - engines
    here = "127.0.0.1" if cluster.address is None else ray.util.get_node_ip_address()
    backend: Literal["nccl", "gloo"] = "nccl" if all(broadcast_gpus(config).values()) else "gloo"
    with RendezvousServer(here, processes, backend, cluster.sync_timeout_s) as server:
        sending = send(server.rendezvous)
        receiving: list[ObjectRef] = [
            handle.receive.remote(manifest, server.rendezvous.seat(seat))
            for handle, seat in zip(receivers, seats, strict=True)
        ]
        what = f"weights v{manifest.version} to be broadcast to {len(receivers)} actors (cluster.sync_timeout_s)"
        return _outcome(server, sending, receiving, cluster.sync_timeout_s, what, should_stop=should_stop)


def _outcome(
    server: RendezvousServer,
    sending: Future[None],
    receiving: list[ObjectRef],
    timeout: float,
    what: str,
    *,
    should_stop: Callable[[], bool],
) -> list[SyncReport]:
    """All reports; the first failure ends it for all, also for those who would wait for somebody who died."""
    deadline = time.monotonic() + timeout
    reports: dict[ObjectRef, SyncReport] = {}
    left, reason = list(receiving), ""
    while left or not sending.done():
        if should_stop():
            raise StopRequested
        failures: list[BaseException] = []
        if left:
            ready, left = ray.wait(left, num_returns=1, timeout=LOOK_S)
            for reference in ready:
                try:
                    reports[reference] = call(reference, _GRACE_S, what)
                except Exception as error:
                    failures.append(error)
        else:
            time.sleep(LOOK_S)
        if sending.done() and (refused := sending.exception()) is not None:
            failures.append(refused)
        late = time.monotonic() > deadline
        if late and reason:
            break  # somebody hangs
        if not reason and (failures or late):
            reason = str(failures[0]) if failures else f"no answer within {timeout:g} s: {what}"
            server.abort(reason)
            deadline = time.monotonic() + _GRACE_S
    if reason:
        raise BroadcastFailed(reason)
    return [reports[reference] for reference in receiving]
