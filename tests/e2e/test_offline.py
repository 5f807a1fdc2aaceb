"""A whole offline run, at night also killed in its second round and resumed: the same to the last bit as its parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rollout.state import reached
from tests.kits.run import ISOGLOSS, checksum, journal

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SMALL = (
    "offline.limit=120",
    "offline.pairs_per_round=60",
    "learner.pairs_per_step=10",
    "learner.epochs=3",
    "languages.codes=[en, es]",
    "prompts.heldout=worlds/default/prompts/heldout/{lang}.jsonl",
    "prompts.heldout_limit=4",
    "evaluation.every=1",
    "evaluation.bootstrap_samples=200",
    "rollout.max_new_tokens=32",
    "rollout.kv_cache_gb=0.0625",
)


def in_round_2(folder: Path) -> bool:
    if not (folder / "run" / "store.sqlite").exists():
        return False
    try:
        with journal(folder, "run") as store:
            state, _ = store.round_state(2) or ("planned", {})
    except Exception:  # the file is being made
        return False
    return reached(state, "referenced")  # type: ignore[arg-type]


UNDISTURBED = """
import json, sys
from dataclasses import replace
from pathlib import Path
from actors.train.offline import check_offline
from configs.load import load_config
from learners.distributed import single_process
from learners.session import LearnerSession
from learners.weights import checksum
from rollout.preferences import offline_pairs
config = load_config(Path("configs/offline.yaml"), sys.argv[2:])
preferences = check_offline(config).preferences
known = {}
with single_process():
    session = LearnerSession(config.learner, config.model, config.run.seed, config.model.policy)
    for number in (1, 2):
        pairs = offline_pairs(preferences, 60, number)
        found = session.reference_logprobs(number, pairs)
        known |= found
        scored = [replace(p, reference_chosen=found[p.id][0], reference_rejected=found[p.id][1]) for p in pairs]
        session.train_round(number, scored)
    Path(sys.argv[1]).write_text(json.dumps({"weights": checksum(session.full_weights()), "reference": known}))
    session.close()
"""


def undisturbed(file: Path, overrides: list[str]) -> tuple[str, dict[str, list[float]]]:
    """Both rounds without a run around them: the checksum of the weights, and each pair's reference.

    In a process of its own, because tests of engines before this one may have left a process group in ours.
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", UNDISTURBED, str(file), *overrides], timeout=300, check=True)
    found = json.loads(file.read_text())
    return found["weights"], found["reference"]


def kill_in_round_2(command: list[str], folder: Path) -> None:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 200
    while not in_round_2(folder):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_it_ends_with_the_weights_of_both_rounds_without_a_run_around_them(tmp_path: Path, killed: bool) -> None:
    overrides = [f"run.dir={tmp_path}", "run.name=run", *SMALL]
    command = [str(ISOGLOSS), "train", "configs/offline.yaml", *overrides]
    if killed:
        kill_in_round_2(command, tmp_path)
        command.append("--resume")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    expected, known = undisturbed(tmp_path / "undisturbed.json", overrides)
    assert checksum(tmp_path, "run", 2) == expected

    run = tmp_path / "run"
    with journal(tmp_path, "run") as store:
        assert store.counts()["consumed"] == store.counts()["pairs"] == 120
        stored = {p.id: [p.reference_chosen, p.reference_rejected] for n in (1, 2) for p in store.pairs(n)}
    assert stored == known
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["counts"]["pairs"] for row in rows] == [60, 60]
    assert rows[0]["learner"]["first_preference_loss"] == pytest.approx(0.6931472, abs=1e-5)
    assert rows[1]["learner"]["first_preference_loss"] < 0.69  # the reference stays where it was
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["pairs"], summary["rounds"], summary["pairs_by_language"]) == (120, 2, {"en": 120})
    # Evaluated like an online run: at the start, after a slice, and at the end.
    with journal(tmp_path, "run") as store:
        assert list(store.evaluations()) == [0, 1, 2]
    assert set(rows[0]) >= {"heldout", "heldout_start"}
    assert summary["languages"]["es"]["end"]["accuracy_greedy"] == rows[1]["heldout"]["es"]["accuracy_greedy"]
    assert (run / "policy" / "model.safetensors").is_file()
    assert (run / "report.html").is_file()
    assert list((run / "tensorboard").glob("events*"))
