"""Commands of isogloss as child processes, one after another: logged, and stopped together with their parent."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.runtime.signals import StopFlag

INTERRUPTED = 130  # exit status of a run that was stopped and can be resumed
_LAST = 6  # lines of a log that a failure shows
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: its exit status, seconds, and the end of its log."""

    status: int
    seconds: float
    tail: str


def run_logged(arguments: Sequence[str], log: Path, flag: StopFlag, waited: Callable[[], None] = lambda: None) -> Ended:
    """Run ``isogloss ARGUMENTS``, its output appended to ``log``; a stop is passed on, and the child waited for.

    Args:
        arguments: Of the command.
        log: Gets all output.
        flag: Raised by the parent's signals.
        waited: Called now and then while the child works.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started, told = time.monotonic(), False
    with log.open("ab") as out:
        begin = out.tell()
        # A group of its own: a terminal's Ctrl-C would reach it a second time beside the signal that is passed on.
        child = subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while True:
                try:
                    status = child.wait(_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    waited()
                if flag() and not told:
                    told = True
                    child.send_signal(signal.SIGTERM)
        except BaseException:  # a second signal
            child.send_signal(signal.SIGTERM)
            child.wait()
            raise
    return Ended(status, time.monotonic() - started, _tail(log, begin))


def _tail(log: Path, begin: int) -> str:
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(begin, size - 4000))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    # The command's own message, where there is one, stands at the end and may have several lines.
    starts = [place for place, line in enumerate(lines) if line.startswith("isogloss: ")]
    return "\n".join(lines[starts[-1] :][:_LAST] if starts else lines[-_LAST:])
