"""The actor around the coordinator. Serve's controller unpickles this class: it must not drag the project in there."""

from __future__ import annotations

from typing import Any

import ray


class CoordinatorProcess:
    """``serving.coordinator.Coordinator`` in a process of its own; arguments and methods are the coordinator's."""

    def __init__(self, folder: str, config: dict[str, Any], swap_timeout: float, url: str | None) -> None:
        from serving.coordinator import Coordinator

        self._coordinator = Coordinator(folder, config, swap_timeout, url)

    async def join(self, replica: str) -> Any:
        return await self._coordinator.join(replica)

    async def next(self, replica: str, facts: dict[str, Any], generation: int) -> Any:
        return await self._coordinator.next(replica, facts, generation)

    async def report(self, replica: str, facts: dict[str, Any], refused: Any = None, reason: str = "") -> None:
        await self._coordinator.report(replica, facts, refused, reason)

    async def status(self) -> dict[str, Any]:
        return await self._coordinator.status()


CoordinatorActor = ray.remote(CoordinatorProcess)
