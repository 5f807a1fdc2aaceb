"""What servers and commands answered, on disk, so that nothing is asked twice: one SQLite file."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError
from configs.reading import shown
from rollout.sqlite_file import explained
from rollout.write_ahead import write_ahead

VERSION = 1
_WAIT_S = 60.0  # for another writer; each holds the file for one row
_SCHEMA = """CREATE TABLE IF NOT EXISTS answers (
  key BLOB PRIMARY KEY, model TEXT NOT NULL, text TEXT NOT NULL, cut INTEGER NOT NULL
) WITHOUT ROWID"""


@dataclass(frozen=True, slots=True)
class Answered:
    """The outcome of one question.

    Attributes:
        text: The answer; None if there is none.
        cut: Whether a limit cut it.
        model: Who gave it.
        why: Why there is none; "" if there is one.
    """

    text: str | None
    cut: bool = False
    model: str = ""
    why: str = ""


class AnswerCache:
    """The file. An answer is committed as it arrives: a killed process loses nothing that was answered.

    Args:
        path: Of the file, created with its folder.

    Raises:
        UserError: The file is no cache of answers, is from a newer version, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=_WAIT_S, check_same_thread=False)
            try:
                mode = write_ahead(self._db, _WAIT_S)
                # Without write-ahead logging, less than FULL can lose the file when a machine dies.
                self._db.execute(f"PRAGMA synchronous={'NORMAL' if mode == 'WAL' else 'FULL'}")
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == VERSION:
            return
        if version != 0 or self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise UserError(f"candidates.cache: {self._path} is no file of answers of this version; name another")
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(_SCHEMA)
        self._db.execute(f"PRAGMA user_version={VERSION}")
        self._db.execute("COMMIT")

    def get(self, key: bytes) -> Answered | None:
        """The answer to a question, if it is known."""
        with self._explained():
            row = self._db.execute("SELECT text, cut, model FROM answers WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        text, cut, model = row
        if not isinstance(text, str) or cut not in (0, 1) or not isinstance(model, str):
            raise UserError(
                f"candidates.cache: {self._path} holds a damaged answer ({shown(row)}); remove it, or name another"
            )
        return Answered(text, bool(cut), model)

    def put(self, key: bytes, answer: Answered) -> None:
        """Keep an answer; an earlier one of another process stays."""
        with self._explained():
            self._db.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", (key, answer.model, answer.text, int(answer.cut))
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _explained(self) -> AbstractContextManager[None]:
        return explained(f"candidates.cache: {self._path}", "free some space, remove it, or name another")
