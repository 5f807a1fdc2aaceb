"""What a driver lets its guardian know beforehand, and the last line of a process that ends without its driver's words.

Light: the guardian imports neither Ray nor torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass

LOST_EXIT = 2  # as after everything else that a run can be resumed from
STOPPED_EXIT = 130
_RAYS_EXIT = 1  # of Ray's object store client
_LONGEST = 3000  # characters of a note's text: a pipe takes 4,096 bytes at once or not at all

_to_guardian: int | None = None  # in a driver that has a guardian: the pipe


@dataclass
class Notes:
    """What a driver has told of itself, the last word of each kind.

    Attributes:
        raylet: The raylet that it is connected to, with host:port; None before Ray is up.
        advice: What a user is to do after a loss.
        finished: All work is done and kept: a loss is told, and is no failure.
        asked_by: Signal that asked the driver for a stop.
        last: Message and exit code with which it ends on its own.
        over: All that it had to say is said; its exit code counts.
    """

    raylet: str | None = None
    advice: str = "start the command again"
    finished: str | None = None
    asked_by: str | None = None
    last: tuple[str, int] | None = None
    over: bool = False


def told_on(pipe: int) -> None:
    """From now on ``tell`` writes to this pipe."""
    global _to_guardian
    os.set_blocking(pipe, False)
    _to_guardian = pipe


def tell(**notes: object) -> bool:
    """Let the guardian know what this process's end would mean (fields of ``Notes``); False where there is none."""
    if _to_guardian is None:
        return False
    told = {name: value[:_LONGEST] if isinstance(value, str) else value for name, value in notes.items()}
    with contextlib.suppress(OSError):  # it has ended, and this process is about to
        os.write(_to_guardian, json.dumps(told, ensure_ascii=True).encode() + b"\n")
    return True


def verdict(notes: Notes, status: int, asked_by: str | None) -> tuple[str | None, int]:
    """What is to be said after a driver's end, and the exit code; negative for a signal.

    Args:
        notes: What it told.
        status: Its exit code, or minus the signal that ended it.
        asked_by: Signal that asked the guardian for a stop.
    """
    if notes.last is not None:
        return notes.last
    if notes.over or notes.raylet is None:
        return None, status
    if status < 0:
        return f"the driver was ended by {signal.Signals(-status).name}; {notes.advice}", status
    if status != _RAYS_EXIT:
        return None, status
    return lost(f"{notes.raylet} has died or cannot be reached any more", notes, asked_by)


def lost(what: str, notes: Notes, asked_by: str | None = None) -> tuple[str, int]:
    """The words and the exit code for a server of Ray's that is gone."""
    if notes.finished is not None:
        return f"{notes.finished} ({what})", 0
    if (signal_name := asked_by or notes.asked_by) is not None:
        return f"stopped by {signal_name}; {notes.advice}", STOPPED_EXIT
    return f"{what}; {notes.advice}", LOST_EXIT


def say_last(message: str) -> None:
    """Write a process's last line, also where its screen was left as it stood."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            if stream.isatty():
                stream.write("\x1b[?25h")  # a progress bar hides the cursor
            stream.flush()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"isogloss: {message}\n")
        sys.stderr.flush()
