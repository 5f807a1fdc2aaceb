"""How a replica reaches its coordinator, and reaches it again after the coordinator's process died."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import ray
from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

NAMESPACE = "isogloss-serving"
COORDINATOR = "coordinator"  # of a deployment that has its own
_AGAIN_S = 0.2


class CoordinatorAway(Exception):
    """The coordinator did not answer in time."""


class CoordinatorContact:
    """Calls to the coordinator. Ray or Serve restarts a dead one, whose handle may be another: it is looked up again.

    Args:
        name: Of the coordinator actor; None for the one that Serve keeps for this replica's deployment.
        find: Looks it up; raises ValueError as long as there is none. For tests.
    """

    def __init__(self, name: str | None, find: Callable[[str | None], ActorHandle] | None = None) -> None:
        self._name = name
        self._find = find or _look_up
        self._handle: ActorHandle | None = None

    async def ask(self, within: float, method: str, *arguments: object) -> Any:
        """Call a method of the coordinator; a coordinator that is being restarted is waited for.

        Args:
            within: Deadline of it all, in seconds.
            method: Name of the method.
            arguments: Its arguments. The coordinator may get them twice: it dies after it acted, before it answered.

        Raises:
            CoordinatorAway: No answer in time.
        """
        reason: Exception | None = None
        try:
            async with asyncio.timeout(within):
                while True:
                    try:
                        handle = await self._found()
                        return await getattr(handle, method).remote(*arguments)
                    except (RayActorError, _NoCoordinator) as error:
                        self._handle, reason = None, error
                    await asyncio.sleep(_AGAIN_S)
        except TimeoutError:
            raise CoordinatorAway(f"no answer to {method} within {within:g} s ({reason or 'it is silent'})") from None

    async def _found(self) -> ActorHandle:
        if self._handle is None:
            try:
                self._handle = await asyncio.to_thread(self._find, self._name)
            except ValueError as error:
                raise _NoCoordinator(str(error)) from None
        return self._handle


class _NoCoordinator(Exception):
    """There is no actor of that name now."""


def _look_up(name: str | None) -> ActorHandle:
    return serve.get_deployment_actor(COORDINATOR) if name is None else ray.get_actor(name, namespace=NAMESPACE)
