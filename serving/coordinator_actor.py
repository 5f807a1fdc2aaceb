"""The actor around the coordinator. Serve's controller unpickles this class: it must not drag the project in there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ray

from configs.json_types import JsonObject

if TYPE_CHECKING:  # not imported by Serve's controller
    from serving.coordinator import Assignment
    from serving.facts import EndpointStatus, ReplicaFacts
    from serving.folder import Served


class CoordinatorProcess:
    """``serving.coordinator.Coordinator`` in a process of its own; arguments and methods are the coordinator's."""

    def __init__(self, folder: str, config: JsonObject, swap_timeout: float, url: str | None) -> None:
        from serving.coordinator import Coordinator

        self._coordinator = Coordinator(folder, config, swap_timeout, url)

    async def join(self, replica: str) -> Assignment:
        return await self._coordinator.join(replica)

    async def next(self, replica: str, facts: ReplicaFacts, generation: int) -> Assignment | None:
        return await self._coordinator.next(replica, facts, generation)

    async def report(self, replica: str, facts: ReplicaFacts, refused: Served | None = None, reason: str = "") -> None:
        await self._coordinator.report(replica, facts, refused, reason)

    async def status(self) -> EndpointStatus:
        return await self._coordinator.status()


CoordinatorActor = ray.remote(CoordinatorProcess)
