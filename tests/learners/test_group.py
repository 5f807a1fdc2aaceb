"""The learner under Ray Train: a rank that dies costs time and nothing else."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.runtime.cluster import start_cluster
from configs.schema import ClusterConfig, Config, LanguagesConfig, LearnerConfig, ModelConfig, PromptsConfig
from learners.broadcast import RendezvousServer, receive
from learners.checkpoint_layout import read_state
from learners.errors import BroadcastFailed, LearnerFailed, LearnerTimeout, NumericError
from learners.weights import checksum, from_numpy
from tests.kits.learner import Case, make_folder, make_pairs, train_on_ranks

pytestmark = [pytest.mark.ray, pytest.mark.nightly]

# Many epochs, so that a rank can be killed while a round is being trained.
LEARNER = LearnerConfig(
    workers=2,
    cpus_per_worker=0.5,
    pairs_per_step=6,
    tokens_per_micro_batch=128,
    learning_rate=1e-3,
    epochs=15,
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with start_cluster(ClusterConfig(num_cpus=2), tmp_path_factory.mktemp("session")):
        yield


def test_two_rounds_with_ranks_killed_are_the_same_two_rounds(cluster: None, tmp_path: Path) -> None:
    import ray

    from learners.group import LearnerGroup

    start = make_folder(tmp_path / "start")
    case = Case("case", LEARNER.model_dump(mode="json"), parts=((1, 2),))
    expected = train_on_ranks(start, tmp_path / "undisturbed", 2, [case])["case"]
    config = Config(
        model=ModelConfig(policy=start, reference=start, max_length=512),
        languages=LanguagesConfig(codes=["en", "es"]),
        prompts=PromptsConfig(train="{lang}.jsonl"),
        learner=LEARNER,
    )
    config = config.model_copy(update={"run": config.run.model_copy(update={"seed": 7})})
    said: list[str] = []
    group = LearnerGroup(config, tmp_path / "run", start, env={"OMP_NUM_THREADS": "1"}, say=said.append)
    began = time.monotonic()
    with pytest.raises(LearnerFailed, match="not running"):
        group.train(1, [], 1)
    group.start(240)
    print(f"start {time.monotonic() - began:.1f} s")
    references = group.reference(1, make_pairs(14, 1), 60).values
    pairs = [
        replace(pair, reference_chosen=references[pair.id][0], reference_rejected=references[pair.id][1])
        for pair in make_pairs(14, 1)
    ]
    first = group.train(1, pairs, 120)
    assert first.metrics.steps[0].values["preference_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert len(first.metrics.steps) == 45

    # Rank 1 dies in the middle of round 2.
    pid = group.ranks()[1][1]
    timer = threading.Timer(0.4, os.kill, (pid, signal.SIGKILL))
    began = time.monotonic()
    timer.start()
    second = group.train(2, make_pairs(14, 2), 240)
    print(f"round with a dead rank {time.monotonic() - began:.1f} s")
    assert group.starts() == 2
    assert [line for line in said if "was started again" in line] == [
        f"the learner group was started again (1 of {LEARNER.max_failures}), as a rank had died"
    ]
    assert second.manifest.checksum == read_state(expected).checksum
    assert second.checkpoint == tmp_path / "run" / "checkpoints" / "round-0002"
    assert (tmp_path / "run" / "policy").resolve() == second.checkpoint.resolve()

    # The rank that published the weights dies before anybody fetched them.
    pid = group.ranks()[0][1]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ray.exceptions.RayError):
        for _ in range(60):
            ray.get(second.weights[0], timeout=5)
            time.sleep(0.5)
    arrays = ray.get(group.weights(60)[0])
    assert checksum(from_numpy(arrays, second.manifest)) == second.manifest.checksum
    assert group.train(2, make_pairs(14, 2), 240).manifest.checksum == second.manifest.checksum

    with pytest.raises(LearnerTimeout, match=r"waited 0.001 s for the learner's reference of round 3 \(400 pairs"):
        group.reference(3, make_pairs(400, 3), 0.001)
    bad = replace(make_pairs(1, 3)[0], reference_chosen=math.inf, reference_rejected=0.0)
    with pytest.raises(NumericError, match=bad.id):
        group.train(3, [bad], 120)
    began = time.monotonic()
    group.close()
    assert time.monotonic() - began < 30
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")] == []


def test_weights_are_broadcast_and_come_from_the_checkpoint_where_the_sender_died(
    cluster: None, tmp_path: Path
) -> None:
    import ray

    from learners.group import LearnerGroup

    start = make_folder(tmp_path / "start")
    config = Config(
        model=ModelConfig(policy=start, reference=start, max_length=512),
        languages=LanguagesConfig(codes=["en", "es"]),
        prompts=PromptsConfig(train="{lang}.jsonl"),
        learner=LEARNER.model_copy(update={"epochs": 1}),
        cluster=ClusterConfig(weight_transfer="broadcast"),
    )
    group = LearnerGroup(config, tmp_path / "run", start, env={"OMP_NUM_THREADS": "1"})
    group.start(240)
    trained = group.train(1, make_pairs(14, 1), 120)
    received: dict[str, Any] = {}
    assert trained.weights == [], "broadcast, and put into the object store besides"
    with RendezvousServer("127.0.0.1", 1, "gloo", 60) as host, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(group.broadcast, host.rendezvous)
        receive(host.rendezvous.seat(1), trained.manifest, torch.device("cpu"), received.update)
        assert sent.result(60) is None
    assert checksum(received) == trained.manifest.checksum

    os.kill(group.ranks()[0][1], signal.SIGKILL)
    with (
        RendezvousServer("127.0.0.1", 1, "gloo", 120) as host,
        pytest.raises(BroadcastFailed, match="learner was restarted"),
    ):
        group.broadcast(host.rendezvous)
    arrays = ray.get(group.weights(60)[0])
    assert checksum(from_numpy(arrays, trained.manifest)) == trained.manifest.checksum
    group.close()
    close_while_it_waits_for_a_place(config, tmp_path / "placeless", start)


def close_while_it_waits_for_a_place(config: Config, run: Path, start: Path) -> None:
    """Ranks that are not up cannot be asked to leave: their group is ended, and who waits for it hears so."""
    from learners.group import LearnerGroup

    learner = config.learner.model_copy(update={"cpus_per_worker": 64})
    group = LearnerGroup(config.model_copy(update={"learner": learner}), run, start)
    with ThreadPoolExecutor(1) as thread:
        starting = thread.submit(group.start, 240)
        while not (fits := [one for one in threading.enumerate() if one.name == "learner-fit"]):
            time.sleep(0.02)
        group.close()
        with pytest.raises(LearnerFailed, match="closed|mailbox died"):
            starting.result(60)
    assert not any(one.is_alive() for one in fits)
    with pytest.raises(LearnerFailed, match="was closed"):
        group.start(1)
