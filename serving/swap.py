"""The door of a replica: counts requests by version, and stands shut while weights are swapped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from serving.errors import RequestRefused


class RequestLease:
    """One request's stay.

    Attributes:
        seen: Versions that answered it, in their order.
        status: HTTP status that it ended with; 499 as long as it has not, which is what stays if the caller leaves.
    """

    def __init__(self, version: int, door: RequestGate) -> None:
        self.seen = [version]
        self.status = 499
        self._door = door

    @property
    def broken(self) -> bool:
        """Whether nobody knows any longer which weights would answer."""
        return self._door.broken

    def leave(self) -> None:
        """The request is over, well or badly."""
        self._door.leave(self)

    @property
    def versions(self) -> str:
        """``v3``, or ``v3-v4`` if the weights were swapped while it ran."""
        return "-".join(f"v{version}" for version in self.seen)


class RequestGate:
    """Admission to an engine whose weights change.

    A request that comes while the door is shut waits; one that is inside when the swap happens although it was waited
    for is marked with both versions. Lives in one event loop.

    Args:
        version: Weight version that answers.
        capacity: Requests inside and waiting together; more are refused.
    """

    def __init__(self, version: int, capacity: int) -> None:
        self.version = version
        self.broken = False
        self._capacity = capacity
        self._inside: set[RequestLease] = set()
        self._waiting = 0
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def inside(self) -> int:
        """Requests that are being answered."""
        return len(self._inside)

    async def admit(self, elsewhere: int = 0) -> RequestLease:
        """Wait until the door is open and go in; every lease must be given to ``leave``.

        Args:
            elsewhere: Requests that count as well, behind another door of the same replica.

        Raises:
            RequestRefused: 429, too many are here.
        """
        if self.inside + self._waiting + elsewhere >= self._capacity:
            raise RequestRefused(
                429,
                f"{self._capacity} requests are being answered already; try again in a second",
                headers={"Retry-After": "1"},
            )
        self._waiting += 1
        try:
            while not self._open.is_set():
                await self._open.wait()
        finally:
            self._waiting -= 1
        lease = RequestLease(self.version, self)
        self._inside.add(lease)
        self._empty.clear()
        return lease

    def leave(self, lease: RequestLease) -> None:
        """The request is over, well or badly."""
        self._inside.discard(lease)
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
        self._open.clear()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), drain)
            yield self.inside
        finally:
            self._open.set()

    def mark(self, version: int) -> None:
        """The engine is frozen and continues with ``version``: marks those inside that saw another one last."""
        for lease in self._inside:
            if lease.seen[-1] != version:
                lease.seen.append(version)
