"""The journal of a run: everything that a restart needs, in one SQLite file with one writer.

Each write is one transaction with ``synchronous=FULL``: after a crash it is there or it is not. Each is idempotent by
natural key: the same rows again are a no-op, other rows under the same key are a ``StoreConflict``.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock

from configs.errors import UserError
from configs.json_types import JsonObject, Row
from rollout.records import Candidate, CandidateKey, Example, Pair, SampleGroup, Score
from rollout.sources import sampled_ids, start_logprobs
from rollout.state import named_today
from rollout.store_checksum import damaged, insert_sql
from rollout.store_file import StoreConflict
from rollout.store_open import claim, connect, explained, prepare, prepare_reading
from rollout.store_repair import RepairableFile
from rollout.store_schema import (
    KEY_COLUMNS,
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
from rollout.token_ids import TokenIds

__all__ = ["Store", "StoreConflict"]

_WHERE_KEY = " AND ".join(f"{column} = :key_{column}" for column in KEY_COLUMNS)
# The mark of a round that is trained on tokens as sampled: a stage, and the name of a chunk without rows.
_BY_IDS = ("begin", "sampled_ids")
# Conditions on a finished chunk's stage: what its rows are.
_ANSWERS, _SCORES, _EXAMPLES = "stage NOT IN ('score', 'pair')", "stage = 'score'", "stage = 'pair'"


class Store(RepairableFile):
    """The journal. Calls may come from several threads of one process; they are serialised.

    Whatever reads rows raises ``DamagedRow``, a ``UserError``, for one that is not as it was written.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: FileLock | None) -> None:
        """Use :meth:`open` or :meth:`read`."""
        super().__init__(path, connection)
        self._lock = lock

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
        lock = claim(path)
        connection: sqlite3.Connection | None = None
        try:
            with explained(path):
                connection = connect(path, "rwc")
                prepare(connection, path, config_digest, config, run_name)
        except BaseException:
            if connection is not None:
                connection.close()
            lock.release()
            raise
        return cls(path, connection, lock)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open an existing journal for reading only, beside its writer if there is one."""
        if not path.exists():
            raise UserError(f"{path}: no such file; name the folder of a run that was started")
        with explained(path):
            connection = connect(path, "ro")
            try:
                prepare_reading(connection, path)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection, None)

    def close(self) -> None:
        """Close the file and let the next writer in."""
        self._db.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin_round(self, round_number: int) -> bool:
        """Whether a round's answers are scored and trained on by their tokens as sampled, not by their texts.

        Decided before its first chunk: a round that an earlier version began stays with the texts.
        """
        with self._transaction():
            if self._is_done(round_number, *_BY_IDS):
                return True
            if self._rows("chunks", "round = ?", (round_number,)):
                return False
            self._mark_done(round_number, *_BY_IDS, 0)
        return True

    def put_chunk(self, chunk_id: str, round_number: int, stage: str, candidates: Sequence[Candidate]) -> bool:
        """Write all candidates of a chunk and mark it done.

        Returns:
            False if it was already there, with the same sampled content (gates may have been set since).

        Raises:
            StoreConflict: The chunk or one of its keys is there with other content.
        """
        if any(candidate.key.round != round_number for candidate in candidates):
            raise ValueError(f"chunk {chunk_id}: a candidate is not of round {round_number}")
        rows = [candidate_row(candidate, chunk_id) for candidate in candidates]
        with self._transaction():
            if self._is_done(round_number, stage, chunk_id):
                old = self._rows("candidates", "round = ? AND chunk_id = ?", (round_number, chunk_id))
                self._same(f"chunk {chunk_id}", *([(*row[:11], *row[13:]) for row in some] for some in (old, rows)))
                return False
            self._insert(f"chunk {chunk_id}", "candidates", rows)
            self._mark_done(round_number, stage, chunk_id, len(rows))
        return True

    def done_chunks(self, round_number: int, stage: str) -> set[str]:
        """Ids of the finished chunks of a stage; :meth:`put_scores` writes stage "score"."""
        return {row[2] for row in self._rows("chunks", "round = ? AND stage = ?", (round_number, stage))}

    def candidates(
        self, round_number: int, chunk_id: str | None = None, language: str | None = None
    ) -> list[Candidate]:
        """Candidates of a round (of one chunk, of one language), sorted by key."""
        where, values = (
            ("round = ?", [round_number])
            if chunk_id is None
            else ("round = ? AND chunk_id = ?", [round_number, chunk_id])
        )
        with self._snapshot():
            found = self._records("candidates", candidate_of, where, values)
            self._complete("candidates", round_number, _ANSWERS, len(found), chunk_id)
        return [one for one in found if language is None or one.key.language == language]

    def put_scores(
        self, round_number: int, chunk_id: str, scores: Sequence[Score], judged: Sequence[Candidate] = ()
    ) -> bool:
        """Write the scores of a chunk, and the gates and detected languages of its judged candidates.

        Returns:
            False if the chunk's scores were already there and equal.

        Raises:
            StoreConflict: They were there and differ, or a judged candidate is not in the journal.
        """
        rows = [score_row(score, chunk_id) for score in scores]
        gates = [({"gate": c.gate, "detected_language": c.detected_language}, _named(c.key)) for c in judged]
        with self._transaction():
            if self._is_done(round_number, "score", chunk_id):
                old = self._rows("scores", "round = ? AND chunk_id = ?", (round_number, chunk_id))
                self._same(f"scores of {chunk_id}", old, rows)
                for gate, key in gates:
                    found = self._db.execute(f"SELECT gate, detected_language FROM candidates WHERE {_WHERE_KEY}", key)
                    self._same(f"gates of {chunk_id}", found, [tuple(gate.values())])
                return False
            self._insert(f"scores of {chunk_id}", "scores", rows)
            changed = sum(self._update("candidates", gate, _WHERE_KEY, key) for gate, key in gates)
            if changed != len(gates):
                raise StoreConflict(f"scores of {chunk_id}: {len(gates) - changed} candidates are not in the journal")
            self._mark_done(round_number, "score", chunk_id, len(rows))
        return True

    def scores(self, round_number: int) -> list[Score]:
        """Scores of a round, sorted by key."""
        with self._snapshot():
            found = self._records("scores", score_of, "round = ?", (round_number,))
            self._complete("scores", round_number, _SCORES, len(found))
        return found

    def put_pairs(self, round_number: int, pairs: Sequence[Pair]) -> bool:
        """Write all pairs of a round at once (an empty list is an answer too).

        Returns:
            False if the round's pairs were already there and equal (reference log-probabilities aside).

        Raises:
            StoreConflict: They were there and differ.
        """
        return self._put_examples(round_number, "pairs", [pair_row(pair) for pair in pairs], pairs, 2)

    def put_groups(self, round_number: int, groups: Sequence[SampleGroup]) -> bool:
        """Write all sample groups of a round at once; otherwise as :meth:`put_pairs`."""
        return self._put_examples(round_number, "groups", [group_row(group) for group in groups], groups, 1)

    def pairs(self, round_number: int) -> list[Pair]:
        """Pairs of a round, sorted by id."""
        return [one for one in self._examples(round_number) if isinstance(one, Pair)]

    def groups(self, round_number: int) -> list[SampleGroup]:
        """Sample groups of a round, sorted by id."""
        return [one for one in self._examples(round_number) if isinstance(one, SampleGroup)]

    def examples(self, round_number: int) -> list[Example]:
        """What a round trains on: its pairs or its sample groups, sorted by id, with their answers' tokens."""
        with self._snapshot():
            found = self._examples(round_number)
            return [self._with_ids(one) for one in found] if self._is_done(round_number, *_BY_IDS) else found

    def _with_ids(self, one: Example) -> Example:
        if isinstance(one, SampleGroup):
            kept = [self._sampled(key, one) for key in one.keys]
            return replace(one, completion_ids=tuple(k[0] for k in kept), completion_logprobs=tuple(k[1] for k in kept))
        (chosen, its), (rejected, others) = (self._sampled(key, one) for key in (one.chosen_key, one.rejected_key))
        return replace(one, chosen_ids=chosen, rejected_ids=rejected, chosen_logprobs=its, rejected_logprobs=others)

    def _sampled(self, key: CandidateKey | None, one: Example) -> tuple[TokenIds | None, bytes | None]:
        if key is None:  # an anchor's, or of a file
            return None, None
        found = self._records("candidates", candidate_of, _WHERE_KEY, _named(key))
        if not found:
            raise damaged(self.path, "candidates", f"row ({key})", "it cannot be found", key.round)
        return sampled_ids(found[0]), start_logprobs(found[0], one)

    def _examples(self, round_number: int) -> list[Example]:
        with self._snapshot():
            pairs = self._records("pairs", pair_of, "round = ?", (round_number,))
            groups = self._records("groups", group_of, "round = ?", (round_number,))
            self._complete("groups" if groups else "pairs", round_number, _EXAMPLES, len(pairs) + len(groups))
        return [*pairs, *groups]

    def put_reference_logprobs(self, round_number: int, logprobs: Mapping[str, tuple[float, ...]]) -> bool:
        """Set the reference log-probabilities (nats) of a round's pairs (chosen, rejected) or groups by id.

        Returns:
            False if all were already set to these values.

        Raises:
            StoreConflict: One is set to another value, or its pair or group is not in the round.
        """
        known = {one.id: one for one in self._examples(round_number)}
        changed = 0
        with self._transaction():
            for name, values in logprobs.items():
                if any(value != value for value in values):
                    raise ValueError(f"{name}: a reference log-probability is NaN")
                if name not in known:
                    raise StoreConflict(f"{name}: not among the pairs of round {round_number}")
                one = known[name]
                pair = isinstance(one, Pair)
                old = one.reference if isinstance(one, SampleGroup) else (one.reference_chosen, one.reference_rejected)
                if old == tuple(values):
                    continue
                if old not in (None, (None, None)):
                    raise StoreConflict(f"{name}: reference log-probabilities {old}, now {values}")
                written: dict[str, object] = {"reference": dump([float(value) for value in values])}
                if pair:
                    written = dict(zip(("reference_chosen", "reference_rejected"), map(float, values), strict=True))
                self._update("pairs" if pair else "groups", written, "id = :name", {"name": name})
                changed += 1
        return changed > 0

    def mark_consumed(self, round_number: int, version: int) -> int:
        """Record that a round's pairs or groups were trained on, by the step that made weight version ``version``.

        Returns:
            How many were marked now; 0 if all were already, with this version.

        Raises:
            StoreConflict: One was consumed by another version: it would be trained on twice.
        """
        marked = 0
        with self._transaction():
            for table in ("pairs", "groups"):
                for row in self._rows(table, "round = ? AND consumed_version != ?", (round_number, version)):
                    raise StoreConflict(f"{row[0]}: consumed by version {row[-1]}, now by {version}")
                mine = "round = :mine AND consumed_version IS NULL"
                marked += self._update(table, {"consumed_version": version}, mine, {"mine": round_number})
        return marked

    def train_again_after(self, round_number: int) -> None:
        """Take back that rounds after ``round_number`` were trained; candidates, scores, pairs and references stay."""
        with self._transaction():
            for table in ("pairs", "groups"):
                self._update(table, {"consumed_version": None}, "round > :kept", {"kept": round_number})
            trained = "round > :kept AND state IN ('trained', 'done')"
            self._update("rounds", {"state": "referenced"}, trained, {"kept": round_number})

    def round_state(self, round_number: int) -> tuple[str, JsonObject] | None:
        """(state, data) of a round; None if it was never begun."""
        return self.round_states().get(round_number)

    def round_states(self) -> dict[int, tuple[str, JsonObject]]:
        """(state, data) of every round begun."""
        return dict(self._records("rounds", lambda row: (row[0], (named_today(row[1]), _object(row[2])))))

    def set_round_state(self, round_number: int, state: str, data: Mapping[str, object] | None = None) -> None:
        """Set a round's state; ``data`` (small, JSON) is merged into what is there."""
        with self._transaction():
            old = self._records("rounds", lambda row: _object(row[2]), "round = ?", (round_number,))
            merged = {**(old[0] if old else {}), **(data or {})}
            self._db.execute(insert_sql("rounds", replace=True), (round_number, state, dump(merged)))

    def put_evaluation(self, round_number: int, data: Mapping[str, object]) -> bool:
        """Write the evaluation of the weights after a round (0 is the start); repeated equal data is a no-op."""
        text = dump(data)
        with self._transaction():
            old = self._rows("evaluations", "round = ?", (round_number,))
            if old:
                self._same(f"evaluation after round {round_number}", old, [(round_number, text)])
                return False
            self._db.execute(insert_sql("evaluations"), (round_number, text))
        return True

    def evaluations(self) -> dict[int, JsonObject]:
        """All evaluations by round."""
        return dict(self._records("evaluations", lambda row: (row[0], _object(row[1]))))

    def meta(self) -> dict[str, str]:
        """Schema version, config digest, config and run name, as texts."""
        return dict(self._records("meta", lambda row: (row[0], row[1])))

    def counts(self) -> dict[str, int]:
        """Rows by table, and "consumed" pairs and groups."""
        tables = ("candidates", "scores", "pairs", "groups", "chunks", "rounds", "evaluations")
        out = {table: int(self._query(f"SELECT COUNT(*) FROM {table}", ())[0][0]) for table in tables}
        consumed = "SELECT COUNT(consumed_version) FROM"
        out["consumed"] = sum(int(self._query(f"{consumed} {table}", ())[0][0]) for table in ("pairs", "groups"))
        return out

    def _put_examples(
        self,
        round_number: int,
        table: str,
        rows: Sequence[Row],
        examples: Sequence[Example],
        references: int,
    ) -> bool:
        """``references``: how many columns at the end are written later and do not count in a comparison."""
        if any(one.round != round_number for one in examples):
            raise ValueError(f"one of the {table} is not of round {round_number}")
        with self._transaction():
            if self._is_done(round_number, "pair", "all"):
                old = [row[: -1 - references] for row in self._rows(table, "round = ?", (round_number,))]
                self._same(f"{table} of round {round_number}", old, [row[:-references] for row in rows])
                return False
            self._insert(f"{table} of round {round_number}", table, [(*row, None) for row in rows])
            self._mark_done(round_number, "pair", "all", len(rows))
        return True

    @staticmethod
    def _same(what: str, old: Iterable[Row], new: Iterable[Row]) -> None:
        before, after = set(old), set(new)
        if before != after:
            raise StoreConflict(f"{what}: already written with other content, e.g. {min(before ^ after, key=str)}")


def _named(key: CandidateKey) -> dict[str, object]:
    """The values of ``_WHERE_KEY``."""
    return {f"key_{column}": value for column, value in zip(KEY_COLUMNS, key_row(key), strict=True)}


def _object(text: str) -> JsonObject:
    """A JSON object of ours.

    Raises:
        ValueError: It is none.
    """
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value
