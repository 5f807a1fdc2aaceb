"""The journal's rows as Parquet files, for analysis elsewhere."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from rollout.store import Store
from rollout.store_schema import CANDIDATE_COLUMNS, GROUP_COLUMNS, PAIR_COLUMNS, SCORE_COLUMNS

_BATCH = 10_000


def export_parquet(store: Store, folder: Path) -> dict[str, Path]:
    """Write ``candidates``, ``scores``, ``pairs`` and ``groups`` (``.parquet``); files that are there are replaced.

    Returns:
        Table -> file. Token ids are lists of uint32; keys of a pair, parts of a score, prompts of several turns and the
        lists of a group are JSON texts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "round": pa.int64(),
        "sample": pa.int64(),
        "weight_version": pa.int64(),
        "consumed_version": pa.int64(),
        "reward": pa.float64(),
        "chosen_score": pa.float64(),
        "rejected_score": pa.float64(),
        "reference_chosen": pa.float64(),
        "reference_rejected": pa.float64(),
        "token_ids": pa.list_(pa.uint32()),
    }
    tables = {
        "candidates": CANDIDATE_COLUMNS,
        "scores": SCORE_COLUMNS,
        "pairs": (*PAIR_COLUMNS, "consumed_version"),
        "groups": (*GROUP_COLUMNS, "consumed_version"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    for name, columns in tables.items():
        schema = pa.schema([(column, types.get(column, pa.string())) for column in columns])
        path = folder / f"{name}.parquet"
        temporary = folder / f".{name}.parquet.tmp"
        with pq.ParquetWriter(temporary, schema) as writer:
            rows = store.table(name, columns)
            while batch := list(itertools.islice(rows, _BATCH)):
                arrays = []
                for column, values in zip(columns, zip(*batch, strict=True), strict=True):
                    if column == "token_ids":
                        values = tuple(np.frombuffer(blob, dtype="<u4") for blob in values)
                    arrays.append(pa.array(values, type=schema.field(column).type))
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        temporary.replace(path)
        written[name] = path
    return written
