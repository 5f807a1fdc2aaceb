"""What servers and commands answered, on disk, so that nothing is asked twice: one SQLite file."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError
from configs.reading import shown
from rollout.sqlite_file import explained, open_cache

VERSION = 1
_SCHEMA = """CREATE TABLE answers (
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
            foreign = f"candidates.cache: {path} is no file of answers of this version; name another"
            self._db = open_cache(path, VERSION, [_SCHEMA], foreign)

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
