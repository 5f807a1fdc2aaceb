"""What an evaluation need not do twice: answers, checksums of weight files, detected languages. One SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from configs.errors import UserError
from evaluation.suites.records import Answer
from rollout.write_ahead import write_ahead

VERSION = 1
_AT_ONCE = 500  # keys of one query; SQLite takes 999 in its oldest builds
_WAIT_S = 60.0  # for another process that writes


class EvalCache:
    """Answers by key (weights, prompt, decoding), and notes: text by kind and key.

    Several processes may use one file at the same time. An answer that is already there is kept: the first one wins, so
    that an evaluation never changes under a reader.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self.path = path

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[EvalCache]:
        """Open or create the file.

        Raises:
            UserError: It cannot be written, is no SQLite file, or is of another version.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=_WAIT_S)
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{path}: the cache cannot be opened ({error}); name another folder with --cache") from None
        try:
            try:
                _prepare(connection, path)
            except sqlite3.Error as error:
                raise UserError(f"{path}: the cache cannot be used ({error}); remove the file") from None
            yield cls(connection, path)
        finally:
            connection.close()

    def get_answers(self, keys: Sequence[str]) -> dict[str, Answer]:
        """The known ones."""
        out: dict[str, Answer] = {}
        for start in range(0, len(keys), _AT_ONCE):
            part = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(part))
            query = f"SELECT key, text, finish, tokens FROM answers WHERE key IN ({marks})"
            out.update(
                {key: Answer(text, finish, tokens) for key, text, finish, tokens in self._db.execute(query, part)}
            )
        return out

    def put_answers(self, answers: Mapping[str, Answer]) -> None:
        """Keep answers, in one transaction."""
        rows = [(key, a.text, a.finish, a.tokens) for key, a in answers.items()]
        with self._db:
            self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", rows)

    def get_notes(self, kind: str, keys: Sequence[str]) -> dict[str, str]:
        """The known ones."""
        out: dict[str, str] = {}
        for start in range(0, len(keys), _AT_ONCE):
            part = keys[start : start + _AT_ONCE]
            query = f"SELECT key, value FROM notes WHERE kind = ? AND key IN ({','.join('?' * len(part))})"
            out.update(self._db.execute(query, (kind, *part)).fetchall())
        return out

    def put_notes(self, kind: str, notes: Mapping[str, str]) -> None:
        """Keep notes, in one transaction."""
        with self._db:
            rows = [(kind, key, value) for key, value in notes.items()]
            self._db.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", rows)

    def forget(self, kind: str) -> None:
        """Remove the notes of a kind."""
        with self._db:
            self._db.execute("DELETE FROM notes WHERE kind = ?", (kind,))


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    write_ahead(connection, _WAIT_S)
    connection.execute("PRAGMA synchronous = NORMAL")  # a lost answer is made again
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, VERSION):
        raise UserError(f"{path}: is a cache of version {version}, this program has {VERSION}; remove the file")
    with connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS answers "
            "(key TEXT PRIMARY KEY, text TEXT NOT NULL, finish TEXT, tokens INTEGER) WITHOUT ROWID"
        )
        connection.execute(
            "CREATE TABLE IF NOT EXISTS notes "
            "(kind TEXT, key TEXT, value TEXT NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )
        connection.execute(f"PRAGMA user_version = {VERSION}")
