"""Ctrl-C and SIGTERM: the first asks for a clean end at a resumable point, the second ends at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopFlag:
    """True once a stop was asked for; pass it where ``should_stop`` is wanted."""

    def __init__(self) -> None:
        self.asked_by: str | None = None

    def __call__(self) -> bool:
        return self.asked_by is not None


@contextmanager
def stop_on_signals(flag: StopFlag) -> Iterator[None]:
    """Set ``flag`` on SIGINT and SIGTERM for the length of the block.

    To be entered after ``ray.init()``, which puts handlers of its own in place of earlier ones.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        if flag():
            raise KeyboardInterrupt
        flag.asked_by = signal.Signals(number).name

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
