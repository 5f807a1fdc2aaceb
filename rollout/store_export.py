"""The journal's rows as Parquet files, for analysis elsewhere."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from configs.atomic import replaced
from configs.errors import UserError
from rollout.store import Store
from rollout.store_schema import CANDIDATE_COLUMNS, GROUP_COLUMNS, PAIR_COLUMNS, SCORE_COLUMNS

_BATCH = 10_000
_PACKED = {"token_ids": "<u4", "logprobs": "<f4"}  # columns that the journal keeps as bytes


def export_parquet(store: Store, folder: Path, damage: list[UserError] | None = None) -> dict[str, Path]:
    """Write ``candidates``, ``scores``, ``pairs`` and ``groups`` (``.parquet``); files that are there are replaced.

    Args:
        store: The journal.
        folder: Where to; made if it is not there.
        damage: Gets an error for every damaged row, which is left out; without it the first one is raised.

    Returns:
        Table -> file. Token ids are lists of uint32, log-probabilities of float32; keys of a pair, parts of a score,
        prompts of several turns and the lists of a group are JSON texts.

    Raises:
        UserError: The folder cannot be written; what was there before is as it was.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _export(store, folder, damage)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); make room there or make it writable, or name "
            "another folder with --out"
        ) from None


def _export(store: Store, folder: Path, damage: list[UserError] | None) -> dict[str, Path]:
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
        "logprobs": pa.list_(pa.float32()),
    }
    tables = {
        "candidates": CANDIDATE_COLUMNS,
        "scores": SCORE_COLUMNS,
        "pairs": (*PAIR_COLUMNS, "consumed_version"),
        "groups": (*GROUP_COLUMNS, "consumed_version"),
    }
    written: dict[str, Path] = {}
    for name, columns in tables.items():
        schema = pa.schema([(column, types.get(column, pa.string())) for column in columns])
        path = folder / f"{name}.parquet"
        with replaced(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            rows = store.table(name, columns, damage)
            while batch := list(itertools.islice(rows, _BATCH)):
                arrays = []
                for column, values in zip(columns, zip(*batch, strict=True), strict=True):
                    if column in _PACKED:
                        values = tuple(b if b is None else np.frombuffer(b, _PACKED[column]) for b in values)
                    arrays.append(pa.array(values, type=schema.field(column).type))
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        written[name] = path
    return written
