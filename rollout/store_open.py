"""Opening the journal: one writer, its schema version, its integrity, and whose config it belongs to."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from configs.errors import UserError
from configs.locks import holder, take
from configs.reading import shown
from rollout.identity import RunIdentity, differing_fields, locked_changes
from rollout.state import named_today, reached
from rollout.store_checksum import damaged_row, insert_sql, install, why_damaged
from rollout.store_schema import ADDED_IN_2, SCHEMA, SCHEMA_VERSION, dump

_UNCHECKED = "rows_without_checksum"  # in ``meta``: the journal has rows from before version 2


def lock_path(path: Path) -> Path:
    """The file that the one writer of the journal at ``path`` holds."""
    return Path(f"{path}.lock")


def claim(path: Path) -> FileLock:
    """Become the one writer of the journal at ``path``; release the lock to let the next writer in."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = take(lock_path(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); correct run.dir or its permissions") from None
    if lock is None:
        raise UserError(
            f"{path}: another process{holder(lock_path(path))} is writing to this run folder; wait for it, stop it, or "
            "set run.name to another name"
        )
    return lock


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open the file; ``mode`` is SQLite's: "rwc" or "ro". Transactions are begun and ended by hand."""
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    if mode == "ro" and not os.access(path.parent, os.W_OK) and not _has_content(Path(f"{path}-wal")):
        # SQLite reads a journal in WAL mode only where it may create shared memory beside it; on a disk that cannot be
        # written nobody else writes either.
        uri += "&immutable=1"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30, check_same_thread=False)
    install(db)
    return db


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's complaints about the file into a ``UserError``."""
    try:
        yield
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter of SQLite's own words, quoting damage
        raise unusable(path, error) from error


def unusable(path: Path, error: sqlite3.DatabaseError | UnicodeDecodeError) -> UserError:
    """What a complaint of SQLite about the journal comes to."""
    if isinstance(error, UnicodeDecodeError):
        error = sqlite3.DatabaseError("its schema is damaged")
    if "readonly" in str(error) or "unable to open" in str(error):
        return UserError(f"{path}: cannot be opened for writing ({error}); make the folder writable")
    return UserError(
        f"{path}: the journal cannot be used ({shown(error)}); restore it from a backup, or move the run folder away "
        "and start again (checkpoints in it stay valid)"
    )


def prepare(
    db: sqlite3.Connection, path: Path, digest: str, config: Mapping[str, object] | None, run_name: str
) -> None:
    """Create the schema in an empty file; check everything in a filled one."""
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and db.execute("SELECT 1 FROM sqlite_master").fetchone() is None:
        db.execute("BEGIN IMMEDIATE")
        for statement in (*SCHEMA.split(";"), *ADDED_IN_2):
            db.execute(statement)
        values = {"config_digest": digest, "config": dump(config or {}), "run_name": run_name}
        db.executemany(insert_sql("meta"), values.items())
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
        return
    check_version(db, path)
    check_pages(db)
    upgrade(db, version)
    meta = read_meta(db, path)
    if meta["config_digest"] != digest:
        begun = json.loads(meta["config"])
        states = db.execute("SELECT round, state FROM rounds").fetchall()
        changed = locked_changes(
            begun,
            config or {},
            [round_number for round_number, state in states if reached(named_today(state), "paired")],
        )
        if begun and config and not changed:
            db.execute("BEGIN IMMEDIATE")
            values = {"config_digest": digest, "config": dump(config)}
            db.executemany(insert_sql("meta", replace=True), values.items())
            db.execute("COMMIT")
            return
        raise UserError(
            f"{path.parent}: this run folder was begun with another config"
            + (f" (different: {'; '.join(changed)})" if changed else "")
            + "; restore the config, set run.name to another name, or remove the folder"
        )


def accept_changes(path: Path, identity: RunIdentity) -> None:
    """Write to a journal that the run continues with another config; what changed, and when, stays in ``meta``."""
    lock = claim(path)
    try:
        with explained(path), contextlib.closing(connect(path, "rw")) as db:
            check_version(db, path)
            upgrade(db, db.execute("PRAGMA user_version").fetchone()[0])
            meta = read_meta(db, path)
            if meta["config_digest"] == identity.digest:
                return
            changes = json.loads(meta.get("changes", "[]"))
            changes.append(
                {"time": time.time(), "fields": differing_fields(json.loads(meta["config"]), identity.config)}
            )
            values = {"config_digest": identity.digest, "config": dump(identity.config), "changes": dump(changes)}
            db.execute("BEGIN IMMEDIATE")
            db.executemany(insert_sql("meta", replace=True), values.items())
            db.execute("COMMIT")
    finally:
        lock.release()


def prepare_reading(db: sqlite3.Connection, path: Path) -> None:
    """Check a journal that is only read, beside its writer if there is one."""
    check_version(db, path)
    check_pages(db)
    read_meta(db, path)


def check_pages(db: sqlite3.Connection) -> None:
    """Refuse a file whose pages do not hang together.

    ``quick_check`` and not ``integrity_check``, which also looks for each row in each index and takes several times as
    long (docs/decisions.md): rows carry checksums, and finished chunks the number of their rows.
    """
    problem = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise sqlite3.DatabaseError(problem)


def upgrade(db: sqlite3.Connection, version: int) -> None:
    """Bring a journal of version 1 to this one; rows that it has stay without checksum, and thus unchecked."""
    if version >= SCHEMA_VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    for statement in ADDED_IN_2:
        db.execute(statement)
    known = db.execute("SELECT key, value FROM meta").fetchall()
    db.executemany(insert_sql("meta", replace=True), [*known, (_UNCHECKED, "1")])
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("COMMIT")


def unchecked_rows(db: sqlite3.Connection) -> tuple[bool, bool]:
    """Of a journal that was opened: (its rows may have checksums, some may have none)."""
    if db.execute("PRAGMA user_version").fetchone()[0] < SCHEMA_VERSION:
        return False, True
    return True, bool(db.execute("SELECT 1 FROM meta WHERE key = ?", (_UNCHECKED,)).fetchone())


def read_meta(db: sqlite3.Connection, path: Path) -> dict[str, str]:
    """The journal's ``meta``, each row compared with its checksum."""
    if db.execute("PRAGMA user_version").fetchone()[0] < SCHEMA_VERSION:
        return dict(db.execute("SELECT key, value FROM meta").fetchall())
    rows = db.execute("SELECT key, value, checksum FROM meta").fetchall()
    for *row, checksum in rows:
        if (reason := why_damaged(row, checksum, unchecked=False)) is not None:
            raise damaged_row(path, "meta", row, reason)
    meta = {key: value for key, value, _ in rows}
    if missing := {"config_digest", "config", "run_name"} - set(meta):
        raise sqlite3.DatabaseError(f"table meta has no {', '.join(sorted(missing))}")
    return meta


def check_version(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a file that is no journal or that a newer version wrote."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path}: written by a newer isogloss (journal version {version}, this one knows "
            f"{SCHEMA_VERSION}); "
            "upgrade isogloss or set run.name to another name"
        )
    if version < 1:
        raise UserError(f"{path}: not a journal of isogloss; set run.name to another name or move the file")
