"""The coordinator without Ray: who serves what, one swap at a time, and what it knows after its death."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayActorError

from configs.errors import UserError
from configs.serving import ServeConfig
from learners.manifest import WeightsManifest
from serving import contact
from serving import coordinator as module
from serving.contact import CoordinatorAway, CoordinatorContact
from serving.coordinator import Coordinator
from serving.facts import ReplicaFacts
from serving.folder import Served, ServingFolder
from serving.gate import GateDecision
from tests.kits.imports import check_left_out

PASSED = GateDecision(True, "test")
NAMES = ["a", "b", "c", "d"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr(module, "_LONG_POLL_S", 0.05)
    monkeypatch.setattr(contact, "_AGAIN_S", 0.01)


@pytest.fixture
def folder(tmp_path: Path) -> ServingFolder:
    (tmp_path / "model").mkdir()
    found = ServingFolder(tmp_path / "run")
    put(found, 0)
    return found


def put(folder: ServingFolder, version: int, canary: bool = False) -> None:
    manifest = WeightsManifest(version, f"{version:016x}", ("a",), ("float32",), ((2,),), (1, 2), (-1.5,))
    folder.promote(folder.path.parent / "model", manifest, PASSED, "test", canary)


def coordinator_of(folder: ServingFolder, swap_timeout: float = 60.0, **fields: Any) -> Coordinator:
    config = ServeConfig(**{"min_replicas": 4, "max_replicas": 4, **fields})
    return Coordinator(str(folder.path), config.model_dump(mode="json"), swap_timeout, "http://here")


def play(scene: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scene, 20)

    asyncio.run(bounded())


def facts(version: int) -> ReplicaFacts:
    return {
        "version": version,
        "checksum": f"{version:016x}",
        "probe_error": 0.0,
        "pid": 1,
        "spare_engine": False,
        "started": {},
    }


async def done(coordinator: Coordinator, name: str, version: int, refused: Served | None = None) -> None:
    await coordinator.report(name, facts(version), refused, "probe")


async def start(coordinator: Coordinator) -> None:
    for name in NAMES:
        assigned = await coordinator.join(name)
        await done(coordinator, name, assigned.manifest.version)


def test_replicas_swap_one_after_the_other(folder: ServingFolder) -> None:
    async def scene() -> None:
        coordinator = coordinator_of(folder)
        await start(coordinator)
        assert await coordinator.next("a", facts(0), 1) is None
        put(folder, 1)
        asked = [await coordinator.next(name, facts(0), 1) for name in NAMES]
        given = [name for name, assigned in zip(NAMES, asked, strict=True) if assigned is not None]
        assert given == ["a"]
        await done(coordinator, "a", 1)
        assert await coordinator.next("b", facts(0), 1) is not None
        assert await coordinator.next("c", facts(0), 1) is None
        status = json.loads((folder.path / "serving.status.json").read_text())
        assert {name: row["version"] for name, row in status["replicas"].items()} == {"a": 1, "b": 0, "c": 0, "d": 0}
        assert {row["target"] for row in status["replicas"].values()} == {1}

    play(scene())


def test_a_turn_that_is_not_used_is_lost(folder: ServingFolder) -> None:
    async def scene() -> None:
        coordinator = coordinator_of(folder, swap_timeout=0.1)
        await start(coordinator)
        put(folder, 1)
        assert await coordinator.next("a", facts(0), 1) is not None
        assert await coordinator.next("b", facts(0), 1) is None
        await asyncio.sleep(0.1)
        assert await coordinator.next("b", facts(0), 1) is not None

    play(scene())


def test_a_canary_takes_its_share_and_goes_again(folder: ServingFolder) -> None:
    async def scene() -> None:
        coordinator = coordinator_of(folder, canary_share=0.25)
        await start(coordinator)
        put(folder, 1, canary=True)
        coordinator._look()
        targets = {name: row["target"] for name, row in (await coordinator.status())["replicas"].items()}
        assert sorted(targets.values()) == [0, 0, 0, 1]
        (chosen,) = [name for name, version in targets.items() if version == 1]
        assigned = await coordinator.next(chosen, facts(0), 1)
        assert assigned is not None
        assert (assigned.manifest.version, assigned.canary) == (1, {"version": "v1", "checksum": f"{1:016x}"})
        await done(coordinator, chosen, 1)
        # Who serves on learns of the canary as well, without a turn.
        other = await coordinator.next("a" if chosen != "a" else "b", facts(0), 1)
        assert other is not None
        assert other.manifest.version == 0
        folder.rollback("test")
        coordinator._look()
        back = await coordinator.next(chosen, facts(1), 2)
        assert back is not None
        assert back.manifest.version == 0

    play(scene())


def test_a_failed_load_brings_everybody_back(folder: ServingFolder) -> None:
    async def scene() -> None:
        coordinator = coordinator_of(folder)
        await start(coordinator)
        put(folder, 1)
        coordinator._look()
        assert await coordinator.next("a", facts(0), 1) is not None
        await done(coordinator, "a", 0, refused=Served(1, f"{1:016x}"))
        state = folder.read()
        assert state is not None
        assert state.current.version == 0
        assert {row["target"] for row in (await coordinator.status())["replicas"].values()} == {0}

    play(scene())


def test_coordinator_is_rebuilt_from_the_folder(folder: ServingFolder) -> None:
    async def scene() -> None:
        await start(coordinator_of(folder))
        put(folder, 1)
        again = coordinator_of(folder)
        # A replica that knew the old coordinator only asks the new one and is told what is current.
        assigned = await again.next("a", facts(0), 1)
        assert assigned is not None
        assert assigned.manifest.version == 1
        assert assigned.folder == str(folder.version_folder(1))
        assert (await again.status())["replicas"]["a"]["checksum"] == f"{0:016x}"

    play(scene())


def test_of_two_coordinators_the_younger_writes_the_status(
    folder: ServingFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        old, new = coordinator_of(folder), coordinator_of(folder)
        assert new._started > old._started

        def written() -> list[str]:
            return list(json.loads((folder.path / "serving.status.json").read_text())["replicas"])

        await done(old, "a", 0)
        await new.join("b")
        new._write_status()
        assert written() == ["a"], "the younger one's replica does not serve yet"
        await done(new, "b", 0)
        assert written() == ["b"]
        await done(old, "a", 0)
        assert written() == ["b"]
        # The younger one is gone: Serve took the change back, say.
        monkeypatch.setattr(module, "STATUS_FRESH_S", 0.0)
        await done(old, "a", 0)
        assert written() == ["a"]

    play(scene())


class Line:
    """An actor's handle: each call takes the next outcome."""

    def __init__(self, *outcomes: Any) -> None:
        self._outcomes = list(outcomes)
        self.next = self

    async def remote(self, *arguments: Any) -> Any:
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome, arguments


def test_a_replica_finds_its_coordinator_again() -> None:
    # When Serve replaces a coordinator, the handle is dead, then there is no such actor, then another.
    found = [Line("first", RayActorError()), ValueError("no such actor"), Line(RayActorError()), Line("second")]

    def find(name: str | None) -> Any:
        assert name == "isogloss-mine"
        each = found.pop(0)
        if isinstance(each, Exception):
            raise each
        return each

    async def scene() -> None:
        line = CoordinatorContact("isogloss-mine", find)
        assert await line.ask(5, "next", "a", 1) == ("first", ("a", 1))
        assert await line.ask(5, "next", "a", 2) == ("second", ("a", 2))
        assert found == []

    play(scene())


def test_a_coordinator_that_stays_away_is_given_up_in_time() -> None:
    def find(name: str | None) -> Any:
        raise ValueError("no such actor")

    async def scene() -> None:
        with pytest.raises(CoordinatorAway, match="no answer to join within 0.05 s .no such actor"):
            await CoordinatorContact("isogloss-mine", find).ask(0.05, "join", "a")

    play(scene())


def test_what_the_coordinator_itself_refuses_is_not_asked_again() -> None:
    async def scene() -> None:
        for error in (UserError("damaged"), ValueError("damaged")):
            line = Line(error)
            with pytest.raises(type(error), match="damaged"):
                await CoordinatorContact("isogloss-mine", partial(lambda line, _name: line, line)).ask(5, "next")

    play(scene())


def test_the_coordinator_starts_without_torch() -> None:
    # It would take seconds to load, in which a killed coordinator is not back.
    # Nor need promote and rollback.
    check_left_out("import serving.command, serving.coordinator", "torch", "transformers", "vllm", "ray")
