"""A replica: one engine behind the OpenAI routes, following what the coordinator says is current."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
from fastapi import FastAPI
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from actors.observe.telemetry import Telemetry
from configs.json_types import JsonObject
from configs.serving import ServeConfig
from serving.access import check_key
from serving.chunking import Chunking
from serving.contact import CoordinatorContact
from serving.coordinator import Assignment
from serving.engine import EngineSettings, ServingEngine, request_models
from serving.errors import ENGINE_FAILED, RequestRefused, refusal_in
from serving.facts import ReplicaFacts
from serving.folder import Served
from serving.lanes import Lanes
from serving.ports import bind_to_node
from serving.requests import Limits, check_model, check_request, parse_body
from serving.routes import body_schema, build_app
from serving.stream import Stream, error_event, marked
from serving.swap import RequestLease

logger = logging.getLogger(__name__)

_COORDINATOR_S = 30.0  # one answer of the coordinator, its long poll included, and its restart if it dies
_JOIN_S = 60.0  # the same for a replica that starts: without the coordinator it cannot continue
_AGAIN_S = 0.2  # between a question that failed and the next


class PolicyReplica:
    """The Serve deployment's class; ``PolicyReplicaApp`` is this behind Serve's HTTP proxy.

    Args:
        config: The serve section, as ``model_dump(mode="json")``.
        settings: What the engine is made of.
        keys: Digests of the API keys; none lets everybody in.
        coordinator: Name of the coordinator actor; None for the one that Serve keeps for the deployment.
        load_timeout: For each step of a weight update, in seconds.
    """

    # Serve awaits the constructor, so that the engine lives in Serve's event loop.
    _assigned: Assignment
    _lanes: Lanes
    _chunking: Chunking
    _limits: Limits
    _following: asyncio.Task[None]
    _adding: asyncio.Task[None] | None
    _facts: ReplicaFacts
    _started: dict[str, float]
    _routes: FastAPI

    async def __init__(  # type: ignore[misc]
        self,
        config: JsonObject,
        settings: EngineSettings,
        keys: tuple[str, ...],
        coordinator: str | None,
        load_timeout: float,
    ) -> None:
        self._started = {"process": psutil.Process().create_time(), "imports": time.time()}
        self._config = ServeConfig.model_validate(config)
        self._settings, self._keys, self._load_timeout = settings, keys, load_timeout
        self._id = serve.get_replica_context().replica_tag
        bind_to_node()
        self._coordinator = CoordinatorContact(coordinator)
        self._exported = Telemetry("endpoint", settings.name)
        assigned: Assignment = await self._coordinator.ask(_JOIN_S, "join", self._id)
        engine = await ServingEngine.start(Path(assigned.folder), settings, self._config)
        self._started["engine"] = time.time()
        # Unproven until here, and there may be a newer one already: not ready before it has the one that is wanted.
        while True:
            error = await engine.load(Path(assigned.folder), assigned.manifest, load_timeout)
            self._assigned = assigned
            self._lanes = Lanes(engine, self._config, load_timeout, error)
            await self._report(error, within=_JOIN_S)
            newest: Assignment = await self._coordinator.ask(_JOIN_S, "join", self._id)
            if newest.manifest == assigned.manifest:
                break
            assigned = newest
        self._chunking = Chunking(self._config.stream_interval, self._config.chunk_ms / 1000)
        self._limits = Limits(
            (settings.name,),
            min(self._config.max_tokens, settings.max_length),
            self._config.max_sequences,
            settings.max_length,
            engine.vocabulary,
        )
        self._following = asyncio.create_task(self._follow())
        self._adding = asyncio.create_task(self._add_spare()) if self._config.spare_engine else None

    # --- weights --------------------------------------------------------------------------------------------------

    async def _report(
        self, probe_error: float, refused: Served | None = None, reason: str = "", within: float = _COORDINATOR_S
    ) -> None:
        manifest = self._lanes.manifest
        assert manifest is not None, "reports follow a load that was proven"
        self._show_version(manifest.version)
        self._facts = {
            "version": manifest.version,
            "checksum": manifest.checksum,
            "probe_error": probe_error,
            "pid": os.getpid(),
            "spare_engine": self._lanes.has_spare,
            "started": self._started,  # Unix seconds at the end of each part of the start
        }
        await self._coordinator.ask(within, "report", self._id, self._facts, refused, reason)

    async def _follow(self) -> None:
        """Ask the coordinator for the version to serve, for ever; where it is away, serving continues."""
        while not self._lanes.broken:
            try:
                wanted: Assignment | None = await self._coordinator.ask(
                    _COORDINATOR_S, "next", self._id, self._facts, self._assigned.generation
                )
                if wanted is not None:
                    await self._take(wanted)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                logger.warning("%s: %s", "broken" if self._lanes.broken else "serving as before", error)
                await asyncio.sleep(_AGAIN_S)

    async def _take(self, wanted: Assignment) -> None:
        if wanted.manifest == self._assigned.manifest:
            self._assigned = wanted
            self._show_version(wanted.manifest.version)  # a canary may have become the current version
            return
        error, reason = await self._lanes.replace(wanted, self._assigned)
        refused = Served(wanted.manifest.version, wanted.manifest.checksum) if reason else None
        if refused is None:
            self._assigned = wanted
        self._swapped(wanted, "loaded" if refused is None else "given up")
        # With the door open: a coordinator that is away must not keep requests waiting.
        await self._report(error, refused, reason)

    async def _add_spare(self) -> None:
        """A second engine, beside requests and swaps: until it is there, swaps are in place."""
        try:
            folder = Path(self._assigned.folder)
            engine = await ServingEngine.start(folder, self._settings, self._config)
            await engine.load(folder, self._assigned.manifest, self._load_timeout)
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("the spare engine does not start; weights are replaced in place")
            return
        self._lanes.add_spare(engine)
        self._facts = {**self._facts, "spare_engine": True}  # the coordinator hears of it with the next question

    def _swapped(self, wanted: Assignment, outcome: str) -> None:
        version = f"v{wanted.manifest.version}"
        self._exported.count("isogloss_serve_swaps", 1, version=version, outcome=outcome)

    async def check_health(self) -> None:
        """Called by Serve; raising has the replica replaced."""
        await self._lanes.check()
        if self._following.done():
            raise RuntimeError("the replica no longer follows the coordinator")

    async def __del__(self) -> None:
        if hasattr(self, "_exported"):
            self._exported.close()
        for task in (getattr(self, "_following", None), getattr(self, "_adding", None)):
            if task is not None:
                task.cancel()
        if hasattr(self, "_lanes"):
            self._lanes.close()

    # --- HTTP -----------------------------------------------------------------------------------------------------

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The routes; called by Serve after the constructor."""
        answers = {"chat": self._guarded(self._chat), "completions": self._guarded(self._completions)}
        bodies = {kind: body_schema(kind, model, self._limits) for kind, model in request_models().items()}
        self._routes = build_app(
            self._guarded(self._health),
            self._guarded(self._models),
            self._guarded(self._model),
            answers,
            bodies,
            cors_origins=self._config.cors_origins,
        )
        return self._routes

    async def openapi(self) -> JsonObject:
        """The OpenAPI document of the routes; for callers within the cluster, by Serve's handle."""
        return self._routes.openapi()

    def _guarded(self, work: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                return await work(request)
            except asyncio.CancelledError:
                self._count(f"v{self._lanes.version}", 499)
                raise
            except RequestRefused as refused:
                self._count(f"v{self._lanes.version}", refused.status)
                return self._refusal(refused)
            except Exception:
                logger.exception("a request failed")
                self._count(f"v{self._lanes.version}", 500)
                return self._refusal(RequestRefused(500, "internal error; the replica's log has it"))

        return endpoint

    def _refusal(self, refused: RequestRefused) -> Response:
        headers = {**refused.headers, "x-isogloss-version": f"v{self._lanes.version}"}
        return JSONResponse(refused.body(), refused.status, headers)

    async def _health(self, _request: Request) -> Response:
        manifest = self._lanes.manifest
        version = f"v{self._lanes.version}"
        if self._lanes.broken or manifest is None:
            return JSONResponse({"status": "not ready", "version": version}, 503)
        return JSONResponse({"status": "ok", "version": version, "checksum": manifest.checksum})

    async def _models(self, request: Request) -> Response:
        check_key(request.headers.get("authorization"), self._keys)
        return self._shown({"object": "list", "data": [self._card()]})

    async def _model(self, request: Request) -> Response:
        check_key(request.headers.get("authorization"), self._keys)
        check_model(request.path_params["model"], self._limits)
        return self._shown(self._card())

    def _shown(self, found: JsonObject) -> Response:
        return JSONResponse(found, headers={"x-isogloss-version": f"v{self._lanes.version}"})

    def _card(self) -> JsonObject:
        return {
            "id": self._settings.name,
            "object": "model",
            "created": int(self._assigned.promoted_at),
            "owned_by": "isogloss",
            "max_model_len": self._settings.max_length,
            "isogloss": {"current": self._assigned.current, "canary": self._assigned.canary},
        }

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
        lease: RequestLease | None = None
        try:
            async with asyncio.timeout_at(deadline):
                engine, lease = await self._lanes.admit()
                _refuse_if_broken(lease)
                if body.get("stream"):
                    body.setdefault("stream_interval", self._chunking.tokens(self._lanes.inside - 1))
                reply = await engine.answer(kind, body)
                _refuse_if_broken(lease)
                if isinstance(reply, str):
                    versions = lease.versions
                    lease.status = 200
                    self._done(lease, begun)
                    headers = {"x-isogloss-version": versions}
                    return Response(marked(reply, versions), 200, headers, "application/json")
                stream = reply
                first = await anext(stream)  # before the status is sent: what fails at once gets its own
                _refuse_if_broken(lease)
                if (refused := refusal_in(first)) is not None:
                    raise refused
        except TimeoutError:
            if lease is not None:
                self._done(lease, begun, count=False)
            raise self._too_slow() from None
        except BaseException:
            if lease is not None:
                self._done(lease, begun, count=False)  # counted where it is caught
            raise
        held = lease
        events = self._events(first, stream, held, deadline, body["stream_interval"] / body.get("n", 1))
        return Stream(events, {"x-isogloss-version": held.versions}, lambda: self._done(held, begun))

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
        self, first: str, rest: AsyncIterator[str], lease: RequestLease, deadline: float, tokens: float
    ) -> AsyncIterator[str]:
        """Server-sent events, each marked with the version(s) that the reply comes from so far.

        Args:
            first: The first one.
            rest: The others.
            lease: Of the request.
            deadline: In the event loop's time.
            tokens: Of one sequence, that an event carries.
        """
        event, begun, count = first, time.monotonic(), 0
        while True:
            count += 1
            if (refused := _replaced() if lease.broken else refusal_in(event)) is not None:
                lease.status = refused.status
                yield error_event(refused)
                return
            yield "data: " + marked(event[6:], lease.versions) if event.startswith("data: {") else event
            try:
                async with asyncio.timeout_at(deadline):
                    event = await anext(rest)
            except StopAsyncIteration:
                lease.status = 200
                self._chunking.saw((count - 1) * tokens, time.monotonic() - begun)
                return
            except TimeoutError:
                lease.status = 504
                yield error_event(self._too_slow())
                return
            except Exception:
                logger.exception("a stream failed")
                lease.status = 500
                yield error_event(RequestRefused(500, ENGINE_FAILED))
                return

    def _too_slow(self) -> RequestRefused:
        seconds = self._config.request_timeout_s
        return RequestRefused(504, f"not answered within {seconds:g} s (serve.request_timeout_s); ask for fewer tokens")

    def _done(self, lease: RequestLease, begun: float, count: bool = True) -> None:
        lease.leave()
        if count:
            self._count(lease.versions, lease.status)
        self._exported.observe("isogloss_serve_request_seconds", time.monotonic() - begun, version=lease.versions)

    def _count(self, versions: str, status: int) -> None:
        self._exported.count("isogloss_serve_requests", 1, version=versions, status=status)

    def _show_version(self, version: int) -> None:
        canary = self._assigned.canary
        role = "canary" if canary is not None and canary["version"] == f"v{version}" else "current"
        self._exported.forget("isogloss_served_version")  # it may have had the other role
        self._exported.set("isogloss_served_version", version, replica=self._id, role=role)


def _replaced() -> RequestRefused:
    return RequestRefused(503, "this replica is being replaced; send the request again", headers={"Retry-After": "5"})


def _refuse_if_broken(lease: RequestLease) -> None:
    if lease.broken:
        raise _replaced()


PolicyReplicaApp = serve.ingress()(PolicyReplica)
