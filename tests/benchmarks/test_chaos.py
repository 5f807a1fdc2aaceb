"""The chaos harness itself: its plan, its eyes, its book; and ten kills of the driver over a fake engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos.compare import Left, temporary_files
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.processes import victim_of
from benchmarks.chaos.run import wording
from benchmarks.chaos.schedule import VICTIMS, kills

CURE = "runs/x keeps all that was done; continue with --resume"


def test_plan_follows_the_seed_and_leaves_no_part_out() -> None:
    plan = list(kills(3, 70))
    assert plan == list(kills(3, 70))
    assert plan[:30] == list(kills(3, 30)), "a longer plan does not begin with the shorter one"
    assert plan != list(kills(4, 70))
    assert [sum(kill.victim == victim for kill in plan) for victim in VICTIMS] == [10] * 7
    assert {kill.victim for kill in islice(kills(0, 7), 7)} == set(VICTIMS)
    assert 0 < sum(kill.starting for kill in plan) < 40


@pytest.mark.parametrize(
    ("command", "victim"),
    [
        ("ray::RolloutActor.generate", "rollout"),
        ("ray::RewardActor", "reward"),
        ("ray::RayTrainWorker", "learner"),
        ("ray::StoreActor.put_chunk", "store"),
        ("/x/site-packages/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp", "gcs"),
        ("/x/site-packages/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/gcs_server", "raylet"),
        ("ray::DashboardAgent", None),
        ("ray::TrainController.run", None),
        ("/usr/bin/python -u /x/ray/_private/log_monitor.py --session-dir=raylet", None),
        ("", None),
    ],
)
def test_parts_are_told_apart(command: str, victim: str | None) -> None:
    assert victim_of(command) == victim


@pytest.mark.parametrize(
    ("output", "errors", "code", "problem"),
    [
        ("round 1\n", f"isogloss: Ray's head has died; {CURE}\n", 2, None),
        ("round 1\n", "", -9, None),
        ("Traceback (most recent call last):\n", f"isogloss: x; {CURE}\n", 2, "not our words in its output"),
        ("", f"[2026-11-26 00:41:26,334 E 25763] rpc_client.h:204: Failed\nisogloss: x; {CURE}\n", 2, "in its errors"),
        ("", f"isogloss: rollout died ({'x' * 900}); {CURE}\n", 2, "a line of 9"),
        ("", "", 2, "0 messages"),
        ("", f"isogloss: x\nisogloss: y; {CURE}\n", 2, "2 messages"),
        ("", "isogloss: the actor died\n", 2, "no cure"),
    ],
)
def test_words_that_are_not_ours_are_seen(output: str, errors: str, code: int, problem: str | None) -> None:
    found = wording(output, errors, code)
    assert (problem is None and not found) or any(str(problem) in one for one in found), found


def test_what_is_lost_or_changed_is_seen() -> None:
    known = Left({"a": (1, 2), "b": (3,)}, {"a": 0.5}, {})
    assert known.within(known, "lost") == []
    assert known.within(replace(known, sampled={"a": (1, 2)}), "lost") == ["1 of 2 sampled lost, e.g. b"]
    assert known.within(replace(known, scores={"a": 0.6}), "lost") == ["1 of 1 scores lost, e.g. a"]
    assert Left().within(known, "lost") == []


def test_temporary_files_are_seen(tmp_path: Path) -> None:
    for name in (".lock", "config.yaml", "checkpoints/round-0001/state.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert temporary_files(tmp_path) == []
    (tmp_path / "summary.tmp").touch()
    (tmp_path / "checkpoints" / ".round-0002").mkdir()
    assert temporary_files(tmp_path) == ["checkpoints/.round-0002", "summary.tmp"]


def test_book_adds_up_over_calls(tmp_path: Path) -> None:
    def row(number: int, *problems: str) -> dict[str, object]:
        return {"seed": 1, "number": number, "victim": "gcs", "outcome": "ended", "seconds": 3.0, "problems": problems}

    path = tmp_path / "results.json"
    Ledger(path).add(kills=[row(0), row(1)], runs=[{"seed": 1, "run": "a", "starts": 3, "problems": []}])
    again = Ledger(path)
    assert again.done(1) == {0, 1}
    assert again.done(2) == set()
    assert again.problems == []
    again.add(kills=[row(2, "exit code 1 instead of 2")])
    assert Ledger(path).problems == ["seed 1, gcs: exit code 1 instead of 2"]
    assert Ledger(path).lines() == [
        "gcs        3 kills: 3 ended, ended within 3.0 s, 1 with a problem",
        "3 kills over 1 seed(s) in 1 runs of 3 starts; 1 runs equal to the undisturbed one; 1 problems",
    ]


def test_kills_of_the_driver_over_a_fake_engine() -> None:
    """Lives that SIGKILL themselves at operations on the journal, checkpoints and rows: ten at random, and before and
    after every kind of write of a round, with and without overlap.
    """
    command = [sys.executable, "-m", "benchmarks.chaos.fake", "--seed", str(os.getpid()), "--kills", "10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    print("seed", os.getpid())
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["kills"], found["problems"]) == (10, [])
    for killed, moments in found["kinds"].values():
        assert killed == moments > 20
    assert not psutil.Process().children(recursive=True)
