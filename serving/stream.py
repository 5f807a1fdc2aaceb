"""Replies as they leave a replica: streams that say when they are over, and the version that each part comes from."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from serving.errors import RequestRefused


class Stream(StreamingResponse):
    """A streamed reply that says when it is over, also when the caller went away before it began."""

    def __init__(self, events: AsyncIterator[str], headers: dict[str, str], over: Callable[[], None]) -> None:
        super().__init__(events, 200, headers, "text/event-stream")
        self._events, self._over = events, over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._over()
            with contextlib.suppress(Exception):
                await self._events.aclose()  # type: ignore[attr-defined]  # a generator: ends the request in the engine


def marked(reply: str, versions: str) -> str:
    """A JSON object with the versions put in front."""
    return '{"isogloss":{"version":"' + versions + '"},' + reply[1:]


def error_event(refused: RequestRefused) -> str:
    """A streamed error, and the end of the stream."""
    return "data: " + JSONResponse(refused.body()).body.decode() + "\n\ndata: [DONE]\n\n"  # type: ignore[union-attr]
