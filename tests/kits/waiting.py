"""Waiting for something that other processes do, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(reached: Callable[[], bool], what: str, seconds: float, said: Callable[[], str] = lambda: "") -> None:
    """Ask again and again, and fail after ``seconds`` with ``what`` never came and what is ``said`` by then."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"never: {what}\n{said()}"
        time.sleep(0.1)
