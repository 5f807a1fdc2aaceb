"""A run that is killed several times, and continued after each, until it is finished and compared."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos.compare import Left, differences, left_by
from benchmarks.chaos.processes import descendants, find, is_alive, left_over
from benchmarks.chaos.run import USER_ERROR, Setting, Start
from benchmarks.chaos.schedule import REPLACED, Kill
from configs.errors import UserError
from rollout.store import Store

END_S = 120.0  # from a kill that ends a run to its end; what is measured is far below
RUN_S = 600.0  # whatever a start may take
AGENTS_S = 75.0  # in which Ray's agents end


@dataclass(frozen=True)
class Straight:
    """The undisturbed run, and how long it took to start and to work."""

    run: Path
    left: Left
    start_s: float
    work_s: float


@dataclass
class Killed:
    """A kill and what followed."""

    kill: Kill
    outcome: str = ""  # replaced, ended, or: not reached (the run was finished before)
    stage: str = ""  # the last line that the run had shown
    seconds: float = 0.0  # until the command had ended
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """For the ledger."""
        return {**asdict(self.kill), **{k: v for k, v in asdict(self).items() if k != "kill"}}


def straight_run(setting: Setting, run: Path) -> Straight:
    """Run it once without a disturbance."""
    start = Start(setting, run, run.with_suffix(".log"))
    while not start.up and not start.ended:
        time.sleep(0.1)
    up = time.monotonic()
    start.wait(RUN_S)
    ended = time.monotonic()
    if problems := start.end([0]):
        raise RuntimeError(f"the undisturbed run has problems: {problems}\n{start.output}\n{start.errors}")
    return Straight(run, left_by(run, setting.rounds), up - start.begun, ended - up)


class Chain:
    """One run folder, from its first start to its end.

    Args:
        setting: The run.
        straight: What it must be equal to.
        run: Its folder.
        say: Gets a line of progress.
    """

    def __init__(self, setting: Setting, straight: Straight, run: Path, say: Callable[[str], None]) -> None:
        self._setting = setting
        self._straight = straight
        self._run = run
        self._say = say
        self._known = Left()
        self._strangers = {os.getpid(), *(one.pid for one in descendants())}
        self.starts = 0
        self.problems: list[str] = []

    def execute(self, kills: list[Kill]) -> list[Killed]:
        """Kill as planned as long as the run lasts, then let it finish; returns the kills that were done.

        Problems of a kill are with it, those of the finished run in ``problems``.
        """
        done: list[Killed] = []
        waiting = list(kills)
        while True:
            start = self._start()
            finished = False
            while waiting and not finished:
                # Those that are left share the work that is left.
                share = min(1.0, 2.0 / len(waiting))
                found = self._kill(start, waiting[0], share, again=bool(done) and done[-1].outcome == "replaced")
                if found.outcome == "not reached":
                    finished = True
                    break
                waiting.pop(0)
                done.append(found)
                self._say(f"{found.kill.victim:8} {found.outcome:9} {found.seconds:5.1f}s  {found.stage[:60]}")
                for problem in found.problems:
                    self._say(f"         ! {problem}")
                if found.outcome == "ended":
                    break
            else:
                finished = True
            if finished:
                start.wait(RUN_S)
                late = done[-1] if done and done[-1].outcome == "replaced" else None
                code = start.process.returncode
                if code == USER_ERROR and late is not None and late.kill.starting:
                    late.outcome = "ended"  # a part that dies while all wait for it to start
                    late.problems += self._ended(start, [USER_ERROR])
                    continue
                self.problems += start.end([0])
                if code == 0:
                    self.problems += differences(self._straight.run, self._run, self._setting.rounds)
                if left := left_over(start.process.pid, self._strangers, AGENTS_S, agents=True):
                    self.problems.append(f"left running at last: {'; '.join(left)}")
                for problem in self.problems:
                    self._say(f"  end    ! {problem}")
                return done

    def _start(self) -> Start:
        self.starts += 1
        return Start(self._setting, self._run, self._run.parent / f"{self._run.name}-{self.starts:02d}.log")

    def _kill(self, start: Start, kill: Kill, share: float, again: bool) -> Killed:
        found = Killed(kill)
        process = self._at_the_moment(start, kill, share, again)
        if process is None:
            found.outcome = "not reached"
            return found
        lines = start.output.strip().splitlines()
        found.stage = lines[-1].strip() if lines else "before its first line"
        begun = time.monotonic()
        process.send_signal(signal.SIGKILL)
        if kill.victim in REPLACED:
            # It is seen to be gone before the next kill; a run that is starting may end instead.
            while not start.ended and is_alive(process) and time.monotonic() - begun < END_S:
                time.sleep(0.05)
            if not (kill.starting and start.wait(3.0)):
                found.outcome, found.seconds = "replaced", time.monotonic() - begun
                return found
        start.wait(END_S)
        found.outcome, found.seconds = "ended", time.monotonic() - begun
        finished = kill.victim in ("raylet", "gcs", "store") and start.process.poll() == 0
        right = [-signal.SIGKILL] if kill.victim == "driver" else [0] if finished else [USER_ERROR]
        found.problems += self._ended(start, right)
        return found

    def _ended(self, start: Start, right: list[int]) -> list[str]:
        problems = start.end(right)
        left = left_by(self._run, self._setting.rounds)
        problems += self._known.within(left, "were lost or changed")
        problems += left.within(self._straight.left, "are not those of the undisturbed run")
        self._known = left
        return problems

    def _progress(self) -> float:
        """Share of all candidates that are in the journal, while its writer works."""
        try:
            with Store.read(self._run / "store.sqlite") as store:
                return store.counts()["candidates"] / len(self._straight.left.sampled)
        except (UserError, sqlite3.Error):  # just being made
            return 0.0

    def _at_the_moment(self, start: Start, kill: Kill, share: float, again: bool) -> psutil.Process | None:
        """Wait for it; the process, or None where the run was finished before."""
        if kill.starting and not again:
            moment = start.begun + kill.at * self._straight.start_s
            while not start.ended and time.monotonic() < moment:
                time.sleep(0.02)
        else:
            while not start.up and not start.ended:
                time.sleep(0.05)
            # By progress and not by time, which depends on what else the machine does; then anywhere within a round.
            begun = self._progress()
            while not start.ended and self._progress() < begun + 0.95 * share * kill.at * (1 - begun):
                time.sleep(0.02)
            time.sleep(kill.at * 1000 % 1 * 0.5 * self._straight.work_s / self._setting.rounds)
        while not start.ended:
            if processes := find(kill.victim, start.process.pid, start.strangers):
                return processes[-1]
            time.sleep(0.02)
        return None
