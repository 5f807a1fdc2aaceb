"""The pool of actors: dead and hanging ones are replaced, their call is done by another, nothing is done twice."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group

from actors.engine.sync_report import SyncReport
from actors.observe.metrics import StageClock, covered
from actors.plan.placement import PlacementGroups
from actors.runtime.calls import ActorDied
from actors.runtime.cluster import start_cluster
from actors.runtime.pool import Call, Pool, drain
from actors.runtime.signals import StopRequested
from actors.train.publish import publish_via_object_store
from configs.schema import ClusterConfig
from learners.manifest import WeightsManifest

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with start_cluster(ClusterConfig(num_cpus=2), tmp_path_factory.mktemp("run")):
        yield


def taken(marks: Path, name: str) -> Path:
    """A mark of the driver: it has the part of that name."""
    return marks / f"{name} taken"


class Worker:
    def __init__(self, marks: str) -> None:
        self._marks = Path(marks)

    def ready(self) -> int:
        return 0

    def work(self, name: str, trouble: str) -> tuple[float, float, str]:
        begin = time.time()
        mark = self._marks / name
        if trouble == "always die":
            os._exit(1)
        if trouble != "none":
            try:
                mark.touch(exist_ok=False)
            except FileExistsError:
                return begin, time.time(), name
            if trouble == "die":
                os._exit(1)
            time.sleep(60)
        return begin, time.time(), name

    def parts(self, names: list[str], trouble: str) -> Iterator[tuple[float, float, str]]:
        for index, name in enumerate(names):
            # A part that its actor yields just before it dies may be lost with it: not before the first one is taken.
            while index == 1 and trouble != "none" and not taken(self._marks, names[0]).exists():
                time.sleep(0.01)
            yield self.work(name, trouble if index == 1 else "none")

    def sync(self, manifest: WeightsManifest, weights: list[str]) -> SyncReport:
        _, _, name = self.work(str(manifest.version), weights.pop())
        return SyncReport(int(name), 0.0, {"total": 0.0})


REMOTE: Any = ray.remote(num_cpus=0)(Worker)
# What its ``sync`` takes for weights.
TROUBLE: dict[str, Any] = {name: [name] for name in ("hang", "always die")}


def make_pool(marks: Path, timeout: float = 30.0, max_restarts: int = 1) -> Pool:
    pool = Pool("worker", lambda _index: REMOTE.remote(str(marks)), 2, timeout, max_restarts)
    ray.get(pool.start(), timeout=60)
    return pool


def run(pool: Pool, calls: dict[str, str]) -> list[str]:
    done: list[str] = []
    for name, trouble in calls.items():
        pool.submit(Call(name, "work", (name, trouble), lambda _begin, _end, result: done.append(result)))
    drain([pool], lambda: False)
    return done


def test_all_calls_are_done_once(tmp_path: Path) -> None:
    names = {f"call{index}": "none" for index in range(20)}
    assert sorted(run(make_pool(tmp_path), names)) == sorted(names)


def test_dead_actor_is_replaced(tmp_path: Path) -> None:
    pool = make_pool(tmp_path)
    calls = {"a": "none", "b": "die", "c": "none", "d": "none"}
    assert sorted(run(pool, calls)) == sorted(calls)
    assert pool.restarts == 1


@pytest.mark.parametrize(("trouble", "timeout"), [("none", 30.0), ("die", 30.0), ("hang", 5.0)])
def test_parts_of_a_call_come_as_they_are_done(tmp_path: Path, trouble: str, timeout: float) -> None:
    """After a death, or silence for too long, the call is done again from its first part."""
    pool = make_pool(tmp_path, timeout)
    watched: list[str] = []
    pool.watch = lambda actor, method, _begin, _end: watched.append(f"{actor} {method}")
    done: list[str] = []

    def take(_begin: float, _end: float, part: str) -> None:
        done.append(part)
        taken(tmp_path, part).touch()

    pool.submit(Call("parts", "parts", (["a", "b", "c"], trouble), take, streams=True))
    pool.submit(Call("d", "work", ("d", "none"), lambda _b, _e, result: done.append(result)))
    drain([pool], lambda: False)
    assert pool.idle
    done.remove("d")
    assert done == (["a", "b", "c"] if trouble == "none" else ["a", "a", "b", "c"])
    assert pool.restarts == (trouble != "none")
    assert {entry.split()[-1] for entry in watched} == {"parts", "work"}


def test_hanging_actor_is_replaced(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, timeout=5.0)
    begin = time.monotonic()
    assert sorted(run(pool, {"a": "hang", "b": "none"})) == ["a", "b"]
    assert pool.restarts == 1
    assert time.monotonic() - begin < 50


def test_an_actor_that_keeps_dying_ends_the_run_with_a_cure(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, max_restarts=1)
    with pytest.raises(ActorDied, match="continue with --resume"):
        run(pool, {f"call{index}": "always die" for index in range(4)})


def test_actor_that_fails_while_weights_are_published_is_replaced(tmp_path: Path) -> None:
    pool = make_pool(tmp_path)
    before = pool.handles
    manifest = WeightsManifest(7, "0" * 16, (), (), (), (), ())
    # The first to come makes the mark; the other finds it.
    (report,) = publish_via_object_store([pool], manifest, TROUBLE["hang"], 2)
    assert (report.version, pool.restarts) == (7, 1)
    (replaced,) = [old for old, new in zip(before, pool.handles, strict=True) if old is not new]
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(replaced.ready.remote(), timeout=20)
    assert run(pool, {"a": "none"}) == ["a"]
    assert publish_via_object_store([], manifest, [], 1) == []
    with pytest.raises(ActorDied, match=r"worker \d failed 2 times.*weights v7 to reach worker .*--resume"):
        publish_via_object_store([pool], manifest, TROUBLE["always die"], 20)


def test_death_replacement_and_return_are_a_line_each(tmp_path: Path) -> None:
    said: list[str] = []
    pool = make_pool(tmp_path)
    pool.say = said.append
    assert sorted(run(pool, {"a": "none", "b": "die", "c": "none"})) == ["a", "b", "c"]
    pool.await_starts()
    assert len(said) == 2
    assert re.fullmatch(r"worker \d is replaced \(1 of 1\): b on worker: the process died \(.{5,60}\)", said[0])
    assert re.fullmatch(r"worker \d is back after \d+ s", said[1])


def test_replacement_without_a_place_is_told_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node of an actor is lost and no other has room: one line while it waits, an end at the start's limit."""
    monkeypatch.setattr("actors.runtime.pool._PLACE_S", 0.5)
    made: list[int] = []

    def create(index: int) -> Any:
        made.append(index)
        return REMOTE.options(num_cpus=0 if len(made) <= 2 else 99).remote(str(tmp_path))

    said: list[str] = []
    pool = Pool(
        "worker", create, 2, 60.0, 3, start_timeout_s=3.0, say=said.append, lacks_place=lambda: True
    )  # fmt: skip
    ray.get(pool.start(), timeout=60)
    done: list[str] = []
    for name, trouble in {"a": "die", "b": "none", "c": "none"}.items():
        pool.submit(Call(name, "work", (name, trouble), lambda _begin, _end, result: done.append(result)))
    with pytest.raises(ActorDied, match=r"no node had room for it within 3 s \(cluster\.start_timeout_s\); bring its"):
        drain([pool], lambda: False)  # the other one does the work meanwhile
        pool.await_starts()
    assert sorted(done) == ["a", "b", "c"]
    assert "waits for a place" in said[-1]
    assert len(said) == 2


def test_a_bundle_without_a_node_is_seen() -> None:
    groups = PlacementGroups({"here": placement_group([{"CPU": 1}]), "nowhere": placement_group([{"CPU": 99}])})
    assert groups.groups["here"].wait(60)
    assert not groups.lacking("here")
    assert groups.lacking("nowhere")
    assert not groups.lacking("no such role")
    groups.remove()


def test_stop_leaves_what_is_done_and_forgets_the_queue(tmp_path: Path) -> None:
    pool = make_pool(tmp_path)
    done: list[str] = []
    for index in range(50):
        call: Call[str] = Call(
            f"call{index}", "work", (f"call{index}", "none"), lambda _b, _e, result: done.append(result)
        )
        pool.submit(call)
    with pytest.raises(StopRequested):
        drain([pool], lambda: len(done) >= 3)
    assert len(done) == 3
    assert not pool.queue


def test_overhead_is_the_time_in_which_no_worker_was_busy() -> None:
    assert covered([(1.0, 3.0), (2.0, 4.0), (6.0, 7.0)], 0.0, 10.0) == 4.0
    assert covered([(-5.0, 2.0), (1.0, 1.5), (9.0, 20.0)], 0.0, 10.0) == 3.0
    assert covered([], 0.0, 10.0) == 0.0
    clock = StageClock()
    now = time.time()
    clock.add("train", now - 10, now - 5, worker=True)
    assert clock.summary()["stages"]["train"] == 5.0
