"""Names for values whose types are known only once they are looked at: what JSON and YAML hold, rows of SQLite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = Any  # of a document: a text, a number, true or false, null, a list or an object
JsonObject = dict[str, Json]
JsonMapping = Mapping[str, Json]  # one that is only read
Row = tuple[Any, ...]  # of a table
