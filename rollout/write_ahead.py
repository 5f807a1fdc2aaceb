"""SQLite files that several processes open at once."""

from __future__ import annotations

import sqlite3

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random


def write_ahead(db: sqlite3.Connection, wait_s: float) -> None:
    """Switch a file to write-ahead logging. Two connections that do so to a fresh file lock each other out at once,
    whatever SQLite's own time-out says, so it is tried again for ``wait_s`` seconds.
    """

    def locked(error: BaseException) -> bool:
        return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)

    again = Retrying(
        retry=retry_if_exception(locked), wait=wait_random(0.01, 0.1), stop=stop_after_delay(wait_s), reraise=True
    )
    again(db.execute, "PRAGMA journal_mode=WAL")
