"""A run as a Ray job on two nodes: submitted, stopped, submitted again; what Ray exports of it meanwhile.

Its answers are scored by a reward model, so that a run with one needs no other test.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.observe.telemetry import METRICS, exported_names
from actors.reward.reward_model import RewardModel
from tests.kits.cluster import TwoNodes, fetch, two_nodes
from tests.kits.metrics import Sample, samples, wrong_labels
from tests.kits.prometheus import PROMETHEUS, Prometheus, expressions, prometheus
from tests.kits.run import ISOGLOSS, SMALL, journal, summary
from tests.kits.tiny import build_reward_model
from tests.kits.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

NAME = "job"
# No node holds both rollout (3 CPUs) and learner (2), wherever the first of them lands.
HEAD_CPUS, SECOND_CPUS = 4, 3
SPREAD = ("rollout.cpus_per_actor=3", "reward.cpus_per_actor=1", "learner.cpus_per_worker=2")
QUICK = (
    "cluster.weight_transfer=broadcast",
    "schedule.rounds=1",
    "learner.reference_logprobs=auto",  # all metrics are there
    "prompts.heldout_limit=4",
    "rollout.prompts_per_round=72",
    "rollout.chunk_prompts=12",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    with two_nodes(tmp_path_factory.mktemp("cluster"), HEAD_CPUS, SECOND_CPUS) as found:
        yield found


@pytest.fixture
def watch(cluster: TwoNodes, tmp_path: Path) -> Iterator[Prometheus | None]:
    """A real Prometheus over both nodes, where one is installed (``.ci/run`` does)."""
    if PROMETHEUS is None:
        yield None
    else:
        with prometheus(tmp_path, cluster.session) as found:
            yield found


class Scraper(threading.Thread):
    """Collects every ``isogloss`` sample that the nodes show, with its own labels alone."""

    def __init__(self, urls: tuple[str, ...]) -> None:
        super().__init__(daemon=True)
        self._urls = urls
        self._stop_asked = threading.Event()
        self.samples: dict[Sample, float] = {}  # with the highest value of each
        self.scrapes: list[set[str]] = []  # names of each scrape that found an engine at work

    def run(self) -> None:
        while not self._stop_asked.wait(1.0):
            found: dict[Sample, float] = {}
            for url in self._urls:
                found |= samples(fetch(f"{url}/metrics"))
            self.samples |= {one: max(value, self.samples.get(one, value)) for one, value in found.items()}
            names = {one.name for one in found}
            if "ray_isogloss_engine_state" in names:
                self.scrapes.append(names)

    def names(self) -> set[str]:
        """Exported names seen so far."""
        return {one.name for one in list(self.samples)}

    def finish(self) -> dict[str, set[tuple[str, str]]]:
        """Labels with values, by exported name."""
        self._stop_asked.set()
        self.join()
        found: dict[str, set[tuple[str, str]]] = {}
        for one in self.samples:
            found.setdefault(one.name, set()).update(one.labels)
        return found

    def share_of_scrapes(self, name: str) -> float:
        """How much of the time an engine was seen at work, since the name was first seen, it was seen too."""
        seen = [name in names for names in self.scrapes]
        since = seen[seen.index(True) :]
        return sum(since) / len(since)

    def highest(self, name: str, **labels: str) -> float:
        """Highest value of the series that have these labels."""
        return max(value for one, value in self.samples.items() if one.name == name and labels.items() <= one.labels)


def scorer(runs: Path) -> Path:
    """Folder of the run's reward model."""
    return runs.with_name("rm")


def submit(cluster: TwoNodes, runs: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(ISOGLOSS), "submit", "configs/icr.yaml", f"run.dir={runs}", f"run.name={NAME}", *SMALL, *SPREAD, *QUICK,
        "reward.kind=reward_model", f"reward.model={scorer(runs)}", "--address", cluster.dashboard, *more,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def chunks_answered(runs: Path) -> int:
    try:
        with journal(runs, NAME) as store:
            return len(store.done_chunks(1, "answer"))
    except Exception:  # the file is being made
        return 0


def nodes_of_actors(cluster: TwoNodes) -> dict[str, set[str]]:
    """Node ids of the living actors of the run, by role; the learner's ranks are Ray Train's actors."""
    from ray.util.state import list_actors

    found: dict[str, set[str]] = {}
    for actor in list_actors(address=cluster.dashboard, filters=[("state", "=", "ALIVE")], limit=1000):
        role = re.match(rf"isogloss-{NAME}-(rollout|reward|store|learner-mailbox)-", actor.name or "")
        key = role[1] if role else "learner" if actor.class_name.startswith("RayTrainWorker") else None
        if key and actor.node_id:
            found.setdefault(key, set()).add(actor.node_id)
    return found


def seen_everywhere(cluster: TwoNodes, nodes: dict[str, set[str]]) -> bool:
    """Whether engine and learner were both seen by now; ``nodes`` collects where."""
    if {"rollout", "learner"} <= set(nodes):
        return True
    for role, ids in nodes_of_actors(cluster).items():
        nodes.setdefault(role, set()).update(ids)
    return False


def test_job_on_two_nodes_is_stopped_resumed_and_watched(
    cluster: TwoNodes, watch: Prometheus | None, tmp_path: Path
) -> None:
    from ray.job_submission import JobSubmissionClient

    runs = tmp_path / "runs"
    build_reward_model(scorer(runs))
    scraper = Scraper(cluster.metrics)
    scraper.start()
    begun = submit(cluster, runs, "--no-wait")
    assert begun.returncode == 0, begun.stdout + begun.stderr
    assert "isogloss-job at" in begun.stdout
    assert "job stop" in begun.stdout
    client: Any = JobSubmissionClient(cluster.dashboard)
    log = partial(client.get_job_logs, "isogloss-job")

    nodes: dict[str, set[str]] = {}

    def sampling() -> bool:
        status = client.get_job_status("isogloss-job").value
        assert status in ("PENDING", "RUNNING"), log()
        seen_everywhere(cluster, nodes)
        return chunks_answered(runs) >= 1

    wait_until(lambda: client.get_job_status("isogloss-job").value == "RUNNING", "the job runs", 150, log)
    second = submit(cluster, runs, "--no-wait")
    assert second.returncode == 2, "the same run twice at a time"
    assert "is running as job isogloss-job" in second.stderr
    wait_until(lambda: sampling() and seen_everywhere(cluster, nodes), "round 1 samples", 240, log)
    assert len(nodes["rollout"]) == len(nodes["learner"]) == 1, nodes
    assert nodes["rollout"] != nodes["learner"], "rollout and learner share a node"
    assert nodes["store"] == nodes["learner-mailbox"], "journal and mailbox are where the driver is"

    client.stop_job("isogloss-job")
    wait_until(lambda: client.get_job_status("isogloss-job").value == "STOPPED", "the job stopped", 150, log)
    assert "stopped by SIGTERM; nothing is lost" in log(), log()
    answered = chunks_answered(runs)
    with journal(runs, NAME) as store:
        before = {candidate.key: candidate.text for candidate in store.candidates(1)}
    assert answered >= 1

    done = submit(cluster, runs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "isogloss-job.2: succeeded" in done.stdout
    assert "weights v1" in done.stdout, "the log was not followed"
    assert summary(runs, NAME)["weight_version"] == 1
    (row,) = [json.loads(line) for line in (runs / NAME / "metrics.jsonl").read_text().splitlines()]
    assert [set(report["seconds"]) for report in row["sync"]] == [{"broadcast", "probe", "total"}, {"total"}]
    assert row["failed_broadcasts"] == 0
    with journal(runs, NAME) as store:
        after = {candidate.key: candidate.text for candidate in store.candidates(1)}
        assert store.counts()["consumed"] == store.counts()["pairs"] > 0
    assert before.items() <= after.items(), "a candidate was lost or sampled again"
    check_rewards(runs)

    # Nothing is served, and the reward has no terms: serving/test_ray.py and actors/test_run_metrics.py have the rest.
    other = ("isogloss_serve_decisions", "isogloss_reward_term_mean")
    absent = {m for m, entry in METRICS.items() if entry.owner == "endpoint" or m in other}
    expected = {name for metric in METRICS.keys() - absent for name in exported_names(metric)}
    # What a driver says last leaves it as it ends, and stays at the node's agent.
    wait_until(lambda: expected <= scraper.names(), "all metrics", 30, lambda: str(expected - scraper.names()))
    exported = scraper.finish()
    assert expected == set(exported), expected ^ set(exported)
    assert wrong_labels(scraper.samples) == []
    assert all(("run", NAME) in labels for labels in exported.values())
    # A driver that has ended may be gone a scrape before its engines are; a forgotten gauge is seen once a setting.
    for once in ("ray_isogloss_rounds", "ray_isogloss_weight_version"):
        assert scraper.share_of_scrapes(once) > 0.5, f"{once} is set once and then forgotten"
    for stage in ("starting", "evaluating", "sampling"):
        assert scraper.highest("ray_isogloss_stage", stage=stage) == 1
    languages = {label for labels in exported.values() for label in labels if label[0] == "language"}
    assert languages == {("language", code) for code in ("en", "es", "sw")}
    assert {("language", "es"), ("language", "sw"), ("version", "0")} <= exported["ray_isogloss_candidates_total"]
    assert scraper.highest("ray_isogloss_weight_version") == 1
    assert 0 < scraper.highest("ray_isogloss_tokens_per_second", language="es") < 1e6
    assert scraper.highest("ray_isogloss_engine_state", actor="learner", state="busy") == 1
    drawn = {name for texts in expressions(NAME).values() for name in re.findall(r"ray_isogloss_\w+", str(texts))}
    elsewhere = {name for metric in absent for name in exported_names(metric)}
    assert drawn <= set(exported) | elsewhere, "a panel draws what no run exports"
    if watch is not None:
        assert set(watch.targets()) >= {url.removeprefix("http://") for url in cluster.metrics}
        assert watch.values("ray_isogloss_stage", "run") == {NAME}, "the dashboard's variable"
        lines = {title: all(watch.series(one) for one in texts) for title, texts in expressions(NAME).items()}
        assert {title for title, drawn in lines.items() if not drawn} == panels_of(absent), "panels without a line"


def check_rewards(runs: Path) -> None:
    """Scores are the reward model's own, and pairs are the best and worst of each prompt by them."""
    with journal(runs, NAME) as store:
        scores, candidates, pairs = store.scores(1), store.candidates(1), store.pairs(1)
    mined = [pair for pair in pairs if pair.source == "mined"]
    assert mined
    texts = {c.key: c.text for c in candidates}
    rewards = {s.key: s.reward for s in scores}
    model = RewardModel(scorer(runs), "float32", 4096, torch.device("cpu"))
    for pair in mined:
        for key, stored in ((pair.chosen_key, pair.chosen_score), (pair.rejected_key, pair.rejected_score)):
            assert key is not None
            ((value,), _) = model.score([(pair.prompt, texts[key])])
            assert value == pytest.approx(stored, abs=1e-4)
        rivals = [r for k, r in rewards.items() if (k.prompt_id, k.language) == (pair.prompt_id, pair.language)]
        assert pair.chosen_score == max(rivals)
        assert pair.rejected_score == min(rivals)


def panels_of(metrics: set[str]) -> set[str]:
    """Titles of the dashboard's panels that draw one of these metrics."""
    names = {name for metric in metrics for name in exported_names(metric)}
    return {title for title, texts in expressions(NAME).items() if names & set(re.findall(r"ray_\w+", str(texts)))}
