"""What a whole run leaves, over the embedded world, with everything real."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kits.chromium import chromium, find_chromium
from tests.kits.run import ISOGLOSS, TRAINED, journal, summary

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_run_leaves_what_it_promises(trained: Path) -> None:
    run = trained / TRAINED
    found = summary(trained, TRAINED)
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


def test_first_preference_loss_of_each_round_is_ln_2(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / TRAINED / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 2]
    for row in rows:
        assert row["learner"]["first_preference_loss"] == pytest.approx(0.6931472, abs=1e-4)
        assert row["staleness"] == 0
        assert row["counts"]["candidates"] == 24 * 4 * 2  # English has share 0 and is not sampled
        assert set(row["seconds"]["stages"]) >= {"generate", "score", "pair", "reference", "train", "sync", "store"}


def test_every_pair_is_consumed_once_by_its_round(trained: Path) -> None:
    with journal(trained, TRAINED) as store:
        counts = store.counts()
        pairs = [pair for number in (1, 2) for pair in store.pairs(number)]
    assert counts["pairs"] == counts["consumed"] == len({pair.id for pair in pairs}) > 0
    assert all(pair.reference_chosen is not None and pair.reference_rejected is not None for pair in pairs)


def test_metrics_hold_evaluations_and_each_actors_calls(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / TRAINED / "metrics.jsonl").read_text().splitlines()]
    found = summary(trained, TRAINED)["languages"]
    figures = {name: value for name, value in found["es"]["end"].items() if name != "accuracy_greedy_ci95"}
    assert figures.items() <= rows[1]["heldout"]["es"].items()
    assert rows[0]["heldout_start"]["sw"] == found["sw"]["start"]
    for row in rows:
        assert set(row["timeline"]) == {"rollout actor 0", "reward actor 0", "learner", "driver"}
        assert set(row["timeline"]["learner"]) == {"reference", "train"}
        begin, end = row["timeline"]["learner"]["train"]
        assert 0 < begin < end <= row["seconds"]["wall"] + 1


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on the path")
def test_report_in_a_browser(trained: Path, tmp_path: Path) -> None:
    report = trained / TRAINED / "report.html"
    with chromium(tmp_path / "profile") as page:
        page.show(report)
        assert page.evaluate("document.querySelectorAll('.pair').length") == 12
        assert page.evaluate("document.querySelectorAll('svg rect').length") > 10
        assert page.logged == []
        assert page.requests == [report.resolve().as_uri()]


def test_export(trained: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    run = tmp_path / TRAINED
    shutil.copytree(trained / TRAINED, run, symlinks=True)
    command = [str(ISOGLOSS), "export", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    with journal(tmp_path, TRAINED) as store:
        expected = store.counts()["pairs"]
    assert pq.read_table(run / "export" / "pairs.parquet").num_rows == expected
