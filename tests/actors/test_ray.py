"""Actors under a real local Ray cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.engine.rollout import create_rollout_actor
from actors.plan.placement import PlacementPlan, check_capacity, reserve
from actors.reward.worker import create_reward_actor
from actors.runtime.calls import ActorDied, DeadlineExceeded, call
from actors.runtime.cluster import Cluster, start_cluster
from actors.runtime.health import IllegalTransition, SyncError
from actors.runtime.pool import Pool
from actors.runtime.signals import StopRequested
from actors.train.publish import broadcast
from actors.train.store import open_journal
from configs.errors import UserError
from configs.schema import ClusterConfig
from learners.errors import BroadcastFailed
from learners.rendezvous import Rendezvous
from rollout.identity import RunIdentity
from rollout.plan import Chunk, answer_chunks
from rollout.prompts import PromptSet
from rollout.records import Candidate
from tests.kits.actors import perturbed, publish, send_to, small_config
from tests.kits.cluster import HEAD, free_ports
from tests.kits.tiny import build_tiny_model

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    run_dir = tmp_path_factory.mktemp("run")
    with start_cluster(ClusterConfig(num_cpus=3), run_dir) as started:
        assert (run_dir / "ray-session").read_text().strip().endswith("logs")
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "policy", seed=1)


class Sleeper:
    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def die(self) -> None:
        os._exit(1)

    def blame(self) -> None:
        raise UserError("model.policy: no such folder; fix it")


SLEEPER: Any = ray.remote(num_cpus=0)(Sleeper)


def generate(actor: Any, chunk: Chunk) -> tuple[float, float, list[Candidate]]:
    """A chunk from an actor."""
    (part,) = actor.generate.options(num_returns="streaming").remote([chunk])
    begin, end, (name, candidates) = call(part, 60, "generate")
    assert name == chunk.id
    return begin, end, candidates


def test_loopback_only(cluster: Cluster) -> None:
    assert cluster.resources["CPU"] == 3
    assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}
    assert cluster.seconds < 30


def test_calls(cluster: Cluster) -> None:
    sleeper = SLEEPER.remote()
    assert call(sleeper.sleep.remote(0.0), 30, "a nap") == 0.0
    assert call([sleeper.sleep.remote(0.0)] * 2, 30, "two naps") == [0.0, 0.0]
    with pytest.raises(UserError, match=r"^model\.policy: no such folder; fix it$"):
        call(sleeper.blame.remote(), 30, "blame")
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.2 s: a long nap of sleeper 7"):
        call(sleeper.sleep.remote(3.0), 0.2, "a long nap of sleeper 7")
    assert time.monotonic() - begun < 2
    with pytest.raises(DeadlineExceeded, match="within 0.3 s"):
        call(sleeper.sleep.remote(1.0), 0.3, "a nap", lambda: False)
    with pytest.raises(StopRequested):
        call(sleeper.sleep.remote(0.0), 30, "a nap", lambda: True)
    assert call([sleeper.sleep.remote(0.0)] * 2, 30, "two naps", lambda: False) == [0.0, 0.0]
    mortal = SLEEPER.remote()
    with pytest.raises(ActorDied, match="last words: the process died"):
        call(mortal.die.remote(), 30, "last words")
    ray.kill(sleeper)


def test_too_small_a_cluster_is_refused_at_once(cluster: Cluster, tmp_path: Path, folder: Path) -> None:
    config = small_config(tmp_path, folder, folder, rollout={"actors": 9})
    plan = PlacementPlan.from_config(config)
    with pytest.raises(UserError, match=r"6 CPUs are needed .* has 3; lower rollout\.actors"):
        check_capacity(plan, cluster.resources)
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"9 x .* rollout actors did not become free within 0\.5 s"):
        reserve(plan, timeout=0.5)
    assert time.monotonic() - begun < 5


def test_rollout_and_reward_actors(cluster: Cluster, tmp_path: Path, folder: Path) -> None:
    """Two rollout actors synced to a version give equal candidates; a failed sync leaves one STALE."""
    config = small_config(tmp_path, folder, folder)
    prompts = PromptSet.from_config(config)
    groups = reserve(PlacementPlan.from_config(config), timeout=30)
    begun = time.monotonic()
    versions = [0, 0]
    pool = Pool(
        "rollout actor", lambda i: create_rollout_actor(config, folder, versions[i], i, groups.groups["rollout"]),
        size=2, call_timeout_s=60, max_restarts=1,
    )  # fmt: skip
    pool.start()
    rollouts = pool.handles
    reward = create_reward_actor(config, ray.put(prompts), folder, folder, 0, index=0, group=groups.groups["reward"])
    assert call([a.ready.remote() for a in (*rollouts, reward)], 120, "start") == [0, 0, 0]
    print(f"two engines and a reward actor ready in {time.monotonic() - begun:.1f} s")

    english, spanish = answer_chunks(config, prompts, 1)
    _, _, base = generate(rollouts[0], english)
    manifest, arrays = publish(perturbed(folder, seed=3, std=0.05), 1)
    weights = ray.put(arrays)
    reports = call([a.sync.remote(manifest, [weights]) for a in (*rollouts, reward)], 60, "sync")
    print("sync seconds", [report.seconds for report in reports])
    assert [report.version for report in reports] == [1, 1, 1]
    assert max(report.probe_error for report in reports) < 1e-4

    begin, end, first = generate(rollouts[0], english)
    assert begin < end
    generate(rollouts[1], spanish)
    _, _, second = generate(rollouts[1], english)
    assert first == second
    assert [c.key for c in first] == [r.key for r in english.requests]
    assert [c.token_ids for c in first] != [c.token_ids for c in base]
    assert {c.weight_version for c in first} == {1}
    assert {c.weight_version for c in base} == {0}

    _, _, judged = call(reward.score.remote(first), 60, "judge")
    assert [c.key for c in judged.candidates] == [c.key for c in first]
    assert {s.key for s in judged.scores} == {c.key for c in judged.candidates if c.gate == "ok"}

    broken, _ = publish(perturbed(folder, seed=4), 2)
    with pytest.raises(SyncError, match="checksum"):
        call(rollouts[0].sync.remote(broken, [weights]), 60, "sync")
    with pytest.raises(IllegalTransition, match="isogloss-small-rollout-0: cannot work while stale"):
        generate(rollouts[0], english)
    stats = call(rollouts[1].stats.remote(), 30, "stats")
    assert stats["generate_calls"] == 2
    assert stats["version"] == 1
    print("start", stats["start_seconds"], "memory", stats["process_gib"])

    # A broadcast reaches all, the stale one, too.
    newer = publish(perturbed(folder, seed=4, std=0.05), 2)
    with ThreadPoolExecutor(1) as learner:
        reports = broadcast(
            config, [*rollouts, reward], newer[0], lambda meeting: learner.submit(send_to, meeting, *newer)
        )
    assert [(report.version, set(report.seconds)) for report in reports] == [
        (2, {"broadcast", "probe", "total"}), (2, {"broadcast", "probe", "total"}),
        (2, {"broadcast", "total"}),
    ]  # fmt: skip
    (_, _, one), (_, _, two) = [generate(actor, english) for actor in rollouts]
    assert one == two != first

    # One that dies ends it for all at once.
    newest = publish(perturbed(folder, seed=5), 3)
    pid = int(call(rollouts[1].stats.remote(), 30, "stats")["pid"])

    def send_after_a_death(rendezvous: Rendezvous) -> Future[None]:
        os.kill(pid, signal.SIGKILL)
        return learner.submit(send_to, rendezvous, *newest)

    begun = time.monotonic()
    with ThreadPoolExecutor(1) as learner, pytest.raises(BroadcastFailed, match="the process died"):
        broadcast(config, [*rollouts, reward], newest[0], send_after_a_death)
    assert time.monotonic() - begun < 30 < config.cluster.sync_timeout_s
    with pytest.raises(IllegalTransition, match="isogloss-small-rollout-0: cannot work while stale"):
        generate(rollouts[0], english)
    assert call(rollouts[0].sync.remote(newest[0], [ray.put(newest[1])]), 60, "sync").version == 3

    # A replacement comes up at once although the name may not be free yet.
    versions[1] = 5
    pool.replace(1, ActorDied("killed"))
    assert call(pool.handles[1].ready.remote(), 120, "start") == 5
    assert pool.restarts == 1
    groups.remove()


def test_a_users_mistake_arrives_as_a_message(cluster: Cluster, tmp_path: Path, folder: Path) -> None:
    config = small_config(tmp_path, folder, folder, rollout={"cpus_per_actor": 0.1})
    actor = create_rollout_actor(config, tmp_path / "absent", 0, 0)
    with pytest.raises(UserError, match="absent: no such model folder"):
        call(actor.ready.remote(), 120, "start")
    ray.kill(actor)


def test_store_actor(cluster: Cluster, tmp_path: Path) -> None:
    identity = RunIdentity("digest", {}, "small")
    store = open_journal(tmp_path / "store.sqlite", identity, 30)
    store.set_round_state(1, "planned", {"a": 1})
    assert store.round_state(1) == ("planned", {"a": 1})
    assert store.round_data(1) == {"a": 1}
    assert store.seconds > 0
    with pytest.raises(UserError, match=r"another process \(process id \d+\) is writing"):
        open_journal(tmp_path / "store.sqlite", identity, 30)
    store.close()


def test_ray_that_listens_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the environment came too late, Ray takes the network interface."""
    stopped = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeManagerAddress": "10.0.0.7"}])
    monkeypatch.setattr(ray, "shutdown", lambda: stopped.append(True))
    with (
        pytest.raises(RuntimeError, match=r"10\.0\.0\.7 instead of 127\.0\.0\.1"),
        start_cluster(ClusterConfig(), tmp_path),
    ):
        pass
    assert stopped


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    code = f"""
import pathlib
from actors.runtime.env import apply_driver_env
apply_driver_env()
from actors.runtime.cluster import start_cluster
from configs.errors import UserError
from configs.schema import ClusterConfig
try:
    with start_cluster(ClusterConfig(address="{HEAD}:{port}"), pathlib.Path({str(tmp_path)!r})):
        print("joined")
except UserError as error:
    print(error)
"""
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True, env=env)
    assert done.stdout.startswith(f"cluster.address: no Ray cluster answers at '{HEAD}:{port}'"), done.stdout
