"""A command's own process waits beside its driver, so that Ray cannot end a run without a word.

Ray's object store client ends its process at once (``_Exit(1)``) where it is the first to meet a dead raylet, and
nothing within that process can prevent it. So a command that starts Ray forks before anything of it is imported: the
child is the driver, and the parent, whose process id users see, hands on signals and exit code. Where the driver ends
by Ray's hand, it says so in the words and with the exit code that the driver's own watch has for a dead raylet.

The driver dies with its guardian, however that ends. Both stay in one process group: a terminal's keys reach both, and
a signal counts once, whether it was sent to one of them or to both (``actors.runtime.signals``).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from types import FrameType
from typing import NoReturn

from actors.runtime.last_words import STOPPED_EXIT, Notes, say_last, told_on, verdict
from actors.runtime.signals import PASSED, SENT, end_on_signals
from configs.json_types import JsonObject

_PR_SET_PDEATHSIG = 1


def guard() -> None:
    """Continue in a child of this process, the driver; this process waits for it and ends as it does.

    Call it while there is one thread, before anything that a fork would spoil. Linux only.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    libc = ctypes.CDLL(None, use_errno=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, [*PASSED, *PASSED.values()])
    guardian = os.getpid()
    driver = os.fork()
    if driver:
        os.close(writing)
        _wait(driver, reading)
    os.close(reading)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != guardian:  # it ended before it could be tied to this process's life
        os._exit(STOPPED_EXIT)
    told_on(writing)
    end_on_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [*PASSED, *PASSED.values()])


def _wait(driver: int, reading: int) -> NoReturn:
    asked: list[str] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        asked.append(signal.Signals(number).name)
        os.kill(driver, PASSED[number])

    for number in PASSED:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [*PASSED, *PASSED.values()])
    os.waitid(os.P_PID, driver, os.WEXITED | os.WNOWAIT)
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED)  # its process id may be another's from now on
    status = os.waitstatus_to_exitcode(os.waitpid(driver, 0)[1])
    status = -SENT.get(-status, -status)  # an interpreter that is ending has no handlers any more
    message, code = verdict(_read(reading), status, asked[0] if asked else None)
    if message is not None:
        say_last(message)
    if code < 0:
        _die_by(-code)
    os._exit(code)


def _read(reading: int) -> Notes:
    os.set_blocking(reading, False)
    told = b""
    with contextlib.suppress(BlockingIOError):  # a process that the driver forked has the pipe still open
        while part := os.read(reading, 1 << 16):
            told += part
    found: JsonObject = {}
    for line in told.splitlines():
        found |= json.loads(line)
    if found.get("last") is not None:
        found["last"] = tuple(found["last"])
    return Notes(**found)


def _die_by(number: int) -> NoReturn:
    """End as the driver did, for a shell to see; without a second dump of memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    os._exit(128 + number)
