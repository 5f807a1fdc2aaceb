"""Whole runs of the command over the embedded world, with everything real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chromium_kit import chromium, find_chromium
from run_kit import arguments, checksum, journal, summary, train

from rollout.state import reached as at_least

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbs; the other runs are compared with it."""
    folder = tmp_path_factory.mktemp("runs")
    done = train(folder, "straight")
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
    assert set(found["non_english_mean"]) == {"start", "end", "delta_ci95"}
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


def test_same_seed_gives_the_same_pairs_and_weights(straight: Path, tmp_path: Path) -> None:
    # Two rollout actors instead of one: who does which chunk must not matter either.
    done = train(tmp_path, "again", "rollout.actors=2", "rollout.cpus_per_actor=0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    with journal(straight, "straight") as one, journal(tmp_path, "again") as two:
        for number in (1, 2):
            assert one.candidates(number) == two.candidates(number)
            assert one.pairs(number) == two.pairs(number)
    assert checksum(straight, "straight", 2) == checksum(tmp_path, "again", 2)


def start(folder: Path, name: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*arguments(folder, name), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str], reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 240
    while not reached():
        assert process.poll() is None, f"ended before {what}: {process.stdout and process.stdout.read()}"
        assert time.monotonic() < deadline, f"never reached {what}"
        time.sleep(0.02)


def in_stage(folder: Path, name: str, stage: str) -> Callable[[], bool]:
    """Whether round 2 is in a stage, as the journal tells."""

    def reached() -> bool:
        if not (folder / name / "store.sqlite").exists():
            return False
        try:
            with journal(folder, name) as store:
                state = (store.round_state(2) or ("planned", {}))[0]
                first_done = (store.round_state(1) or ("planned", {}))[0] == "done"
                answered, scored = (len(store.done_chunks(2, kind)) for kind in ("answer", "score"))
        except Exception:  # the file is being made
            return False
        return {
            "generate": first_done and answered >= 1,
            "score": scored >= 1,
            # Or later: some of these states last a tenth of a second.
            "reference": at_least(state, "paired"),
            "train": at_least(state, "referenced"),
            "publish": at_least(state, "trained"),
        }[stage]

    return reached


@pytest.mark.parametrize("stage", ["generate", "score", "reference", "train", "publish"])
def test_killed_in_round_2_and_resumed_ends_with_the_same_weights(straight: Path, tmp_path: Path, stage: str) -> None:
    process = start(tmp_path, "killed")
    wait_for(process, in_stage(tmp_path, "killed", stage), f"round 2, {stage}")
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    with journal(tmp_path, "killed") as store:
        before = {candidate.key: candidate.text for candidate in store.candidates(2)}

    done = train(tmp_path, "killed", "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    with journal(straight, "straight") as one, journal(tmp_path, "killed") as two:
        resumed = {candidate.key: candidate.text for candidate in two.candidates(2)}
        assert before.items() <= resumed.items(), "a candidate was lost or sampled again"
        assert one.candidates(2) == two.candidates(2)
        assert [pair.id for pair in one.pairs(2)] == [pair.id for pair in two.pairs(2)]
        assert two.counts()["consumed"] == two.counts()["pairs"]
    assert checksum(straight, "straight", 2) == checksum(tmp_path, "killed", 2)


def test_sigterm_ends_cleanly_and_the_run_goes_on(straight: Path, tmp_path: Path) -> None:
    process = start(tmp_path, "stopped")
    wait_for(process, in_stage(tmp_path, "stopped", "generate"), "round 2")
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "stopped by SIGTERM; nothing is lost" in output
    assert "Traceback" not in output
    done = train(tmp_path, "stopped", "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert checksum(straight, "straight", 2) == checksum(tmp_path, "stopped", 2)


def test_lidr_runs_with_both_directions(tmp_path: Path) -> None:
    done = train(tmp_path, "lidr", "languages.shares={en: 1.0}", "evaluation.languages=[fr]", config="lidr")
    assert done.returncode == 0, done.stdout + done.stderr
    with journal(tmp_path, "lidr") as store:
        mined = [pair for pair in store.pairs(1) if pair.source == "mined"]
    assert {pair.language for pair in mined} == {"en", "es", "sw"}
    assert {p.chosen_key.source for p in mined if p.chosen_key and p.language != "en"} == {"translation"}
    assert {p.rejected_key.source for p in mined if p.rejected_key and p.language == "en"} == {"translation"}
    row = json.loads((tmp_path / "lidr" / "metrics.jsonl").read_text().splitlines()[0])
    assert set(row["counts"]["translation_outcomes"]) == {"en-es", "en-sw", "es-en", "sw-en"}
    found = summary(tmp_path, "lidr")  # French is evaluated and nothing else
    assert list(found["languages"]) == ["en", "es", "sw", "fr"]
    assert found["unseen_mean"]["end"] == found["languages"]["fr"]["end"]["accuracy_sampled"]
    assert set(row["heldout_start"]) == {"en", "es", "sw", "fr"}


def test_overlap_and_semi_online_stay_within_their_staleness(tmp_path: Path) -> None:
    overrides = ("schedule.rounds=3", "schedule.max_staleness=1")
    done = train(tmp_path, "overlap", *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "overlap" / "metrics.jsonl").read_text().splitlines()]
    assert [row["staleness"] for row in rows] == [0, 1, 1]
    done = train(tmp_path, "semi", "schedule.rounds=3", "schedule.max_staleness=1", "schedule.sync_every=2")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "semi" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["staleness"] <= 1 for row in rows)
