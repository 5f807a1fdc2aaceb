"""SQLite files that several processes share as caches; any of them may be damaged, foreign or of another version."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from configs.errors import UserError
from configs.reading import shown
from rollout.write_ahead import write_ahead

_WAIT_S = 60.0  # for another process that writes; each holds the file for a row, or a few


def open_cache(path: Path | None, version: int, tables: Sequence[str], foreign: str) -> sqlite3.Connection:
    """Open or create a file that several processes read and write. Each statement is committed as it is done.

    Args:
        path: Of the file, created with its folder; None for one in memory.
        version: Of its tables, kept in the file.
        tables: The statements that create them.
        foreign: What to say of a file of another version, or of other tables; ``{found}`` stands for its version.

    Raises:
        UserError: ``foreign``.
        sqlite3.Error, OSError: The file is damaged or cannot be written; to be :func:`explained`.
    """
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(
        ":memory:" if path is None else path, isolation_level=None, timeout=_WAIT_S, check_same_thread=False
    )
    try:
        mode = write_ahead(db, _WAIT_S)
        # Without write-ahead logging, less than FULL can lose the file when a machine dies.
        db.execute(f"PRAGMA synchronous={'NORMAL' if mode == 'WAL' else 'FULL'}")
        if db.execute("PRAGMA user_version").fetchone()[0] != version:
            with transaction(db):  # looked at again: another process may have created it meanwhile
                _create(db, version, tables, foreign)
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """What is written within is written together or not at all."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:  # SQLite itself ends one on some errors
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _create(db: sqlite3.Connection, version: int, tables: Sequence[str], foreign: str) -> None:
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found == version:
        return
    if found != 0 or db.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise UserError(foreign.replace("{found}", str(found)))
    for statement in tables:
        db.execute(statement)
    db.execute(f"PRAGMA user_version={version}")


@contextmanager
def explained(name: str, cure: str) -> Iterator[None]:
    """Whatever SQLite says of a file as a ``UserError``: ``<name> cannot be used (<reason>); <cure>``.

    To be put around single calls of SQLite: an error of anything else within would be told as the file's.
    """
    try:
        yield
    except (sqlite3.Error, OSError, OverflowError, ValueError) as error:
        # ValueError: of a path that can be none, and of SQLite's own words where they are no UTF-8.
        reason = "damaged" if isinstance(error, UnicodeDecodeError) else shown(error)
        raise UserError(f"{name} cannot be used ({reason}); {cure}") from error
