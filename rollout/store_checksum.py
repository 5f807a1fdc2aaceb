"""A checksum for each row of the journal, and what is said of a row whose checksum does not match.

SQLite proves neither texts nor numbers: a byte that flips on the disk is read as another answer or another score. So
each row carries the XXH3 of its values, written in the statement that writes the row and compared whenever it is read.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Mapping
from pathlib import Path

import xxhash

from configs.errors import UserError, shortened
from configs.json_types import Row
from rollout.store_schema import KEYS, TABLES

FUNCTION = "row_checksum"  # the SQL function's name
_DOUBLE = struct.Struct("<d")


def row_checksum(*values: object) -> int:
    """XXH3 (64 bits, as SQLite's signed integer) over the values, each with its type and length in front.

    A float's sign of zero does not count and NaN is NULL: SQLite keeps neither.
    """
    parts: list[bytes] = []
    for value in values:
        if isinstance(value, str):
            data = value.encode("utf-8", "surrogateescape")
            parts.append(b"s%d:" % len(data))
            parts.append(data)
        elif isinstance(value, int):
            parts.append(b"i%d;" % value)
        elif value is None or value != value:
            parts.append(b"n")
        elif isinstance(value, float):
            parts.append(b"f" + _DOUBLE.pack(value + 0.0))
        elif isinstance(value, bytes):
            parts.append(b"b%d:" % len(value))
            parts.append(value)
        else:
            raise TypeError(f"no value of a journal's row: {type(value).__name__}")
    digest: int = xxhash.xxh3_64_intdigest(b"".join(parts))
    return digest - (1 << 64) if digest >> 63 else digest


def install(db: sqlite3.Connection) -> None:
    """Give a connection the SQL function, and let it read damaged text, which its checksum then tells."""
    db.create_function(FUNCTION, -1, row_checksum, deterministic=True)
    db.text_factory = lambda data: data.decode("utf-8", "surrogateescape")


def insert_sql(table: str, replace: bool = False) -> str:
    """An INSERT of whole rows with their checksums; takes ``TABLES[table]``'s values."""
    columns = TABLES[table]
    marks = ", ".join(f"?{number}" for number in range(1, len(columns) + 1))
    verb = "INSERT OR REPLACE" if replace else "INSERT"
    return f"{verb} INTO {table} ({', '.join(columns)}, checksum) VALUES ({marks}, {FUNCTION}({marks}))"


def update_sql(table: str, assigned: Mapping[str, object], where: str) -> str:
    """An UPDATE that writes the checksum of the row as it becomes; all values are named, ``assigned``'s by column."""
    after = ", ".join(f":{column}" if column in assigned else column for column in TABLES[table])
    changes = ", ".join(f"{column} = :{column}" for column in assigned)
    return f"UPDATE {table} SET {changes}, checksum = {FUNCTION}({after}) WHERE {where}"


class DamagedRow(UserError):
    """A row of the journal is not as it was written, or cannot be read."""


def damaged(path: Path, table: str, what: str, reason: str, round_number: int | None) -> DamagedRow:
    """The error: file, table, row, reason and the cure.

    Args:
        path: The journal.
        table: Its table.
        what: Which row(s).
        reason: What is wrong.
        round_number: The round that the row belongs to; None if it belongs to none.
    """
    if round_number is None:
        cure = (
            "restore the file from a backup, or move the run folder away and start again (its checkpoints stay valid)"
        )
    else:
        back = max(round_number - (table != "evaluations"), 0)
        cure = (
            f"continue with --resume --from-round {back}: what is damaged in later rounds is dropped and made again, "
            "the rest of the journal is kept"
        )
    return DamagedRow(f"{path}: table {table}, {what}: {reason}; {cure}")


def damaged_row(path: Path, table: str, row: Row, reason: str) -> DamagedRow:
    """:func:`damaged` of one row of ``TABLES[table]``."""
    fields = dict(zip(TABLES[table], row, strict=False))
    key = ", ".join(f"{column} {fields[column]}" for column in KEYS[table])
    # The name may be what is damaged: shown, but with nothing that a terminal would act upon.
    shown = shortened(key.encode("utf-8", "replace").decode()) if key.isprintable() else repr(shortened(repr(key)))
    round_number = fields.get("round")
    if "round" in fields and not (isinstance(round_number, int) and 0 <= round_number < 1_000_000):
        round_number = 0
    return damaged(path, table, f"row ({shown})", reason, round_number)


def why_damaged(row: Row, checksum: object, unchecked: bool) -> str | None:
    """Whether a row is as it was written: None, or what is wrong.

    Args:
        row: All values of the row.
        checksum: What it carries.
        unchecked: Whether the journal has rows from before there were checksums.
    """
    if checksum is None and unchecked:
        try:
            for value in row:
                if isinstance(value, str):
                    value.encode()
        except UnicodeEncodeError:
            return "it holds bytes that are no text"
        return None
    return None if checksum == row_checksum(*row) else "its checksum does not match, so it is damaged"
