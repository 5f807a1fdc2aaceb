"""The coordinator: which replica serves which version, one swap at a time. Rebuilt from the run folder if it dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from configs.atomic import write_json
from configs.errors import UserError
from configs.json_types import JsonObject
from configs.serving import ServeConfig
from learners.manifest import WeightsManifest
from serving.facts import EndpointStatus, ReplicaFacts, ReplicaRow, ShownVersion
from serving.folder import STATE, STATUS, STATUS_FRESH_S, Served, ServingFolder, ServingState

logger = logging.getLogger(__name__)

POLL_S = 0.2  # how often the state file is looked at
_LONG_POLL_S = 5.0
_GONE_S = 20.0  # without a word from a replica
_STATUS_S = 2.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a replica shall serve.

    Attributes:
        generation: Of the serving state.
        folder: Model folder.
        manifest: What the folder holds.
        current: Current version, as /v1/models shows it.
        canary: The canary, or None.
        promoted_at: Unix seconds of the state's last change.
    """

    generation: int
    folder: str
    manifest: WeightsManifest
    current: ShownVersion
    canary: ShownVersion | None
    promoted_at: float


@dataclass
class _Replica:
    seen: float
    facts: ReplicaFacts | None = None


class Coordinator:
    """What ``CoordinatorActor`` runs: one event loop, no threads.

    Args:
        folder: The run's folder.
        config: The serve section, as ``model_dump(mode="json")``.
        swap_timeout: A replica that was told to swap and says nothing for so long loses its turn, in seconds.
        url: Where the endpoint listens, for the status file; None where Serve's own config says it.
    """

    def __init__(self, folder: str, config: JsonObject, swap_timeout: float, url: str | None) -> None:
        self._folder = ServingFolder(Path(folder))
        self._config = ServeConfig.model_validate(config)
        self._swap_timeout, self._url = swap_timeout, url
        self._replicas: dict[str, _Replica] = {}
        self._canaries: list[str] = []
        self._turn: tuple[str, float] | None = None
        self._manifests: dict[Served, WeightsManifest] = {}
        self._changed = asyncio.Event()
        self._stamp = (0, 0)
        state = self._folder.read()
        if state is None:
            raise UserError(f"{folder}: nothing to serve; promote a version first")
        self._state: ServingState = state
        self._mtime = self._started = time.time()
        self._watching: asyncio.Task[None] | None = None

    async def join(self, replica: str) -> Assignment:
        """What a replica that starts shall load, without waiting for a turn."""
        self._seen(replica)
        self._look()
        return self._assignment(self._target(replica))

    async def next(self, replica: str, facts: ReplicaFacts, generation: int) -> Assignment | None:
        """What a replica shall do now; None if nothing changed within some seconds.

        Args:
            replica: Its name.
            facts: What it serves, as in ``report``: a coordinator that was restarted learns it here.
            generation: Of its last assignment.
        """
        deadline = time.monotonic() + _LONG_POLL_S
        while True:
            self._seen(replica).facts = facts
            target = self._target(replica)
            if target.version == facts["version"]:
                if generation != self._state.generation:
                    return self._assignment(target)
            elif self._take_turn(replica):
                return self._assignment(target)
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left, POLL_S))

    async def report(self, replica: str, facts: ReplicaFacts, refused: Served | None = None, reason: str = "") -> None:
        """What a replica serves after a swap or its start.

        Args:
            replica: Its name.
            facts: For the status.
            refused: Version that it was told to serve and could not.
            reason: Why.
        """
        self._seen(replica).facts = facts
        if self._turn is not None and self._turn[0] == replica:
            self._turn = None
        if refused is not None:
            self._folder.failed(refused, f"{replica}: {reason}")
            self._look()
        self._notify()
        self._write_status()

    async def status(self) -> EndpointStatus:
        """What is wanted, and what each replica serves."""
        self._look()  # who has just promoted must not see the state before
        return self._status()

    def _status(self) -> EndpointStatus:
        self._drop_silent()
        return {
            "time": time.time(),
            "coordinator": {"pid": os.getpid(), "started": self._started},
            "url": self._url,
            "wanted": self._state.to_json(),
            "replicas": {name: self._row(name, replica.facts) for name, replica in self._replicas.items()},
        }

    def _row(self, name: str, facts: ReplicaFacts | None) -> ReplicaRow:
        target = self._target(name).version
        return {"target": target} if facts is None else {**facts, "target": target}

    def _write_status(self) -> None:
        if self._superseded():
            return
        try:
            write_json(self._folder.path / STATUS, self._status(), writers=2)
        except OSError as error:  # a full disk must not end the endpoint
            logger.warning("cannot write the status file: %s", error)

    def _superseded(self) -> bool:
        """Whether another coordinator writes the status: while Serve replaces replicas there are two.

        The one whose replicas answer does, and of two of that kind the younger.
        """
        try:
            found = json.loads((self._folder.path / STATUS).read_text(encoding="utf-8"))
            started, fresh = found["coordinator"]["started"], time.time() - found["time"] < STATUS_FRESH_S
            there = any("version" in row for row in found["replicas"].values())
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return False
        here = any(row.facts is not None for row in self._replicas.values())
        if started == self._started or not fresh:
            return False
        return there if here != there else started > self._started

    def _seen(self, replica: str) -> _Replica:
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        row = self._replicas.setdefault(replica, _Replica(0.0))
        row.seen = time.monotonic()
        return row

    async def _watch(self) -> None:
        written = 0.0
        while True:
            self._look()
            if time.monotonic() - written > _STATUS_S:
                written = time.monotonic()
                self._write_status()
            await asyncio.sleep(POLL_S)

    def _look(self) -> None:
        """Read the state file if it changed."""
        try:
            found = (self._folder.path / STATE).stat()
            stamp = found.st_mtime_ns, found.st_ino  # each change is a new file, and clocks are coarse
            if stamp == self._stamp:
                return
            state = self._folder.read()
        except (OSError, UserError) as error:
            logger.warning("serving on as before: %s", error)
            return
        self._stamp = stamp
        self._mtime = found.st_mtime
        if state is not None and state != self._state:
            self._state = state
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _drop_silent(self) -> None:
        now = time.monotonic()
        # A replica that swaps is silent until it has finished.
        patience = {self._turn[0]: self._swap_timeout} if self._turn else {}
        for name in [n for n, r in self._replicas.items() if now - r.seen > max(_GONE_S, patience.get(n, 0.0))]:
            del self._replicas[name]

    def _take_turn(self, replica: str) -> bool:
        now = time.monotonic()
        if self._turn is not None and self._turn[0] != replica:
            holder, since = self._turn
            if holder in self._replicas and now - since < self._swap_timeout:
                return False
        self._turn = replica, now
        return True

    def _target(self, replica: str) -> Served:
        canary = self._state.canary
        if canary is None:
            self._canaries = []
            return self._state.current
        wanted = self._config.canary_replicas(len(self._replicas))
        self._canaries = [name for name in self._canaries if name in self._replicas][:wanted]
        for name in reversed(self._replicas):
            if len(self._canaries) < wanted and name not in self._canaries:
                self._canaries.append(name)
        return canary if replica in self._canaries else self._state.current

    def _assignment(self, target: Served) -> Assignment:
        state = self._state
        if target not in self._manifests:
            self._manifests[target] = self._folder.manifest(target.version)
        return Assignment(
            state.generation,
            str(self._folder.version_folder(target.version)),
            self._manifests[target],
            _shown(state.current),
            None if state.canary is None else _shown(state.canary),
            self._mtime,
        )


def _shown(served: Served) -> ShownVersion:
    return {"version": f"v{served.version}", "checksum": served.checksum}
