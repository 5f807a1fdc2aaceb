"""What the rollout and the reward actor have in common: a worker behind Ray that takes every published version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import ray

from actors.engine.sync_report import SyncReport
from actors.runtime.spawn import Start
from learners.manifest import WeightsManifest
from learners.rendezvous import Rendezvous


class Worker(Protocol):
    """A worker that computes with published weights."""

    def version(self) -> int:
        """Weight version that it computes with."""
        ...

    def sync(self, manifest: WeightsManifest, weights: list[ray.ObjectRef]) -> SyncReport:
        """Take weights from Ray's object store."""
        ...

    def receive(self, manifest: WeightsManifest, rendezvous: Rendezvous) -> SyncReport:
        """Take weights by broadcast."""
        ...

    def turn(self, mine: bool) -> None:
        """Take the GPU, or leave it to another stage."""
        ...

    def stats(self) -> dict[str, float]:
        """Counters since the start."""
        ...


W = TypeVar("W", bound=Worker)


class WorkerActor(Generic[W]):
    """A worker behind Ray, to be decorated by ``ray.remote`` where it is derived from.

    A failed start is kept and raised by every call: an exception in a Ray constructor would reach the driver as
    a dead process, without the message for the user.

    Args:
        name: What Ray's dashboard and logs call the actor.
        build: Makes the worker.
    """

    def __init__(self, name: str, build: Callable[[], W]) -> None:
        self._name = name
        self._start = Start(build)

    def __repr__(self) -> str:  # what Ray's dashboard and logs call the actor
        return self._name

    def ready(self) -> int:
        """Answers once the worker is up: its weight version."""
        return self._start.worker.version()

    def version(self) -> int:
        """Weight version that the worker computes with."""
        return self._start.worker.version()

    def sync(self, manifest: WeightsManifest, weights: list[ray.ObjectRef]) -> SyncReport:
        """See the worker's ``sync``."""
        return self._start.worker.sync(manifest, weights)

    def receive(self, manifest: WeightsManifest, rendezvous: Rendezvous) -> SyncReport:
        """See the worker's ``receive``."""
        return self._start.worker.receive(manifest, rendezvous)

    def turn(self, mine: bool) -> None:
        """See the worker's ``turn``."""
        self._start.worker.turn(mine)

    def stats(self) -> dict[str, float]:
        """See the worker's ``stats``."""
        return self._start.worker.stats()
