"""Trackers: a user's function gets each metrics row, and cannot stop the run."""

from __future__ import annotations

from pathlib import Path

import pytest

import actors.observe.metrics
from actors.observe.metrics import MetricsLog, read_metrics
from configs.errors import UserError
from configs.plugins import load_plugin

MODULE = """
import json, time
def keep(row, folder):
    with (folder / "kept.jsonl").open("a") as file:
        print(json.dumps(row), file=file)
    row["counts"] = None
def fail(row, folder):
    raise RuntimeError("no network")
def hang(row, folder):
    time.sleep(60)
def other(row):
    pass
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_trackers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_trackers"


def test_each_row_is_handed_over_and_failures_are_named(
    tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("fail", "hang", "keep")
    trackers = [load_plugin(f"{module}:{name}", "run.trackers", "isogloss.trackers") for name in names]
    monkeypatch.setattr(actors.observe.metrics, "TRACKER_S", 2.0)
    said: list[str] = []
    log = MetricsLog(tmp_path, trackers, said.append)
    log.write({"round": 1, "counts": {"pairs": 3}})
    log.add(1, {"heldout": {"sw": 0.5}})
    log.close()
    rows = [{"round": 1, "counts": {"pairs": 3}}, {"round": 1, "counts": {"pairs": 3}, "heldout": {"sw": 0.5}}]
    assert read_metrics(tmp_path / "kept.jsonl") == rows
    assert read_metrics(tmp_path / "metrics.jsonl") == rows[1:]  # what a tracker changes is its own
    assert len(said) == 4
    assert said[0].startswith("run.trackers: my_trackers:fail: failed for the row of round 1 with RuntimeError")
    assert "gave no answer within 2 s for the row of round 1" in said[1]
    assert all(line.endswith("the run continues") for line in said)


def test_what_is_no_tracker_is_refused(module: str) -> None:
    with pytest.raises(UserError, match=r"run\.trackers: my_trackers"):
        load_plugin(f"{module}:nothing", "run.trackers", "isogloss.trackers")
    with pytest.raises(UserError, match=r"my_trackers:other cannot be called with 2 argument"):
        load_plugin(f"{module}:other", "run.trackers", "isogloss.trackers").accepts(({}, Path()), {}, "run.trackers")
