"""What an evaluation need not do twice: answers, checksums of weight files, detected languages. One SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from configs.errors import UserError
from configs.reading import shown
from evaluation.suites.records import Answer
from rollout.sqlite_file import explained, open_cache, transaction

VERSION = 1
_AT_ONCE = 500  # keys of one query; SQLite takes 999 in its oldest builds
_TABLES = (
    "CREATE TABLE answers (key TEXT PRIMARY KEY, text TEXT NOT NULL, finish TEXT, tokens INTEGER) WITHOUT ROWID",
    "CREATE TABLE notes (kind TEXT, key TEXT, value TEXT NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID",
)


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
        with explained(f"{shown(path)}: the cache", "name another folder with --cache"):
            path.parent.mkdir(parents=True, exist_ok=True)
        with _explained(path):
            foreign = f"{path}: is a cache of version {{found}}, this program has {VERSION}; remove the file"
            connection = open_cache(path, VERSION, _TABLES, foreign)
        try:
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
            with _explained(self.path):
                rows = self._db.execute(query, part).fetchall()
            out.update({key: self._answer(*row) for key, *row in rows})
        return out

    def put_answers(self, answers: Mapping[str, Answer]) -> None:
        """Keep answers, in one transaction."""
        rows = [(key, a.text, a.finish, a.tokens) for key, a in answers.items()]
        with _explained(self.path), transaction(self._db):
            self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", rows)

    def get_notes(self, kind: str, keys: Sequence[str]) -> dict[str, str]:
        """The known ones."""
        out: dict[str, str] = {}
        for start in range(0, len(keys), _AT_ONCE):
            part = keys[start : start + _AT_ONCE]
            query = f"SELECT key, value FROM notes WHERE kind = ? AND key IN ({','.join('?' * len(part))})"
            with _explained(self.path):
                found = self._db.execute(query, (kind, *part)).fetchall()
            for key, value in found:
                if not isinstance(value, str):
                    raise self._damaged(value)
                out[key] = value
        return out

    def put_notes(self, kind: str, notes: Mapping[str, str]) -> None:
        """Keep notes, in one transaction."""
        with _explained(self.path), transaction(self._db):
            rows = [(kind, key, value) for key, value in notes.items()]
            self._db.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", rows)

    def forget(self, kind: str) -> None:
        """Remove the notes of a kind."""
        with _explained(self.path):
            self._db.execute("DELETE FROM notes WHERE kind = ?", (kind,))

    def _answer(self, text: object, finish: object, tokens: object) -> Answer:
        # SQLite keeps a value of any type in any column, so a flipped byte can turn a number into a text.
        if (
            isinstance(text, str)
            and isinstance(finish, str | None)
            and (tokens is None or (isinstance(tokens, int) and tokens >= 0))
        ):
            return Answer(text, finish, tokens)
        raise self._damaged((text, finish, tokens))

    def _damaged(self, found: object) -> UserError:
        return UserError(f"{self.path}: the cache holds a damaged row ({shown(found)}); remove the file")


def _explained(path: Path) -> AbstractContextManager[None]:
    return explained(f"{shown(path)}: the cache", "remove the file")
