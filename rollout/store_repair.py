"""Dropping what is damaged in a journal, so that the run makes it again; what is whole stays."""

from __future__ import annotations

import sqlite3
from collections import Counter

from configs.json_types import Row
from rollout.store_checksum import insert_sql, why_damaged
from rollout.store_file import JournalFile
from rollout.store_schema import KEYS, TABLES

_OF_STAGE = {"score": "scores", "pair": "pairs"}  # what a chunk's rows are; of other stages they are candidates


class RepairableFile(JournalFile):
    """A journal from which damage can be dropped."""

    def drop_damaged(self, after: int) -> dict[str, int]:
        """Delete the damaged rows of rounds after ``after``, and what cannot stand without them.

        A chunk that lost a row is sampled again as a whole; the scores of its round are computed again, and pairs that
        are whole stay. Sampling depends on config, round and seed alone, so what is made again is what was lost. An
        evaluation is of the weights after its round, so that of ``after`` is looked at too.

        Returns:
            Rows deleted by table; tables without any are left out.
        """
        dropped: Counter[str] = Counter()
        with self._transaction():
            for table in ("candidates", "scores", "pairs", "groups", "chunks", "rounds", "evaluations"):
                first = after if table == "evaluations" else after + 1
                dropped[table] += sum(self._delete(table, row) for row in self._bad_rows(table, first))
            again = self._incomplete(after, dropped)
            for round_number, state, data in self._rows("rounds", "round > ?", (after,)):
                # Its chunks and pairs say what is still there: nothing is done twice.
                if round_number in again and state != "planned":
                    self._db.execute(insert_sql("rounds", replace=True), (round_number, "planned", data))
        return {table: count for table, count in dropped.items() if count}

    def _bad_rows(self, table: str, first: int) -> list[Row]:
        place = TABLES[table].index("round")
        return [
            row
            for row in self._query(self._select(table, "1"))
            if why_damaged(row[:-1], row[-1], self._unchecked) is not None
            # A round that is no number may have been any.
            and (not isinstance(row[place], int) or row[place] >= first)
        ]

    def _delete(self, table: str, row: Row) -> int:
        key = [row[TABLES[table].index(column)] for column in KEYS[table]]
        marks = ["CAST(? AS TEXT)" if isinstance(value, str) else "?" for value in key]
        where = " AND ".join(f"{column} IS {mark}" for column, mark in zip(KEYS[table], marks, strict=True))
        values = [value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value for value in key]
        deleted = self._db.execute(f"DELETE FROM {table} WHERE {where}", values).rowcount
        if deleted != 1:  # its key is not where it belongs, so that it cannot be found by it
            raise sqlite3.DatabaseError(f"table {table}: a damaged row cannot be deleted")
        return deleted

    def _incomplete(self, after: int, dropped: Counter[str]) -> set[int]:
        """Drop chunks that have other rows than they say, and rows of no chunk; returns the rounds of them."""
        again: set[int] = set()
        marks = Counter({(row[0], row[1], row[2]): row[3] for row in self._rows("chunks", "round > ?", (after,))})
        answers = self._counted("candidates", after)
        for round_number, chunk in answers.keys() | {(r, c) for r, stage, c in marks if stage not in _OF_STAGE}:
            stages = [(r, s, c) for r, s, c in marks if (r, c) == (round_number, chunk) and s not in _OF_STAGE]
            if answers[round_number, chunk] != sum(marks[mark] for mark in stages):
                dropped["candidates"] += self._drop("candidates", "round = ? AND chunk_id = ?", (round_number, chunk))
                self._drop(
                    "chunks", "round = ? AND chunk_id = ? AND stage NOT IN ('score', 'pair')", (round_number, chunk)
                )
                again.add(round_number)
        scores = self._counted("scores", after)
        scored = {(r, c) for r, stage, c in marks if stage == "score"}
        wrong = {place for place in scores.keys() | scored if scores[place] != marks[place[0], "score", place[1]]}
        for round_number in sorted({place[0] for place in wrong} | again):
            dropped["scores"] += self._drop("scores", "round = ?", (round_number,))
            # As they were before they were judged: which are translated depends on it.
            fresh = {"gate": "ok", "detected_language": None}
            self._update("candidates", fresh, "round = :of AND translation IS NOT 'failed'", {"of": round_number})
            self._drop("chunks", "round = ? AND stage = 'score'", (round_number,))
            again.add(round_number)
        examples = Counter[int]()
        for table in ("pairs", "groups"):
            examples.update(dict(self._query(f"SELECT round, COUNT(*) FROM {table} GROUP BY round")))
        for round_number in sorted(
            {r for r in examples if r > after} | {r for r, stage, _ in marks if stage == "pair"}
        ):
            if examples[round_number] != marks[round_number, "pair", "all"]:
                for table in ("pairs", "groups"):
                    dropped[table] += self._drop(table, "round = ?", (round_number,))
                self._drop("chunks", "round = ? AND stage = 'pair'", (round_number,))
                again.add(round_number)
        return again

    def _counted(self, table: str, after: int) -> Counter[tuple[int, str]]:
        sql = f"SELECT round, chunk_id, COUNT(*) FROM {table} WHERE round > ? GROUP BY round, chunk_id"
        return Counter({(round_number, chunk): count for round_number, chunk, count in self._query(sql, (after,))})

    def _drop(self, table: str, where: str, values: Row) -> int:
        return self._db.execute(f"DELETE FROM {table} WHERE {where}", values).rowcount
