"""The actor around the desk. Serve's controller unpickles this class: it must not drag the project in there."""

from __future__ import annotations

from typing import Any

import ray


class DeskProcess:
    """``serving.desk.Desk`` in a process of its own; arguments and methods are the desk's."""

    def __init__(self, folder: str, config: dict[str, Any], swap_timeout: float, url: str | None) -> None:
        from serving.desk import Desk

        self._desk = Desk(folder, config, swap_timeout, url)

    async def join(self, replica: str) -> Any:
        return await self._desk.join(replica)

    async def next(self, replica: str, facts: dict[str, Any], generation: int) -> Any:
        return await self._desk.next(replica, facts, generation)

    async def report(self, replica: str, facts: dict[str, Any], refused: Any = None, reason: str = "") -> None:
        await self._desk.report(replica, facts, refused, reason)

    async def status(self) -> dict[str, Any]:
        return await self._desk.status()


DeskActor = ray.remote(DeskProcess)
