"""Which engine answers while weights are replaced, and what is left when they cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from configs.serving import ServeConfig
from learners.manifest import WeightsManifest
from serving.coordinator import Assignment
from serving.errors import RequestRefused
from serving.lanes import Lanes

TIMEOUT_S = 5.0


def assignment(version: int) -> Assignment:
    manifest = WeightsManifest(version, f"{version:016x}", ("a",), ("float32",), ((2,),), (1, 2), (-1.5,))
    return Assignment(
        version, f"v{version}", manifest, {"version": f"v{version}", "checksum": manifest.checksum}, None, 0.0
    )


@dataclass
class Engine:
    """What Lanes uses of an engine; ``unloadable`` versions fail."""

    manifest: WeightsManifest | None
    unloadable: set[int] = field(default_factory=set)
    alive: bool = True
    ended: str = ""

    async def load(self, folder: Path, manifest: WeightsManifest, timeout: float, proven: Callable[[], None]) -> float:
        self.manifest = None
        await asyncio.sleep(0)
        if manifest.version in self.unloadable:
            raise ValueError("probe")
        self.manifest = manifest
        proven()
        return manifest.version / 10

    async def abort(self, timeout: float) -> None:
        self.ended = "aborted"

    async def check(self) -> None:
        if not self.alive:
            raise RuntimeError("dead")

    def close(self) -> None:
        self.ended += " closed"


def lanes_of(first: Engine, spare: Engine | None = None, **fields: Any) -> Lanes:
    found = Lanes(first, ServeConfig(**fields), TIMEOUT_S, 0.5)  # type: ignore[arg-type]
    if spare is not None:
        found.add_spare(spare)  # type: ignore[arg-type]
    return found


def play(scene: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scene, 20)

    asyncio.run(bounded())


def at(version: int, *unloadable: int) -> Engine:
    return Engine(assignment(version).manifest, set(unloadable))


def test_with_a_spare_nobody_waits_and_nothing_is_mixed() -> None:
    async def scene() -> None:
        first, second = at(0), at(0)
        lanes = lanes_of(first, second, drain_s=60)
        engine, old = await lanes.admit()
        assert engine is first
        assert await lanes.replace(assignment(1), assignment(0)) == (0.1, "")
        engine, new = await lanes.admit()
        assert engine is second
        assert (old.versions, new.versions, lanes.version, lanes.inside) == ("v0", "v1", 1, 2)
        # The next swap is into the engine that the first request is still in: it is waited for, others are not.
        swap = asyncio.create_task(lanes.replace(assignment(2), assignment(1)))
        await asyncio.sleep(0.01)
        engine, during = await lanes.admit()
        assert engine is second
        assert not swap.done()
        old.leave()
        assert await swap == (0.2, "")
        assert (old.versions, during.versions) == ("v0", "v1")
        assert (await lanes.admit())[0] is first

    play(scene())


def test_without_a_spare_requests_that_stay_are_marked() -> None:
    async def scene() -> None:
        lanes = lanes_of(at(0), drain_s=0.01)
        _, lease = await lanes.admit()
        assert await lanes.replace(assignment(1), assignment(0)) == (0.1, "")
        assert (lease.versions, lease.broken) == ("v0-v1", False)

    play(scene())


@pytest.mark.parametrize("spare", [True, False])
def test_a_version_that_does_not_load_changes_nothing(spare: bool) -> None:
    async def scene() -> None:
        engines = (at(0, 1), at(0, 1))
        lanes = lanes_of(engines[0], engines[1] if spare else None, drain_s=0.01)
        _, lease = await lanes.admit()
        assert await lanes.replace(assignment(1), assignment(0)) == (0.0, "v1: probe")
        assert (await lanes.admit())[0] is engines[0]
        assert (lease.versions, lanes.version, lanes.broken) == ("v0", 0, "")
        await lanes.check()

    play(scene())


def test_a_second_failure_breaks_the_engine_that_answers_and_a_spare_is_let_go() -> None:
    async def scene() -> None:
        engine = at(0, 0, 1)
        lanes = lanes_of(engine, drain_s=0.01)
        _, lease = await lanes.admit()
        with pytest.raises(ValueError, match="probe"):
            await lanes.replace(assignment(1), assignment(0))
        assert (lease.broken, engine.ended) == (True, "aborted")
        assert (await lanes.admit())[1].broken
        with pytest.raises(RuntimeError, match="v1: probe; and going back failed: probe"):
            await lanes.check()

        first, second = at(0), at(0, 0, 1)
        lanes = lanes_of(first, second, drain_s=0.01)
        _, lease = await lanes.admit()
        assert await lanes.replace(assignment(1), assignment(0)) == (0.5, "v1: probe")
        assert (lease.broken, second.ended) == (False, "aborted closed")
        await lanes.check()
        assert await lanes.replace(assignment(2), assignment(0)) == (0.2, ""), "in place from now on"
        assert first.manifest == assignment(2).manifest

    play(scene())


def test_a_spare_that_died_is_let_go_and_both_count_for_the_limit() -> None:
    async def scene() -> None:
        first, second = at(0), at(0)
        lanes = lanes_of(first, second, drain_s=0.01, max_concurrent=2)
        await lanes.admit()
        await lanes.replace(assignment(1), assignment(0))
        await lanes.admit()
        with pytest.raises(RequestRefused) as caught:
            await lanes.admit()
        assert caught.value.status == 429
        first.alive = False
        await lanes.check()
        assert first.ended == " closed"
        second.alive = False
        with pytest.raises(RuntimeError, match="dead"):
            await lanes.check()

    play(scene())
