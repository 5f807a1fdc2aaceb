"""SQLite files that may be damaged, foreign, or hold what no earlier command of ours wrote."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from configs.errors import UserError
from configs.reading import shown


@contextmanager
def explained(name: str, cure: str) -> Iterator[None]:
    """Whatever SQLite says of a file as a ``UserError``: ``<name> cannot be used (<reason>); <cure>``.

    To be put around single calls of SQLite: an error of anything else within would be told as the file's.
    """
    try:
        yield
    except (sqlite3.Error, OSError, OverflowError, ValueError) as error:
        # ValueError: of a path that can be none, and of SQLite's own words where they are no UTF-8.
        reason = "damaged" if isinstance(error, UnicodeDecodeError) else shown(error)
        raise UserError(f"{name} cannot be used ({reason}); {cure}") from error
