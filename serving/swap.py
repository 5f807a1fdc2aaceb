"""The door of a replica: counts requests by version, and stands shut while weights are swapped."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from serving.errors import RequestRefused


class Ticket:
    """One request's stay.

    Attributes:
        seen: Versions that answered it, in their order.
        status: HTTP status that it ended with; 499 as long as it has not, which is what stays if the caller leaves.
    """

    def __init__(self, version: int) -> None:
        self.seen = [version]
        self.status = 499

    @property
    def versions(self) -> str:
        """``v3``, or ``v3-v4`` if the weights were swapped while it ran."""
        return "-".join(f"v{version}" for version in self.seen)


class Door:
    """Admission to an engine whose weights change.

    A request that comes while the door is shut waits; one that is inside when the swap happens although it was waited
    for is marked with both versions. Lives in one event loop.

    Args:
        version: Weight version that answers.
        capacity: Requests inside and waiting together; more are refused.
    """

    def __init__(self, version: int, capacity: int) -> None:
        self.version = version
        self._capacity = capacity
        self._inside: set[Ticket] = set()
        self._waiting = 0
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.shut_seconds: list[float] = []

    @property
    def inside(self) -> int:
        """Requests that are being answered."""
        return len(self._inside)

    @contextlib.asynccontextmanager
    async def enter(self) -> AsyncIterator[Ticket]:
        """One request, from admission to its last byte.

        Raises:
            RequestRefused: 429, too many are here.
        """
        ticket = await self.admit()
        try:
            yield ticket
        finally:
            self.leave(ticket)

    async def admit(self) -> Ticket:
        """Wait until the door is open and go in; every ticket must be given to ``leave``.

        Raises:
            RequestRefused: 429, too many are here.
        """
        if self.inside + self._waiting >= self._capacity:
            raise RequestRefused(
                429,
                f"{self._capacity} requests are in hand already; try again in a second",
                headers={"Retry-After": "1"},
            )
        self._waiting += 1
        try:
            while not self._open.is_set():
                await self._open.wait()
        finally:
            self._waiting -= 1
        ticket = Ticket(self.version)
        self._inside.add(ticket)
        self._empty.clear()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The request is over, well or badly."""
        self._inside.discard(ticket)
        if not self._inside:
            self._empty.set()

    @contextlib.asynccontextmanager
    async def shut(self, drain: float) -> AsyncIterator[int]:
        """Keep new requests waiting, and wait for those inside.

        Args:
            drain: Longest wait for those inside, in seconds.

        Yields:
            How many are still inside after it.
        """
        begun = time.monotonic()
        self._open.clear()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), drain)
            yield self.inside
        finally:
            self._open.set()
            self.shut_seconds.append(time.monotonic() - begun)

    def mark(self, version: int) -> None:
        """The engine is frozen and goes on with ``version``: marks those that are inside."""
        for ticket in self._inside:
            ticket.seen.append(version)
