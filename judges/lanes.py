"""Connections to one server, each a pool of its own: what a request costs does not grow with how many there are.

httpcore's pool looks at all its connections, and for each idle one at all again, whenever a request begins or ends:
with 64 of them that took eight times the processor time of all else that is done for an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import httpx


class Lanes(httpx.AsyncBaseTransport):
    """Requests over several transports, one at a time on each; the one that was free last is taken first.

    A request waits while none is free; the caller has the deadline.

    Args:
        lanes: Transports; they are closed with this one.
    """

    def __init__(self, lanes: Sequence[httpx.AsyncBaseTransport]) -> None:
        self._lanes = tuple(lanes)
        self._free: asyncio.LifoQueue[httpx.AsyncBaseTransport] = asyncio.LifoQueue()
        for lane in reversed(self._lanes):
            self._free.put_nowait(lane)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; its lane is free again when the response is closed, or there is none."""
        lane = await self._free.get()
        try:
            response = await lane.handle_async_request(request)
        except BaseException:
            self._free.put_nowait(lane)
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Closing(response.stream, lambda: self._free.put_nowait(lane))
        return response

    async def aclose(self) -> None:
        """Close all lanes."""
        for lane in self._lanes:
            await lane.aclose()


class _Closing(httpx.AsyncByteStream):
    """A body that says when it is closed, once."""

    def __init__(self, body: httpx.AsyncByteStream, closed: Callable[[], None]) -> None:
        self._body = body
        self._closed: Callable[[], None] | None = closed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._body:
            yield part

    async def aclose(self) -> None:
        closed, self._closed = self._closed, None
        try:
            await self._body.aclose()
        finally:
            if closed is not None:
                closed()
