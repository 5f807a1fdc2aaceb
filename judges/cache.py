"""Verdicts on disk, so that no question is asked twice: one SQLite file that several processes may write at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from configs.errors import UserError
from configs.json_types import Json, Row
from configs.reading import shown
from rollout.sqlite_file import explained, open_cache

VERSION = 1
_SOURCES = ("logprobs", "words", "")
_MOST_TOKENS = 2**53
_SCHEMA = """CREATE TABLE verdicts (
  key BLOB PRIMARY KEY, judge TEXT NOT NULL, wording TEXT NOT NULL, language TEXT NOT NULL, preference REAL,
  source TEXT NOT NULL, words TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL
) WITHOUT ROWID"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a judge answered to one question, in one order.

    Attributes:
        preference: 1 for the answer shown first, 0 for the second, 0.5 for a tie; None if its words could not be read.
        source: Where the preference was read: "logprobs", "words", or "" for nowhere.
        words: What the judge said.
        prompt_tokens: As the server counted them, over all attempts.
        completion_tokens: As the server counted them, over all attempts.
    """

    preference: float | None
    source: str
    words: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


def question_key(**parts: Json) -> bytes:
    """Key of a question: SHA-256 over everything that can change its answer. ``parts`` are JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).digest()


class VerdictCache:
    """The file. An answer is committed as it arrives: a killed process loses nothing that was answered.

    Args:
        path: Of the file, created with its folder. None keeps answers in memory only.

    Raises:
        UserError: The file is no cache of verdicts, is from a newer version, or cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        with self._explained():
            foreign = f"judge.cache: {path} is no file of verdicts of this version; name another"
            self._db = open_cache(path, VERSION, [_SCHEMA], foreign)

    def get(self, keys: Iterable[bytes]) -> dict[bytes, Answer]:
        """The answers that are known."""
        found: dict[bytes, Answer] = {}
        sql = "SELECT preference, source, words, prompt_tokens, completion_tokens FROM verdicts WHERE key = ?"
        with self._explained():
            for key in keys:
                row = self._db.execute(sql, (key,)).fetchone()
                if row is not None:
                    found[key] = self._answer(row)
        return found

    def put(self, key: bytes, judge: str, wording: str, language: str, answer: Answer) -> Answer:
        """Keep an answer; returns the one that is kept, which is an earlier one if another process was faster."""
        row = (key, judge, wording, language, answer.preference, answer.source, answer.words)
        with self._explained():
            self._db.execute(
                "INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, answer.prompt_tokens, answer.completion_tokens),
            )
        return self.get([key])[key]

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, row: Row) -> Answer:
        # SQLite keeps a value of any type in any column, so a flipped byte can turn a number into a text.
        preference, source, words, *tokens = row
        known = preference is None or (isinstance(preference, float) and 0 <= preference <= 1)
        sound = known and source in _SOURCES and isinstance(words, str)
        if not sound or not all(isinstance(count, int) and 0 <= count <= _MOST_TOKENS for count in tokens):
            raise UserError(
                f"judge.cache: {self._path} holds a damaged verdict ({shown(row)}); remove the file, or name another"
            )
        return Answer(*row)

    def _explained(self) -> AbstractContextManager[None]:
        return explained(f"judge.cache: {self._path}", "free some space, remove it, or name another")
