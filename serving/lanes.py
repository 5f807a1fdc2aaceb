"""How a replica's weights are replaced: in the engine that answers, or in a spare one that takes its place."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

from configs.serving import ServeConfig
from learners.manifest import WeightsManifest
from serving.coordinator import Assignment
from serving.engine import ServingEngine
from serving.swap import RequestGate, RequestLease

logger = logging.getLogger(__name__)


@dataclass
class Lane:
    """An engine and the door to it."""

    engine: ServingEngine
    door: RequestGate

    async def load(self, assigned: Assignment, timeout: float) -> float:
        """Replace the engine's weights; who is inside is marked before the engine resumes.

        A token of the new weights must never be sent under the old name alone.

        Returns:
            Difference of the probe, nats per token.
        """
        version = assigned.manifest.version
        error = await self.engine.load(
            Path(assigned.folder), assigned.manifest, timeout, lambda: self.door.mark(version)
        )
        self.door.version = version
        return error


class Lanes:
    """The engines of a replica: one answers new requests; with a spare, the other takes the next weights.

    Args:
        engine: Its weights are proven.
        config: The serve section.
        load_timeout: For each step of a weight update, in seconds.
        probe_error: Difference of the engine's probe, nats per token.
    """

    def __init__(self, engine: ServingEngine, config: ServeConfig, load_timeout: float, probe_error: float) -> None:
        self._config, self._load_timeout = config, load_timeout
        self._active = self._lane(engine)
        self._spare: Lane | None = None
        self.broken = ""  # why nobody knows any longer which weights answer
        self._probe_error = probe_error

    def _lane(self, engine: ServingEngine) -> Lane:
        assert engine.manifest is not None, "weights are proven before requests come"
        return Lane(engine, RequestGate(engine.manifest.version, self._config.max_concurrent))

    def add_spare(self, engine: ServingEngine) -> None:
        """From now on new weights go into this engine first, while the other one answers."""
        self._spare = self._lane(engine)

    @property
    def manifest(self) -> WeightsManifest | None:
        """Of the weights that answer new requests; None while they are replaced."""
        return self._active.engine.manifest

    @property
    def version(self) -> int:
        """Version that answers new requests."""
        return self._active.door.version

    @property
    def has_spare(self) -> bool:
        """Whether the next weights are loaded beside the engine that answers."""
        return self._spare is not None

    @property
    def inside(self) -> int:
        """Requests that are being answered, by either engine."""
        return self._active.door.inside + (self._spare.door.inside if self._spare is not None else 0)

    async def admit(self) -> tuple[ServingEngine, RequestLease]:
        """Wait for the door, and go in: the engine that answers, and the lease to be given back to its door.

        Raises:
            RequestRefused: 429, too many are here.
        """
        lane = self._active
        return lane.engine, await lane.door.admit(self.inside - lane.door.inside)

    async def replace(self, wanted: Assignment, assigned: Assignment) -> tuple[float, str]:
        """Have new requests answered by other weights, or by the same as before if those cannot be loaded.

        Requests that are running finish on their weights, for at most ``serve.drain_s``. With a spare engine nobody
        waits for them meanwhile: it was left by the version before the current one, and takes the new weights.

        Args:
            wanted: What to serve.
            assigned: What is served.

        Returns:
            Difference of the probe of what is served now, and why ``wanted`` is not; "" if it is.

        Raises:
            Exception: Neither could be loaded into the engine that answers; ``broken`` says so.
        """
        lane = self._spare or self._active
        async with lane.door.shut(self._config.drain_s) as still_inside:
            try:
                error = await lane.load(wanted, self._load_timeout)
            except Exception as failure:
                reason = f"v{wanted.manifest.version}: {failure or type(failure).__name__}"
                return await self._go_back(lane, assigned, reason), reason
        if self._spare is not None:
            self._active, self._spare = self._spare, self._active
        self._probe_error = error
        logger.info("v%d is in, %d requests span it", wanted.manifest.version, still_inside)
        return error, ""

    async def _go_back(self, lane: Lane, assigned: Assignment, reason: str) -> float:
        try:
            return await lane.load(assigned, self._load_timeout)
        except Exception as second:
            lane.door.broken = True
            with contextlib.suppress(Exception):  # an engine that is dead has nothing to end
                await lane.engine.abort(self._load_timeout)
            what = f"{reason}; and going back failed: {second or type(second).__name__}"
            if lane is self._spare:
                self._drop_spare(what)
                return self._probe_error
            self.broken = what  # Serve replaces this replica
            raise

    def _drop_spare(self, reason: str) -> None:
        logger.error("the spare engine is given up, weights are replaced in place from now on: %s", reason)
        if self._spare is not None:
            self._spare.engine.close()
        self._spare = None

    async def check(self) -> None:
        """Raises if the process of the engine that answers is gone, or its weights are not known."""
        if self.broken:
            raise RuntimeError(self.broken)
        await self._active.engine.check()
        try:
            if self._spare is not None:
                await self._spare.engine.check()
        except Exception as error:
            self._drop_spare(f"its process is gone ({error})")

    def close(self) -> None:
        """End the engines' processes."""
        for lane in (self._active, self._spare):
            if lane is not None:
                lane.engine.close()
