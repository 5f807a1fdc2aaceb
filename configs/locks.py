"""Files that one process at a time holds. A lock ends with its process, however that ends; a stale file is none."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout


def take(path: Path) -> FileLock | None:
    """Hold the file until ``release()`` or the process's end; None where another process holds it.

    Args:
        path: Of the lock's file, created where it is not there.

    Raises:
        OSError: The file cannot be written.
    """
    lock = lock_of(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def lock_of(path: Path) -> FileLock:
    """A lock to wait for, as a context manager; it may be released by another thread than took it."""
    # Not in turn a file whose mere presence locks: it would outlive a killed process.
    return FileLock(path, thread_local=False, fallback_to_soft=False)


def is_held(path: Path) -> bool:
    """Whether a process holds the file; asking takes a shared lock for a moment where none does.

    By hand, since a reader may lack the right to write, which taking the lock needs.
    """
    with contextlib.suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def freed(path: Path, seconds: float, waits: Callable[[], None], quiet_s: float = 2.0) -> bool:
    """Whether nobody holds the file, or nobody any more within some seconds.

    Args:
        path: Of the lock's file; it need not be there.
        seconds: Longest wait.
        waits: Called once where it takes longer than ``quiet_s``.
        quiet_s: Seconds that nobody needs to hear of.
    """
    begun, told = time.monotonic(), False
    while is_held(path):
        waited = time.monotonic() - begun
        if waited >= seconds:
            return False
        if waited >= quiet_s and not told:
            told = True
            waits()
        time.sleep(0.1)
    return True


def holder(path: Path) -> str:
    """For a message: `` (process id N)`` of who holds the file, where Linux lists it; else nothing.

    Another machine's process, over a network file system, is not listed.
    """
    with contextlib.suppress(OSError, ValueError):
        inode = str(path.stat().st_ino)
        # "1: FLOCK  ADVISORY  WRITE 4711 fe:00:2148055 0 EOF"; who waits for one has "->" after the number
        rows = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
        held = [row for row in rows if len(row) > 5 and row[1] != "->" and row[5].rpartition(":")[2] == inode]
        found = {int(row[4]) for row in held}
        if len(found) == 1 and (number := found.pop()) > 0:
            return f" (process id {number})"
    return ""
