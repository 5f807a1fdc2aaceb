"""Whole runs of the command over the embedded world, with everything real."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos.compare import temporary_files
from benchmarks.chaos.processes import title, victim_of
from benchmarks.chaos.run import wording
from benchmarks.chaos.schedule import Victim
from rollout.records import CandidateKey
from rollout.state import RoundState
from rollout.state import reached as at_least
from tests.kits.chromium import chromium, find_chromium
from tests.kits.run import arguments, checksum, journal, summary, train

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

NAME = "interrupted"
# An engine holds one chunk and others wait: answers come one after the other, so that a stop finds some missing.
CHUNKS = ("rollout.chunk_prompts=4", "rollout.max_num_seqs=16")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbs; the other runs are compared with it."""
    folder = tmp_path_factory.mktemp("runs")
    done = train(folder, "straight", *CHUNKS)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_run_leaves_what_it_promises(straight: Path) -> None:
    run = straight / "straight"
    found = summary(straight, "straight")
    assert found["rounds"] == found["weight_version"] == 2
    assert found["wall_seconds"] > 0
    for code in ("en", "es", "sw"):
        row = found["languages"][code]
        for side in ("start", "end"):
            assert {"accuracy_sampled", "accuracy_greedy", "right_language", "mean_length"} <= set(row[side])
        low, high = row["delta_ci95"]
        assert low <= row["end"]["accuracy_sampled"] - row["start"]["accuracy_sampled"] <= high
    assert set(found["non_english_mean"]) == {"start", "end", "delta_ci95", "greedy"}
    assert (run / "policy" / "model.safetensors").is_file()
    assert (run / "config.yaml").is_file()
    assert (run / "report.html").stat().st_size > 10_000
    assert list((run / "tensorboard").glob("events*"))


def test_first_preference_loss_of_each_round_is_ln_2(straight: Path) -> None:
    rows = [json.loads(line) for line in (straight / "straight" / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 2]
    for row in rows:
        assert row["learner"]["first_preference_loss"] == pytest.approx(0.6931472, abs=1e-4)
        assert row["staleness"] == 0
        assert row["counts"]["candidates"] == 24 * 4 * 2  # English has share 0 and is not sampled
        assert set(row["seconds"]["stages"]) >= {"generate", "score", "pair", "reference", "train", "sync", "store"}


def test_every_pair_is_consumed_once_by_its_round(straight: Path) -> None:
    with journal(straight, "straight") as store:
        counts = store.counts()
        pairs = [pair for number in (1, 2) for pair in store.pairs(number)]
    assert counts["pairs"] == counts["consumed"] == len({pair.id for pair in pairs}) > 0
    assert all(pair.reference_chosen is not None and pair.reference_rejected is not None for pair in pairs)


def test_metrics_hold_evaluations_and_each_actors_calls(straight: Path) -> None:
    rows = [json.loads(line) for line in (straight / "straight" / "metrics.jsonl").read_text().splitlines()]
    found = summary(straight, "straight")["languages"]
    figures = {name: value for name, value in found["es"]["end"].items() if name != "accuracy_greedy_ci95"}
    assert figures.items() <= rows[1]["heldout"]["es"].items()
    assert rows[0]["heldout_start"]["sw"] == found["sw"]["start"]
    for row in rows:
        assert set(row["timeline"]) == {"rollout actor 0", "reward actor 0", "learner", "driver"}
        assert set(row["timeline"]["learner"]) == {"reference", "train"}
        begin, end = row["timeline"]["learner"]["train"]
        assert 0 < begin < end <= row["seconds"]["wall"] + 1


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on the path")
def test_report_in_a_browser(straight: Path, tmp_path: Path) -> None:
    report = straight / "straight" / "report.html"
    with chromium(tmp_path / "profile") as page:
        page.show(report)
        assert page.evaluate("document.querySelectorAll('.pair').length") == 12
        assert page.evaluate("document.querySelectorAll('svg rect').length") > 10
        assert page.logged == []
        assert page.requests == [report.resolve().as_uri()]


def test_export(straight: Path) -> None:
    import pyarrow.parquet as pq

    command = [arguments(straight, "straight")[0], "export", str(straight / "straight")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    with journal(straight, "straight") as store:
        expected = store.counts()["pairs"]
    assert pq.read_table(straight / "straight" / "export" / "pairs.parquet").num_rows == expected


@dataclass(frozen=True)
class Progress:
    """Of both rounds: how far each is, and how many of its chunks are answered and scored."""

    state_1: RoundState = "planned"
    state_2: RoundState = "planned"
    answered_1: int = 0
    scored_1: int = 0
    answered_2: int = 0
    scored_2: int = 0


Sampled = dict[CandidateKey, tuple[int, ...]]  # the tokens of every candidate; its gate is found later


@dataclass(frozen=True)
class Interrupted:
    """One start that did not reach the end."""

    stage: str
    code: int
    output: str
    sampled: Sampled  # all that is in the journal by then


def processes_of(driver: int, victim: Victim) -> list[psutil.Process]:
    """The processes of a run that are one part of it."""
    return [one for one in psutil.Process(driver).children(recursive=True) if victim_of(title(one)) == victim]


class KillsAnEngine:
    """Kills a rollout actor while the learner trains round 1, so that it is missed when weights are published."""

    def __init__(self) -> None:
        self.killed = 0

    def __call__(self, driver: int, now: Progress) -> None:
        if self.killed or now.state_1 not in ("paired", "referenced"):
            return
        engines = processes_of(driver, "rollout")
        assert len(engines) == 2
        self.killed = engines[1].pid
        engines[1].kill()


class KillsALearner:
    """Kills the learner's rank as soon as there is one, which is before or while it trains."""

    def __init__(self) -> None:
        self.killed = 0

    def __call__(self, driver: int, _now: Progress) -> None:
        ranks = [] if self.killed else processes_of(driver, "learner")
        for rank in ranks:
            self.killed = rank.pid
            rank.kill()


def interrupt(
    folder: Path,
    stage: str,
    sent: signal.Signals,
    *more: str,
    meanwhile: Callable[[int, Progress], None] = lambda driver, now: None,
    victim: Victim = "driver",
) -> Interrupted:
    """Start or continue the run, and end it in a stage of a round by a signal to its driver or to another part."""
    output = folder / f"{stage}.log"
    found = progress(folder)
    with output.open("w") as log:
        command = [*arguments(folder, NAME, *CHUNKS), *more]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    deadline = time.monotonic() + 400
    # Not before all of it is up: the journal may be in that stage from the start.
    while True:
        now, up = progress(folder), "actors are up" in output.read_text()
        if up and in_stage(stage, found, now):
            break
        assert process.poll() is None, f"ended before {stage}: {output.read_text()}"
        assert time.monotonic() < deadline, f"never reached {stage}: {output.read_text()}"
        if up:
            meanwhile(process.pid, now)
        time.sleep(0.02)
    if victim == "driver":
        process.send_signal(sent)
    else:
        processes_of(process.pid, victim)[0].send_signal(sent)
    code = process.wait(timeout=60)
    return Interrupted(stage, code, output.read_text(), sampled(folder, NAME))


def sampled(folder: Path, name: str) -> Sampled:
    with journal(folder, name) as store:
        return {candidate.key: candidate.token_ids for number in (1, 2) for candidate in store.candidates(number)}


def progress(folder: Path) -> Progress:
    """What the journal says; nothing as long as it is being made."""
    if not (folder / NAME / "store.sqlite").exists():
        return Progress()
    try:
        with journal(folder, NAME) as store:
            states = [(store.round_state(number) or ("planned", {}))[0] for number in (1, 2)]
            chunks = [len(store.done_chunks(number, kind)) for number in (1, 2) for kind in ("answer", "score")]
    except Exception:
        return Progress()
    return Progress(*states, *chunks)


def in_stage(stage: str, before: Progress, now: Progress) -> bool:
    """Whether a stage is under way; of sampling, whether this start has added to it."""
    return {
        "sample": now.answered_1 > before.answered_1,
        "generate": now.state_1 == "done" and now.answered_2 > before.answered_2,
        "score": now.scored_2 > before.scored_2,
        # Or later: some of these states last a tenth of a second.
        "reference": at_least(now.state_2, "paired"),
        "train": at_least(now.state_2, "referenced"),
        "publish": at_least(now.state_2, "trained"),
    }[stage]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Interrupted]]:
    """The same run, stopped in round 1 and killed at every stage of round 2; each start begins where the last ended.

    What is killed is the driver, once Ray's raylet, and in one start the learner's rank before the driver.
    Round 1 is for the most part sampled by two actors instead of one: who does which chunk must not matter either. Its
    weights were to reach them by broadcast, but one has died by then; nor must that matter.
    """
    folder = tmp_path_factory.mktemp("interrupted")
    ends = [
        interrupt(folder, "sample", signal.SIGTERM),
        interrupt(
            folder,
            "generate",
            signal.SIGKILL,
            "--resume",
            "rollout.actors=2",
            "rollout.cpus_per_actor=0.5",
            "cluster.weight_transfer=broadcast",
            meanwhile=KillsAnEngine(),
        ),
        interrupt(folder, "score", signal.SIGKILL, "--resume", victim="raylet"),
        *(interrupt(folder, stage, signal.SIGKILL, "--resume") for stage in ("reference", "train")),
        interrupt(folder, "publish", signal.SIGKILL, "--resume", meanwhile=KillsALearner()),
    ]
    done = train(folder, NAME, *CHUNKS, "--resume", "cluster.weight_transfer=broadcast")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, ends


def test_sigterm_ends_cleanly(interrupted: tuple[Path, list[Interrupted]]) -> None:
    stopped = interrupted[1][0]
    assert stopped.code == 130, stopped.output
    assert "stopped by SIGTERM; nothing is lost" in stopped.output
    assert "'languages.codes=[en, es, sw]'" in stopped.output, "the command to continue with is not the one given"
    assert "Traceback" not in stopped.output


def test_killed_raylet_ends_the_run_with_one_line_of_ours(interrupted: tuple[Path, list[Interrupted]]) -> None:
    killed = next(end for end in interrupted[1] if end.stage == "score")
    assert wording(killed.output, "", 0) == []
    last = killed.output.strip().splitlines()[-1]
    assert last.startswith("isogloss: Ray's raylet on this node at 127.0.0.1:")
    assert last.endswith("keeps all that was done; continue with --resume")


def test_a_run_whose_learner_was_killed_says_nothing_odd(interrupted: tuple[Path, list[Interrupted]]) -> None:
    """That the group was started again is said once its rank had arrived: test_group.py holds that."""
    killed = next(end for end in interrupted[1] if end.stage == "publish")
    assert wording(killed.output, "", 0) == []


def test_no_candidate_is_lost_or_sampled_again(straight: Path, interrupted: tuple[Path, list[Interrupted]]) -> None:
    _, ends = interrupted
    assert [end.code for end in ends[1:]] == [-signal.SIGKILL, 2, *[-signal.SIGKILL] * 3]
    expected = sampled(straight, "straight")
    known: Sampled = {}
    for end in ends:
        assert known.items() <= end.sampled.items(), f"lost or sampled again before {end.stage}"
        assert end.sampled.items() <= expected.items(), f"not what a run without a stop samples, before {end.stage}"
        known = end.sampled
    assert known == expected
    assert 0 < len(ends[0].sampled) < len(ends[1].sampled) < len(expected), "not stopped while sampling"


def test_interrupted_at_every_stage_ends_with_the_same_pairs_and_weights(
    straight: Path, interrupted: tuple[Path, list[Interrupted]]
) -> None:
    folder, _ = interrupted
    with journal(straight, "straight") as one, journal(folder, NAME) as two:
        for number in (1, 2):
            assert one.candidates(number) == two.candidates(number)
            assert one.pairs(number) == two.pairs(number)
        assert two.counts()["consumed"] == two.counts()["pairs"]
    assert temporary_files(folder / NAME) == temporary_files(straight / "straight") == []
    for number in (1, 2):
        assert checksum(straight, "straight", number) == checksum(folder, NAME, number)
    rows = [json.loads(line) for line in (folder / NAME / "metrics.jsonl").read_text().splitlines()]
    assert [row["failed_broadcasts"] for row in rows] == [1, 0]
    assert [row["restarts"] for row in rows] == [
        {"rollout actor": 1, "reward actor": 0},
        {"rollout actor": 0, "reward actor": 0},
    ]
    engine = {"fetch", "check", "load", "probe", "total"}
    assert [[set(report["seconds"]) for report in row["sync"]] for row in rows] == [
        [engine, {"total"}], [{"broadcast", "probe", "total"}, {"total"}]
    ]  # fmt: skip


def test_lidr_runs_with_both_directions_and_semi_online(tmp_path: Path) -> None:
    overrides = ("languages.shares={en: 1.0}", "evaluation.languages=[fr]", "schedule.rounds=3")
    schedule = ("schedule.max_staleness=1", "schedule.sync_every=2")
    done = train(tmp_path, "lidr", *overrides, *schedule, config="lidr")
    assert done.returncode == 0, done.stdout + done.stderr
    with journal(tmp_path, "lidr") as store:
        mined = [pair for pair in store.pairs(1) if pair.source == "mined"]
    assert {pair.language for pair in mined} == {"en", "es", "sw"}
    assert {p.chosen_key.source for p in mined if p.chosen_key and p.language != "en"} == {"translation"}
    assert {p.rejected_key.source for p in mined if p.rejected_key and p.language == "en"} == {"translation"}
    rows = [json.loads(line) for line in (tmp_path / "lidr" / "metrics.jsonl").read_text().splitlines()]
    assert set(rows[0]["counts"]["translation_outcomes"]) == {"en-es", "en-sw", "es-en", "sw-en"}
    found = summary(tmp_path, "lidr")  # French is evaluated and nothing else
    assert list(found["languages"]) == ["en", "es", "sw", "fr"]
    assert found["unseen_mean"]["end"] == found["languages"]["fr"]["end"]["accuracy_sampled"]
    assert set(rows[0]["heldout_start"]) == {"en", "es", "sw", "fr"}
    # Version 1 is never published, version 3 only to be evaluated.
    assert [(row["sample_version"], row["staleness"]) for row in rows] == [(0, 0), (0, 1), (2, 0)]
