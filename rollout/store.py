"""The journal of a run: everything that a restart needs, in one SQLite file with one writer.

Each write is one transaction with ``synchronous=FULL``: after a crash it is there or it is not. Each is idempotent by
natural key: the same rows again are a no-op, other rows under the same key are a ``StoreConflict``.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from configs.errors import UserError
from rollout.records import Candidate, Example, Pair, SampleGroup, Score
from rollout.store_open import check_version, claim, connect, explained, prepare, unusable
from rollout.store_schema import (
    CANDIDATE_COLUMNS,
    GROUP_COLUMNS,
    KEY_COLUMNS,
    PAIR_COLUMNS,
    SCORE_COLUMNS,
    candidate_of,
    candidate_row,
    dump,
    group_of,
    group_row,
    key_row,
    pair_of,
    pair_row,
    score_of,
    score_row,
)

_WHERE_KEY = " AND ".join(f"{column} = ?" for column in KEY_COLUMNS)


class StoreConflict(Exception):
    """A key was written twice with different content: a bug or a second writer, never a user's mistake."""


class Store:
    """The journal. Calls may come from several threads of one process; they are serialised."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock_file: int | None) -> None:
        """Use :meth:`open` or :meth:`read`."""
        self.path = path
        self._db = connection
        self._lock_file = lock_file
        self._mutex = threading.RLock()

    @classmethod
    def open(
        cls, path: Path, config_digest: str, config: Mapping[str, object] | None = None, run_name: str = ""
    ) -> Self:
        """Open the journal for writing, or create it.

        Args:
            path: ``runs/<name>/store.sqlite``; its folder is created.
            config_digest: Of the run's config (``rollout.identity.config_digest``).
            config: The comparable config, kept so that a later mismatch can be explained.
            run_name: Kept in ``meta`` for the report.

        Raises:
            UserError: The run folder belongs to another config or is open elsewhere; the file is damaged, no
                journal, or from a newer version.
        """
        lock_file = claim(path)
        connection: sqlite3.Connection | None = None
        try:
            with explained(path):
                connection = connect(path, "rwc")
                prepare(connection, path, config_digest, config, run_name)
        except BaseException:
            if connection is not None:
                connection.close()
            os.close(lock_file)
            raise
        return cls(path, connection, lock_file)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open an existing journal for reading only, beside its writer if there is one."""
        if not path.exists():
            raise UserError(f"{path}: no such file; name the folder of a run that was started")
        with explained(path):
            connection = connect(path, "ro")
            try:
                check_version(connection, path)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection, None)

    def close(self) -> None:
        """Close the file and let the next writer in."""
        self._db.close()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def put_chunk(self, chunk_id: str, round: int, stage: str, candidates: Sequence[Candidate]) -> bool:
        """Write all candidates of a chunk and mark it done.

        Returns:
            False if it was already there, with the same sampled content (gates may have been set since).

        Raises:
            StoreConflict: The chunk or one of its keys is there with other content.
        """
        if any(candidate.key.round != round for candidate in candidates):
            raise ValueError(f"chunk {chunk_id}: a candidate is not of round {round}")
        rows = [candidate_row(candidate, chunk_id) for candidate in candidates]
        with self._transaction():
            if self._is_done(round, stage, chunk_id):
                old = self._rows("candidates", CANDIDATE_COLUMNS, "round = ? AND chunk_id = ?", (round, chunk_id))
                sampled = [(*row[:11], row[13]) for row in old]
                self._same(f"chunk {chunk_id}", sampled, [(*row[:11], row[13]) for row in rows])
                return False
            self._insert(f"chunk {chunk_id}", "candidates", CANDIDATE_COLUMNS, rows)
            self._mark_done(round, stage, chunk_id, len(rows))
        return True

    def done_chunks(self, round: int, stage: str) -> set[str]:
        """Ids of the finished chunks of a stage; :meth:`put_scores` writes stage "score"."""
        found = self._query("SELECT chunk_id FROM chunks WHERE round = ? AND stage = ?", (round, stage))
        return {row[0] for row in found}

    def candidates(self, round: int, chunk_id: str | None = None, language: str | None = None) -> list[Candidate]:
        """Candidates of a round (of one chunk, of one language), sorted by key."""
        where = "round = ?"
        arguments: list[Any] = [round]
        for column, value in {"chunk_id": chunk_id, "language": language}.items():
            if value is not None:
                where += f" AND {column} = ?"
                arguments.append(value)
        return [candidate_of(row) for row in self._rows("candidates", CANDIDATE_COLUMNS, where, arguments)]

    def put_scores(self, round: int, chunk_id: str, scores: Sequence[Score], judged: Sequence[Candidate] = ()) -> bool:
        """Write the scores of a chunk, and the gates and detected languages of its judged candidates.

        Returns:
            False if the chunk's scores were already there and equal.

        Raises:
            StoreConflict: They were there and differ, or a judged candidate is not in the journal.
        """
        rows = [score_row(score, chunk_id) for score in scores]
        gates = [(c.gate, c.detected_language, *key_row(c.key)) for c in judged]
        with self._transaction():
            if self._is_done(round, "score", chunk_id):
                old = self._rows("scores", SCORE_COLUMNS, "round = ? AND chunk_id = ?", (round, chunk_id))
                self._same(f"scores of {chunk_id}", old, rows)
                for gate, detected, *key in gates:
                    found = self._query(f"SELECT gate, detected_language FROM candidates WHERE {_WHERE_KEY}", key)
                    self._same(f"gates of {chunk_id}", found, [(gate, detected)])
                return False
            self._insert(f"scores of {chunk_id}", "scores", SCORE_COLUMNS, rows)
            changed = self._db.executemany(
                f"UPDATE candidates SET gate = ?, detected_language = ? WHERE {_WHERE_KEY}", gates
            ).rowcount
            if gates and changed != len(gates):
                raise StoreConflict(f"scores of {chunk_id}: {len(gates) - changed} candidates are not in the journal")
            self._mark_done(round, "score", chunk_id, len(rows))
        return True

    def scores(self, round: int) -> list[Score]:
        """Scores of a round, sorted by key."""
        return [score_of(row) for row in self._rows("scores", SCORE_COLUMNS, "round = ?", (round,))]

    def put_pairs(self, round: int, pairs: Sequence[Pair]) -> bool:
        """Write all pairs of a round at once (an empty list is an answer too).

        Returns:
            False if the round's pairs were already there and equal (reference log-probabilities aside).

        Raises:
            StoreConflict: They were there and differ.
        """
        return self._put_examples(round, "pairs", PAIR_COLUMNS, [pair_row(pair) for pair in pairs], pairs, 2)

    def put_groups(self, round: int, groups: Sequence[SampleGroup]) -> bool:
        """Write all sample groups of a round at once; otherwise as :meth:`put_pairs`."""
        return self._put_examples(round, "groups", GROUP_COLUMNS, [group_row(group) for group in groups], groups, 1)

    def pairs(self, round: int) -> list[Pair]:
        """Pairs of a round, sorted by id."""
        return [pair_of(row) for row in self._rows("pairs", PAIR_COLUMNS, "round = ?", (round,))]

    def groups(self, round: int) -> list[SampleGroup]:
        """Sample groups of a round, sorted by id."""
        return [group_of(row) for row in self._rows("groups", GROUP_COLUMNS, "round = ?", (round,))]

    def examples(self, round: int) -> list[Example]:
        """What a round trains on: its pairs or its sample groups, sorted by id."""
        return [*self.pairs(round), *self.groups(round)]

    def put_reference_logprobs(self, round: int, logprobs: Mapping[str, tuple[float, ...]]) -> bool:
        """Set the reference log-probabilities (nats) of a round's pairs (chosen, rejected) or groups by id.

        Returns:
            False if all were already set to these values.

        Raises:
            StoreConflict: One is set to another value, or its pair or group is not in the round.
        """
        known = {one.id: one for one in self.examples(round)}
        changed = 0
        with self._transaction():
            for name, values in logprobs.items():
                if any(value != value for value in values):
                    raise ValueError(f"{name}: a reference log-probability is NaN")
                if name not in known:
                    raise StoreConflict(f"{name}: not among the pairs of round {round}")
                one = known[name]
                pair = isinstance(one, Pair)
                old = one.reference if isinstance(one, SampleGroup) else (one.reference_chosen, one.reference_rejected)
                if old == tuple(values):
                    continue
                if old not in (None, (None, None)):
                    raise StoreConflict(f"{name}: reference log-probabilities {old}, now {values}")
                columns = "reference_chosen = ?, reference_rejected = ?" if pair else "reference = ?"
                written = values if pair else (dump(values),)
                self._db.execute(f"UPDATE {'pairs' if pair else 'groups'} SET {columns} WHERE id = ?", (*written, name))
                changed += 1
        return changed > 0

    def mark_consumed(self, round: int, version: int) -> int:
        """Record that a round's pairs or groups were trained on, by the step that made weight version ``version``.

        Returns:
            How many were marked now; 0 if all were already, with this version.

        Raises:
            StoreConflict: One was consumed by another version: it would be trained on twice.
        """
        marked = 0
        with self._transaction():
            for table in ("pairs", "groups"):
                other = self._query(
                    f"SELECT id, consumed_version FROM {table} WHERE round = ? AND consumed_version != ? LIMIT 1",
                    (round, version),
                )
                if other:
                    raise StoreConflict(f"{other[0][0]}: consumed by version {other[0][1]}, now by {version}")
                marked += self._db.execute(
                    f"UPDATE {table} SET consumed_version = ? WHERE round = ? AND consumed_version IS NULL",
                    (version, round),
                ).rowcount
        return marked

    def train_again_after(self, round: int) -> None:
        """Take back that rounds after ``round`` were trained; candidates, scores, pairs and references stay."""
        with self._transaction():
            for table in ("pairs", "groups"):
                self._db.execute(f"UPDATE {table} SET consumed_version = NULL WHERE round > ?", (round,))
            self._db.execute(
                "UPDATE rounds SET state = 'referenced' WHERE round > ? AND state IN ('trained', 'done')", (round,)
            )

    def round_state(self, round: int) -> tuple[str, dict[str, Any]] | None:
        """(state, data) of a round; None if it was never begun."""
        return self.round_states().get(round)

    def round_states(self) -> dict[int, tuple[str, dict[str, Any]]]:
        """(state, data) of every round begun."""
        found = self._query("SELECT round, state, data FROM rounds ORDER BY round", ())
        return {row[0]: (row[1], json.loads(row[2])) for row in found}

    def set_round_state(self, round: int, state: str, data: Mapping[str, object] | None = None) -> None:
        """Set a round's state; ``data`` (small, JSON) is merged into what is there."""
        with self._transaction():
            old = self._query("SELECT data FROM rounds WHERE round = ?", (round,))
            merged = {**(json.loads(old[0][0]) if old else {}), **(data or {})}
            self._db.execute("INSERT OR REPLACE INTO rounds VALUES (?, ?, ?)", (round, state, dump(merged)))

    def put_evaluation(self, round: int, data: Mapping[str, object]) -> bool:
        """Write the evaluation of the weights after ``round`` (0 is the start); repeated equal data is a no-op."""
        text = dump(data)
        with self._transaction():
            old = self._query("SELECT data FROM evaluations WHERE round = ?", (round,))
            if old:
                self._same(f"evaluation after round {round}", old, [(text,)])
                return False
            self._db.execute("INSERT INTO evaluations VALUES (?, ?)", (round, text))
        return True

    def evaluations(self) -> dict[int, dict[str, Any]]:
        """All evaluations by round."""
        found = self._query("SELECT round, data FROM evaluations ORDER BY round", ())
        return {row[0]: json.loads(row[1]) for row in found}

    def meta(self) -> dict[str, str]:
        """Schema version, config digest, config and run name, as texts."""
        return dict(self._query("SELECT key, value FROM meta", ()))

    def counts(self) -> dict[str, int]:
        """Rows by table, and "consumed" pairs and groups."""
        tables = ("candidates", "scores", "pairs", "groups", "chunks", "rounds", "evaluations")
        out = {table: int(self._query(f"SELECT COUNT(*) FROM {table}", ())[0][0]) for table in tables}
        consumed = "SELECT COUNT(consumed_version) FROM"
        out["consumed"] = sum(int(self._query(f"{consumed} {table}", ())[0][0]) for table in ("pairs", "groups"))
        return out

    def table(self, name: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """All rows of a table in key order, streamed (for exports)."""
        with explained(self.path):
            yield from self._db.execute(f"SELECT {', '.join(columns)} FROM {name} ORDER BY 1, 2, 3, 4, 5, 6")

    def _put_examples(
        self,
        round: int,
        table: str,
        columns: Sequence[str],
        rows: Sequence[tuple[Any, ...]],
        examples: Sequence[Example],
        references: int,
    ) -> bool:
        """``references``: how many columns at the end are written later and do not count in a comparison."""
        if any(one.round != round for one in examples):
            raise ValueError(f"one of the {table} is not of round {round}")
        with self._transaction():
            if self._is_done(round, "pair", "all"):
                old = self._rows(table, columns, "round = ?", (round,))
                self._same(f"{table} of round {round}", [r[:-references] for r in old], [r[:-references] for r in rows])
                return False
            self._insert(f"{table} of round {round}", table, columns, rows)
            self._mark_done(round, "pair", "all", len(rows))
        return True

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._mutex:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
                    raise UserError(
                        f"{self.path}: the disk is full; free some space and start the run again"
                    ) from error
                if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.IntegrityError):
                    raise unusable(self.path, error) from error
                raise

    def _query(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._mutex, explained(self.path):
            return self._db.execute(sql, values).fetchall()

    def _rows(self, table: str, columns: Sequence[str], where: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        order = "id" if table in ("pairs", "groups") else ", ".join(KEY_COLUMNS)
        return self._query(f"SELECT {', '.join(columns)} FROM {table} WHERE {where} ORDER BY {order}", values)

    def _insert(self, what: str, table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
        marks = ", ".join("?" for _ in columns)
        try:
            self._db.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)
        except sqlite3.IntegrityError as error:
            raise StoreConflict(f"{what}: a row with this key was written under another chunk ({error})") from None

    def _is_done(self, round: int, stage: str, chunk_id: str) -> bool:
        sql = "SELECT 1 FROM chunks WHERE round = ? AND stage = ? AND chunk_id = ?"
        return bool(self._query(sql, (round, stage, chunk_id)))

    def _mark_done(self, round: int, stage: str, chunk_id: str, rows: int) -> None:
        self._db.execute("INSERT INTO chunks VALUES (?, ?, ?, ?)", (round, stage, chunk_id, rows))

    @staticmethod
    def _same(what: str, old: Iterable[tuple[Any, ...]], new: Iterable[tuple[Any, ...]]) -> None:
        before, after = set(old), set(new)
        if before != after:
            raise StoreConflict(f"{what}: already written with other content, e.g. {min(before ^ after, key=str)}")
