"""A replica: one engine behind the OpenAI routes, following what the desk says is current."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from actors.telemetry import Telemetry
from configs.serving import ServeConfig
from serving.access import check_key
from serving.contact import DeskContact
from serving.desk import Assignment
from serving.engine import EngineSettings, ServingEngine, request_models
from serving.errors import ENGINE_FAILED, RequestRefused, refusal_in
from serving.folder import Served
from serving.pace import Pace
from serving.requests import Limits, check_request, parse_body
from serving.routes import body_schema, build_app
from serving.swap import Door, Ticket

logger = logging.getLogger(__name__)

_DESK_S = 30.0  # one answer of the desk, its long poll included, and its restart if it dies
_JOIN_S = 60.0  # the same for a replica that starts: without the desk it cannot go on
_AGAIN_S = 0.2  # between a question that failed and the next


class PolicyReplica:
    """The Serve deployment's class; ``PolicyReplicaApp`` is this behind Serve's HTTP proxy.

    Args:
        config: The serve section, as ``model_dump(mode="json")``.
        settings: What the engine is made of.
        keys: Digests of the API keys; none lets everybody in.
        desk: Name of the desk actor; None for the one that Serve keeps for the deployment.
        load_timeout: For each step of a weight update, in seconds.
    """

    # Serve awaits the constructor, so that the engine lives in Serve's event loop.
    _assigned: Assignment
    _engine: ServingEngine
    _door: Door
    _pace: Pace
    _limits: Limits
    _following: asyncio.Task[None]
    _facts: dict[str, Any]
    _routes: FastAPI

    async def __init__(  # type: ignore[misc]
        self,
        config: dict[str, Any],
        settings: EngineSettings,
        keys: tuple[str, ...],
        desk: str | None,
        load_timeout: float,
    ) -> None:
        self._config = ServeConfig.model_validate(config)
        self._settings, self._keys, self._load_timeout = settings, keys, load_timeout
        self._id = serve.get_replica_context().replica_tag
        self._desk = DeskContact(desk)
        self._broken = ""
        self._exported = Telemetry("endpoint", settings.name)
        assigned: Assignment = await self._desk.ask(_JOIN_S, "join", self._id)
        self._engine = await ServingEngine.start(Path(assigned.folder), settings, self._config)
        # Unproven until here, and there may be a newer one already: not ready before it has the one that is wanted.
        while True:
            error = await self._engine.load(Path(assigned.folder), assigned.manifest, load_timeout)
            self._assigned = assigned
            await self._report(error, within=_JOIN_S)
            newest: Assignment = await self._desk.ask(_JOIN_S, "join", self._id)
            if newest.manifest == assigned.manifest:
                break
            assigned = newest
        self._pace = Pace(self._config.stream_interval, self._config.chunk_ms / 1000)
        self._door = Door(assigned.manifest.version, self._config.max_concurrent)
        self._limits = Limits(
            (settings.name,),
            self._config.max_tokens,
            self._config.max_sequences,
            settings.max_length,
            self._engine.vocabulary,
        )
        self._following = asyncio.create_task(self._follow())

    # --- weights --------------------------------------------------------------------------------------------------

    async def _report(
        self, probe_error: float, refused: Served | None = None, reason: str = "", within: float = _DESK_S
    ) -> None:
        manifest = self._engine.manifest
        assert manifest is not None, "reports follow a load that was proven"
        self._show_version(manifest.version)
        self._facts = {
            "version": manifest.version,
            "checksum": manifest.checksum,
            "probe_error": probe_error,
            "pid": os.getpid(),
        }
        await self._desk.ask(within, "report", self._id, self._facts, refused, reason)

    async def _follow(self) -> None:
        """Ask the desk for the version to serve, for ever; the desk being away is no reason to stop serving."""
        while True:
            try:
                wanted: Assignment | None = await self._desk.ask(
                    _DESK_S, "next", self._id, self._facts, self._assigned.generation
                )
                if wanted is not None:
                    await self._take(wanted)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                logger.warning("serving on as before: %s", error)
                await asyncio.sleep(_AGAIN_S)

    async def _take(self, wanted: Assignment) -> None:
        if wanted.manifest == self._assigned.manifest:
            self._assigned = wanted
            self._show_version(wanted.manifest.version)  # a canary may have become the current version
            return
        refused: Served | None = None
        reason = ""
        async with self._door.shut(self._config.drain_s) as still_inside:
            try:
                error = await self._load(wanted)
                self._assigned = wanted
                self._door.version = wanted.manifest.version
            except Exception as failure:
                refused = Served(wanted.manifest.version, wanted.manifest.checksum)
                reason = f"v{wanted.manifest.version}: {failure or type(failure).__name__}"
                error = await self._go_back(reason)
        self._swapped(wanted, "loaded" if refused is None else "given up")
        if refused is None:
            logger.info("v%d is in, %d requests span it", wanted.manifest.version, still_inside)
        # With the door open: a desk that is away must not keep requests waiting.
        await self._report(error, refused, reason)

    async def _load(self, assigned: Assignment) -> float:
        version = assigned.manifest.version
        # Marked before the engine goes on: a token of the new weights must never be sent under the old name alone.
        return await self._engine.load(
            Path(assigned.folder), assigned.manifest, self._load_timeout, lambda: self._door.mark(version)
        )

    async def _go_back(self, reason: str) -> float:
        try:
            return await self._load(self._assigned)
        except Exception as second:
            # Serve replaces this replica; what it answers until then would come from unknown weights.
            self._broken = f"{reason}; and going back failed: {second}"
            raise

    def _swapped(self, wanted: Assignment, outcome: str) -> None:
        version = f"v{wanted.manifest.version}"
        self._exported.count("isogloss_serve_swaps", 1, version=version, outcome=outcome)

    async def check_health(self) -> None:
        """Called by Serve; raising has the replica replaced."""
        if self._broken:
            raise RuntimeError(self._broken)
        if self._following.done():
            raise RuntimeError("the replica no longer follows the desk")
        await self._engine.check()

    async def __del__(self) -> None:
        if hasattr(self, "_exported"):
            self._exported.close()
        following = getattr(self, "_following", None)
        if following is not None:
            following.cancel()
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.close()

    # --- HTTP -----------------------------------------------------------------------------------------------------

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The routes; called by Serve after the constructor."""
        answers = {"chat": self._guarded(self._chat), "completions": self._guarded(self._completions)}
        bodies = {kind: body_schema(kind, model, self._limits) for kind, model in request_models().items()}
        self._routes = build_app(self._guarded(self._health), self._guarded(self._models), answers, bodies)
        return self._routes

    async def openapi(self) -> dict[str, Any]:
        """The OpenAPI document of the routes; for callers within the cluster, by Serve's handle."""
        return self._routes.openapi()

    def _guarded(self, work: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                return await work(request)
            except asyncio.CancelledError:
                self._count(f"v{self._door.version}", 499)
                raise
            except RequestRefused as refused:
                self._count(f"v{self._door.version}", refused.status)
                return self._refusal(refused)
            except Exception:
                logger.exception("a request failed")
                self._count(f"v{self._door.version}", 500)
                return self._refusal(RequestRefused(500, "internal error; the replica's log has it"))

        return endpoint

    def _refusal(self, refused: RequestRefused) -> Response:
        headers = {**refused.headers, "x-isogloss-version": f"v{self._door.version}"}
        return JSONResponse(refused.body(), refused.status, headers)

    async def _health(self, _request: Request) -> Response:
        manifest = self._engine.manifest
        version = f"v{self._door.version}"
        if self._broken or manifest is None:
            return JSONResponse({"status": "not ready", "version": version}, 503)
        return JSONResponse({"status": "ok", "version": version, "checksum": manifest.checksum})

    async def _models(self, request: Request) -> Response:
        check_key(request.headers.get("authorization"), self._keys)
        card = {
            "id": self._settings.name,
            "object": "model",
            "created": int(self._assigned.promoted_at),
            "owned_by": "isogloss",
            "max_model_len": self._settings.max_length,
            "isogloss": {"current": self._assigned.current, "canary": self._assigned.canary},
        }
        return JSONResponse(
            {"object": "list", "data": [card]}, headers={"x-isogloss-version": f"v{self._door.version}"}
        )

    async def _chat(self, request: Request) -> Response:
        return await self._answer("chat", request)

    async def _completions(self, request: Request) -> Response:
        return await self._answer("completions", request)

    async def _answer(self, kind: str, request: Request) -> Response:
        begun = time.monotonic()
        deadline = asyncio.get_running_loop().time() + self._config.request_timeout_s
        check_key(request.headers.get("authorization"), self._keys)
        body = check_request(kind, parse_body(await self._body(request, deadline)), self._limits)
        stream: AsyncIterator[str] | None = None
        ticket: Ticket | None = None
        try:
            async with asyncio.timeout_at(deadline):
                ticket = await self._door.admit()
                if self._broken:
                    raise RequestRefused(503, "this replica is being replaced; try again", headers={"Retry-After": "5"})
                if body.get("stream"):
                    body.setdefault("stream_interval", self._pace.tokens(self._door.inside - 1))
                reply = await self._engine.answer(kind, body)
                if isinstance(reply, str):
                    versions = ticket.versions
                    ticket.status = 200
                    self._done(ticket, begun)
                    headers = {"x-isogloss-version": versions}
                    return Response(_marked(reply, versions), 200, headers, "application/json")
                stream = reply
                first = await anext(stream)  # before the status is sent: what fails at once gets its own
                if (refused := refusal_in(first)) is not None:
                    raise refused
        except TimeoutError:
            if ticket is not None:
                self._done(ticket, begun, count=False)
            raise self._too_slow() from None
        except BaseException:
            if ticket is not None:
                self._done(ticket, begun, count=False)  # counted where it is caught
            raise
        held = ticket
        events = self._events(first, stream, held, deadline, body["stream_interval"] / body.get("n", 1))
        return _Stream(events, {"x-isogloss-version": held.versions}, lambda: self._done(held, begun))

    async def _body(self, request: Request, deadline: float) -> bytes:
        limit = self._config.max_body_kb * 1024
        refusal = RequestRefused(413, f"the body is larger than {self._config.max_body_kb} KiB (serve.max_body_kb)")
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > limit:
            raise refusal
        parts, size = [], 0
        try:
            async with asyncio.timeout_at(deadline):
                async for part in request.stream():
                    size += len(part)
                    if size > limit:
                        raise refusal
                    parts.append(part)
        except TimeoutError:
            raise RequestRefused(408, "the request did not arrive in time") from None
        return b"".join(parts)

    async def _events(
        self, first: str, rest: AsyncIterator[str], ticket: Ticket, deadline: float, tokens: float
    ) -> AsyncIterator[str]:
        """Server-sent events, each marked with the version(s) that the reply comes from so far.

        Args:
            first: The first one.
            rest: The others.
            ticket: Of the request.
            deadline: In the event loop's time.
            tokens: Of one sequence, that an event carries.
        """
        event, begun, count = first, time.monotonic(), 0
        while True:
            count += 1
            if (refused := refusal_in(event)) is not None:
                ticket.status = refused.status
                yield _error_event(refused)
                return
            yield "data: " + _marked(event[6:], ticket.versions) if event.startswith("data: {") else event
            try:
                async with asyncio.timeout_at(deadline):
                    event = await anext(rest)
            except StopAsyncIteration:
                ticket.status = 200
                self._pace.saw((count - 1) * tokens, time.monotonic() - begun)
                return
            except TimeoutError:
                ticket.status = 504
                yield _error_event(self._too_slow())
                return
            except Exception:
                logger.exception("a stream failed")
                ticket.status = 500
                yield _error_event(RequestRefused(500, ENGINE_FAILED))
                return

    def _too_slow(self) -> RequestRefused:
        seconds = self._config.request_timeout_s
        return RequestRefused(504, f"not answered within {seconds:g} s (serve.request_timeout_s); ask for fewer tokens")

    def _done(self, ticket: Ticket, begun: float, count: bool = True) -> None:
        self._door.leave(ticket)
        if count:
            self._count(ticket.versions, ticket.status)
        self._exported.observe("isogloss_serve_request_seconds", time.monotonic() - begun, version=ticket.versions)

    def _count(self, versions: str, status: int) -> None:
        self._exported.count("isogloss_serve_requests", 1, version=versions, status=status)

    def _show_version(self, version: int) -> None:
        canary = self._assigned.canary
        role = "canary" if canary is not None and canary["version"] == f"v{version}" else "current"
        self._exported.forget("isogloss_served_version")  # it may have had the other role
        self._exported.set("isogloss_served_version", version, replica=self._id, role=role)


class _Stream(StreamingResponse):
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


def _marked(reply: str, versions: str) -> str:
    """A JSON object with the versions put in front."""
    return '{"isogloss":{"version":"' + versions + '"},' + reply[1:]


def _error_event(refused: RequestRefused) -> str:
    return "data: " + JSONResponse(refused.body()).body.decode() + "\n\ndata: [DONE]\n\n"  # type: ignore[union-attr]


PolicyReplicaApp = serve.ingress()(PolicyReplica)
