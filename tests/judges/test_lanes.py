"""Connections of their own: as many requests at once as there are lanes, and a lane is free again whatever happens."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from judges.lanes import Lanes


class _Lane(httpx.AsyncBaseTransport):
    """Answers when it is let; notes how many requests it holds."""

    def __init__(self, go: asyncio.Event) -> None:
        self.go, self.now, self.most, self.served, self.closed = go, 0, 0, 0, False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.go.wait()
            if request.url.path == "/broken":
                raise httpx.ConnectError("refused")
        finally:
            self.now -= 1
        self.served += 1
        return httpx.Response(200, stream=httpx.ByteStream(b"body"))

    async def aclose(self) -> None:
        self.closed = True


def test_each_lane_holds_one_request_and_every_request_is_answered() -> None:
    async def run() -> None:
        go = asyncio.Event()
        lanes = [_Lane(go) for _ in range(3)]
        async with httpx.AsyncClient(transport=Lanes(lanes)) as client:
            asked = [asyncio.create_task(client.get("http://server/")) for _ in range(10)]
            while sum(lane.now for lane in lanes) < 3:
                await asyncio.sleep(0)
            go.set()
            assert {(await one).content for one in asked} == {b"body"}
        assert [lane.most for lane in lanes] == [1, 1, 1]
        assert all(lane.closed for lane in lanes)

    asyncio.run(asyncio.wait_for(run(), 10))


def test_a_lane_is_free_again_after_a_failure_and_after_a_caller_that_left() -> None:
    async def run() -> None:
        go = asyncio.Event()
        lane = _Lane(go)
        async with httpx.AsyncClient(transport=Lanes([lane, other := _Lane(go)])) as client:
            left = asyncio.create_task(client.get("http://server/"))
            while not lane.now:
                await asyncio.sleep(0)
            left.cancel()
            with pytest.raises(asyncio.CancelledError):
                await left
            go.set()
            with pytest.raises(httpx.ConnectError):
                await client.get("http://server/broken")
            async with client.stream("GET", "http://server/"):
                pass  # closed unread
            for _ in range(3):
                assert (await client.get("http://server/")).content == b"body"
        assert (lane.served, other.served) == (4, 0), "the lane that was free last is taken first"

    asyncio.run(asyncio.wait_for(run(), 10))
