"""Rows in files of every kind, as others publish them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def delimited(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)), delimiter=delimiter)
    writer.writeheader()
    for row in rows:
        writer.writerow({n: json.dumps(v) if isinstance(v, list) else v for n, v in row.items()})
    return out.getvalue().encode()


def write(path: Path, rows: list[Any]) -> Path:
    """A file in the form that its name says; a folder as ``datasets`` saves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if "." not in name:
        from datasets import Dataset

        Dataset.from_list(rows).save_to_disk(str(path))
        return path
    data = {
        ".jsonl": lambda: jsonl(rows),
        ".json": lambda: json.dumps(rows).encode(),
        ".csv": lambda: delimited(rows),
        ".tsv": lambda: delimited(rows, "\t"),
    }[Path(name).suffix]()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path
