"""The journal's file: transactions, and rows that are checked when they are read, changed and counted."""

from __future__ import annotations

import sqlite3
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from configs.errors import UserError
from configs.json_types import JsonMapping, Row
from rollout.store_checksum import damaged, damaged_row, insert_sql, update_sql, why_damaged
from rollout.store_open import explained, unchecked_rows, unusable
from rollout.store_schema import KEYS, TABLES

T = TypeVar("T")
# What the decoders of ``store_schema`` raise for a row that no version of ours wrote.
_UNREADABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error, RecursionError)


class StoreConflict(Exception):
    """A key was written twice with different content: a bug or a second writer, never a user's mistake."""


class JournalFile:
    """One open journal. Calls may come from several threads of one process; they are serialised.

    Args:
        path: The file.
        connection: Opened and checked by ``rollout.store_open``.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        self._mutex = threading.RLock()
        # A journal that an earlier version wrote: it has no checksums yet (read only), or not for every row.
        self._checked, self._unchecked = unchecked_rows(connection)

    def table(self, name: str, columns: Sequence[str], damage: list[UserError] | None = None) -> Iterator[Row]:
        """All rows of a table in key order, streamed (for exports).

        Args:
            name: The table.
            columns: What to give of each row.
            damage: Gets an error for every damaged row, which is left out; without it the first one is raised.

        Raises:
            DamagedRow: See ``damage``.
            UserError: SQLite cannot read the table.
        """
        places = [TABLES[name].index(column) for column in columns]
        with explained(self.path):
            for row in self._db.execute(self._select(name, "1")):
                if (reason := why_damaged(row[:-1], row[-1], self._unchecked)) is not None:
                    error = damaged_row(self.path, name, row, reason)
                    if damage is None:
                        raise error
                    damage.append(error)
                    continue
                yield tuple(row[place] for place in places)

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

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Several reads of one state of the file, whatever its writer does meanwhile."""
        with self._mutex:
            if self._db.in_transaction:
                yield
                return
            with explained(self.path):
                self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")  # nothing was written

    def _query(self, sql: str, values: Sequence[Any] | JsonMapping = ()) -> list[Row]:
        with self._mutex, explained(self.path):
            return self._db.execute(sql, values).fetchall()

    def _select(self, table: str, where: str) -> str:
        checksum = "checksum" if self._checked else "NULL"
        columns = [c if self._checked or c not in ("logprobs", "model") else "NULL" for c in TABLES[table]]
        return f"SELECT {', '.join(columns)}, {checksum} FROM {table} WHERE {where} ORDER BY {', '.join(KEYS[table])}"

    def _rows(self, table: str, where: str = "1", values: Sequence[Any] | JsonMapping = ()) -> list[Row]:
        """Whole rows of ``TABLES[table]`` in key order, each compared with its checksum.

        Raises:
            DamagedRow: One does not match.
        """
        found = []
        for row in self._query(self._select(table, where), values):
            if (reason := why_damaged(row[:-1], row[-1], self._unchecked)) is not None:
                raise damaged_row(self.path, table, row, reason)
            found.append(row[:-1])
        return found

    def _records(
        self,
        table: str,
        record: Callable[[Row], T],
        where: str = "1",
        values: Sequence[Any] | JsonMapping = (),
    ) -> list[T]:
        """As :meth:`_rows`, decoded; a row that cannot be is told like a damaged one."""
        return [self._decoded(table, record, row) for row in self._rows(table, where, values)]

    def _decoded(self, table: str, record: Callable[[Row], T], row: Row) -> T:
        try:
            return record(row)
        except _UNREADABLE as error:
            reason = f"it cannot be read ({type(error).__name__}: {error})"
            raise damaged_row(self.path, table, row, reason) from error

    def _complete(self, table: str, round_number: int, stages: str, found: int, chunk_id: str | None = None) -> None:
        """Refuse a table that lost rows without a trace: each finished chunk says how many it has.

        Args:
            table: For the message.
            round_number: The round that was read.
            stages: SQL condition on the column ``stage`` of ``chunks``.
            found: How many rows were read.
            chunk_id: The chunk that was read; None for the whole round.
        """
        where, values = f"round = ? AND {stages}", [round_number, *([chunk_id] if chunk_id is not None else [])]
        chunks = self._rows("chunks", where + (" AND chunk_id = ?" if chunk_id is not None else ""), values)
        expected = sum(row[3] for row in chunks)
        if found != expected:
            reason = f"{found} rows can be found of the {expected} that were written"
            raise damaged(self.path, table, f"round {round_number}", reason, round_number)

    def _insert(self, what: str, table: str, rows: Iterable[Row]) -> None:
        try:
            self._db.executemany(insert_sql(table), rows)
        except sqlite3.IntegrityError as error:
            raise StoreConflict(f"{what}: a row with this key was written under another chunk ({error})") from None

    def _update(self, table: str, assigned: Mapping[str, object], where: str, named: Mapping[str, object]) -> int:
        """Change rows that are still as they were written, and their checksums with them.

        Args:
            table: The table.
            assigned: Column -> value.
            where: Condition with ``:names`` that are no assigned columns.
            named: The condition's values.

        Returns:
            How many rows were changed.
        """
        for row in self._db.execute(self._select(table, where), named).fetchall():
            if (reason := why_damaged(row[:-1], row[-1], self._unchecked)) is not None:
                raise damaged_row(self.path, table, row, reason)
        return self._db.execute(update_sql(table, assigned, where), {**assigned, **named}).rowcount

    def _is_done(self, round_number: int, stage: str, chunk_id: str) -> bool:
        return bool(self._rows("chunks", "round = ? AND stage = ? AND chunk_id = ?", (round_number, stage, chunk_id)))

    def _mark_done(self, round_number: int, stage: str, chunk_id: str, rows: int) -> None:
        self._db.execute(insert_sql("chunks"), (round_number, stage, chunk_id, rows))
