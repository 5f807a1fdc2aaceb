"""Ctrl-C and SIGTERM: the first asks for a clean end at a resumable point, the second ends at once.

One request may reach a driver twice: from a sender who signals all processes of a group or a job, and once more through
its guardian, who got the signal as well and passes it on as another one. Each way is counted by itself, and the larger
number is how often a stop was asked for.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from actors.runtime.last_words import tell

# What a guardian passes a signal on as (``actors.runtime.guardian``).
PASSED: Mapping[int, int] = {signal.SIGINT: signal.SIGRTMIN, signal.SIGTERM: signal.SIGRTMIN + 1}
SENT = {passed: sent for sent, passed in PASSED.items()}


LOOK_S = 0.2  # how often a wait looks whether it is to stop


class StopRequested(Exception):
    """Ctrl-C or SIGTERM: end at a resumable point."""


class StopFlag:
    """True once a stop was asked for; pass it where ``should_stop`` is wanted."""

    def __init__(self) -> None:
        self.asked_by: str | None = None

    def __call__(self) -> bool:
        return self.asked_by is not None


def never() -> bool:
    """For waits that no stop ends."""
    return False


@contextmanager
def stop_on_signals(flag: StopFlag) -> Iterator[None]:
    """Set ``flag`` on SIGINT and SIGTERM for the length of the block; a second one raises ``KeyboardInterrupt``."""

    def asked(number: signal.Signals, count: int) -> None:
        if count > 1 or flag():
            raise KeyboardInterrupt
        flag.asked_by = number.name
        tell(asked_by=number.name)

    before = _install(asked)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_on_signals() -> None:
    """From now on SIGINT and SIGTERM do to this process what they do by default, whichever way they come."""

    def asked(number: signal.Signals, _count: int) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    _install(asked)


def _install(asked: Callable[[signal.Signals, int], None]) -> dict[int, Any]:
    """Call ``asked`` with the signal and how often it has come by now; returns the handlers that were there before."""
    counts = {"sent": 0, "passed": 0}

    def handle(number: int, _frame: FrameType | None) -> None:
        way, other = ("passed", "sent") if number in SENT else ("sent", "passed")
        counts[way] += 1
        if counts[way] > counts[other]:  # else it has come the other way already
            asked(signal.Signals(SENT.get(number, number)), counts[way])

    return {number: signal.signal(number, handle) for number in (*PASSED, *SENT)}
