"""Trackers: a user's function gets each metrics row, and cannot stop the run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
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


WANDB = """
import json, sys
from pathlib import Path
from actors.observe.metrics import MetricsLog
from actors.train.run import TRACKERS
from configs.errors import UserError
from configs.plugins import load_plugin
folder = Path(sys.argv[1])
try:
    tracker = load_plugin(TRACKERS["wandb"], "run.trackers", "isogloss.trackers")
except UserError as error:
    sys.exit(str(error))
log = MetricsLog(folder, [tracker], lambda text: sys.exit(text))
log.write({"round": 1, "heldout_start": {"sw": 0.25}, "counts": {"pairs": 4137}})
log.add(1, {"heldout": {"sw": 0.5}})
log.close()
"""


def wandb(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("run: {name: mine}\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env = {**kept, "HOME": str(folder), **variables}
    command = [sys.executable, "-c", WANDB, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb, an extra of 100 MB, is not installed")
def test_weights_and_biases_for_real_offline(tmp_path: Path) -> None:
    done = wandb(tmp_path, WANDB_MODE="offline", WANDB_DISABLE_GIT="true")
    assert (done.returncode, done.stderr) == (0, "")
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    said = written.read_bytes()
    for part in (b"isogloss", b"heldout/sw", b"0.25", b"0.5", b"counts/pairs"):
        assert part in said
    assert said.count(b"4137") == 2, "in the history and in the summary; what a row has said is not said again"
    without = wandb(tmp_path / "other")
    assert without.stderr.startswith("run.trackers: wandb has no key; run `wandb login`, set WANDB_API_KEY, or WANDB_M")


def test_weights_and_biases_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wandb.py").write_text("raise ModuleNotFoundError('wandb')")
    done = wandb(tmp_path / "run", PYTHONPATH=str(tmp_path))
    assert done.stderr.startswith("run.trackers: wandb is not installed; install isogloss[wandb], or take it out of")


def test_what_is_no_tracker_is_refused(module: str) -> None:
    with pytest.raises(UserError, match=r"run\.trackers: my_trackers"):
        load_plugin(f"{module}:nothing", "run.trackers", "isogloss.trackers")
    with pytest.raises(UserError, match=r"my_trackers:other cannot be called with 2 argument"):
        load_plugin(f"{module}:other", "run.trackers", "isogloss.trackers").accepts(({}, Path()), {}, "run.trackers")
