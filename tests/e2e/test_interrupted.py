"""Runs that are stopped and killed, with everything real: they end as an undisturbed one, to the last bit.

One real kill of each kind of process but the driver: raylet, rollout actor, learner's rank. A driver with everything
real is killed in ``test_offline.py`` at night, and at its every step over a fake engine in
``tests/benchmarks/test_chaos.py``; ``make chaos`` kills all kinds at any moment.
"""

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
from rollout.state import RoundState, check_states
from rollout.token_ids import TokenIds
from tests.kits.run import CHUNKS, TRAINED, arguments, checksum, journal

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

NAME = "interrupted"


@dataclass(frozen=True)
class Progress:
    """How far round 1 is, and how many chunks of each round are answered."""

    state_1: RoundState = "planned"
    answered_1: int = 0
    answered_2: int = 0


Sampled = dict[CandidateKey, TokenIds]  # the tokens of every candidate; its gate is found later


@dataclass(frozen=True)
class Interrupted:
    """One start of the run: where it was stopped (``end``: nowhere), and how."""

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

    def __call__(self, driver: int) -> None:
        ranks = [] if self.killed else processes_of(driver, "learner")
        for rank in ranks:
            self.killed = rank.pid
            rank.kill()


def start(folder: Path, stage: str, *more: str) -> tuple[subprocess.Popen[bytes], Path]:
    """Start or continue the run; returns it and what it says."""
    output = folder / f"{stage}.log"
    with output.open("w") as log:
        command = [*arguments(folder, NAME, *CHUNKS), *more]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True), output


def interrupt(
    folder: Path,
    stage: str,
    sent: signal.Signals,
    *more: str,
    meanwhile: Callable[[int, Progress], None] = lambda driver, now: None,
    victim: Victim = "driver",
) -> Interrupted:
    """Start or continue the run, and end it in a stage of a round by a signal to its driver or to another part."""
    found = progress(folder)
    process, output = start(folder, stage, *more)
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


def finish(folder: Path, *more: str) -> Interrupted:
    """Continue the run to its end; its learner's rank is killed on the way."""
    process, output = start(folder, "end", *more)
    kill = KillsALearner()
    deadline = time.monotonic() + 400
    while process.poll() is None:
        assert time.monotonic() < deadline, f"never ended: {output.read_text()}"
        if "actors are up" in output.read_text():
            kill(process.pid)
        time.sleep(0.02)
    assert kill.killed, "there was no learner to kill"
    return Interrupted("end", process.returncode, output.read_text(), sampled(folder, NAME))


def sampled(folder: Path, name: str) -> Sampled:
    with journal(folder, name) as store:
        return {candidate.key: candidate.token_ids for number in (1, 2) for candidate in store.candidates(number)}


def progress(folder: Path) -> Progress:
    """What the journal says; nothing as long as it is being made."""
    if not (folder / NAME / "store.sqlite").exists():
        return Progress()
    try:
        with journal(folder, NAME) as store:
            states = store.round_states()
            chunks = [len(store.done_chunks(number, "answer")) for number in (1, 2)]
    except Exception:
        return Progress()
    found = check_states({number: state for number, (state, _) in states.items()}, 2)
    return Progress(found[1], *chunks)


def in_stage(stage: str, before: Progress, now: Progress) -> bool:
    """Whether a stage is under way; of sampling, whether this start has added to it."""
    return {
        "sample": now.answered_1 > before.answered_1,
        "generate": now.state_1 == "done" and now.answered_2 > before.answered_2,
    }[stage]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Interrupted]]:
    """The run again, stopped in round 1, killed in round 2, then ended; each start begins where the last stopped.

    What is killed is Ray's raylet, and at last the learner's rank in a start that continues to the end.
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
            victim="raylet",
        ),
        finish(folder, "--resume", "cluster.weight_transfer=broadcast"),
    ]
    return folder, ends


def test_sigterm_ends_cleanly(interrupted: tuple[Path, list[Interrupted]]) -> None:
    stopped = interrupted[1][0]
    assert stopped.code == 130, stopped.output
    assert "stopped by SIGTERM; nothing is lost" in stopped.output
    assert "'languages.codes=[en, es, sw]'" in stopped.output, "the command to continue with is not the one given"
    assert "Traceback" not in stopped.output


def test_killed_raylet_ends_the_run_with_one_line_of_ours(interrupted: tuple[Path, list[Interrupted]]) -> None:
    killed = next(end for end in interrupted[1] if end.stage == "generate")
    assert wording(killed.output, "", 0) == []
    assert killed.code == 2, killed.output
    last = killed.output.strip().splitlines()[-1]
    assert last.startswith("isogloss: Ray's raylet on this node at 127.0.0.1:")
    assert last.endswith("keeps all that was done; continue with --resume")


def test_a_run_whose_learner_was_killed_says_nothing_odd(interrupted: tuple[Path, list[Interrupted]]) -> None:
    """That the group was started again is said once its rank had arrived: test_group.py holds that."""
    end = interrupted[1][-1]
    assert end.code == 0, end.output
    assert wording(end.output, "", 0) == []


def test_no_candidate_is_lost_or_sampled_again(trained: Path, interrupted: tuple[Path, list[Interrupted]]) -> None:
    _, ends = interrupted
    assert [end.code for end in ends] == [130, 2, 0]
    expected = sampled(trained, TRAINED)
    known: Sampled = {}
    for end in ends:
        assert known.items() <= end.sampled.items(), f"lost or sampled again before {end.stage}"
        assert end.sampled.items() <= expected.items(), f"not what a run without a stop samples, before {end.stage}"
        known = end.sampled
    assert known == expected
    # A driver whose raylet is gone sees it within a second, in which round 2 may be sampled to its end.
    assert 0 < len(ends[0].sampled) < len(ends[1].sampled) <= len(expected), "not stopped while sampling"


def test_interrupted_it_ends_with_the_same_pairs_and_weights(
    trained: Path, interrupted: tuple[Path, list[Interrupted]]
) -> None:
    folder, _ = interrupted
    with journal(trained, TRAINED) as one, journal(folder, NAME) as two:
        for number in (1, 2):
            assert one.candidates(number) == two.candidates(number)
            assert one.pairs(number) == two.pairs(number)
        assert two.counts()["consumed"] == two.counts()["pairs"]
    assert temporary_files(folder / NAME) == temporary_files(trained / TRAINED) == []
    for number in (1, 2):
        assert checksum(trained, TRAINED, number) == checksum(folder, NAME, number)
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
