"""Files that one process at a time holds. A lock ends with its process, however that ends; a stale file is none."""

from __future__ import annotations

import contextlib
import fcntl
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
