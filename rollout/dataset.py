"""The pairs of a round as a data set: parquet in the form that TRL reads, with where each answer comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from configs.atomic import replaced
from configs.json_types import JsonMapping, JsonObject
from rollout.records import Candidate, CandidateKey, Pair, chat_of

PAIRS = "train.parquet"


def dataset_rows(
    pairs: Sequence[Pair], candidates: Mapping[CandidateKey, Candidate], seed: int, version: str, policy: str
) -> list[JsonObject]:
    """One row a pair: ``prompt``, ``chosen`` and ``rejected`` as chats (TRL's preference form with explicit prompt),
    ``chosen_score`` and ``rejected_score``, ``language``, and of each side source, origin, model and weight version.

    Args:
        pairs: Of the round.
        candidates: Of the round.
        seed: Of the run.
        version: Of isogloss.
        policy: What the policy's own answers name as their model.
    """
    rows: list[JsonObject] = []
    for pair in pairs:
        row: JsonObject = {
            "id": f"{pair.language}/{pair.id}",
            "prompt_id": pair.prompt_id,
            "language": pair.language,
            "prompt": chat_of(pair.prompt),
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
            "chosen_score": pair.chosen_score,
            "rejected_score": pair.rejected_score,
            "kind": pair.source,
        }
        for side, key in (("chosen", pair.chosen_key), ("rejected", pair.rejected_key)):
            one = None if key is None else candidates.get(key)
            own = one is not None and one.weight_version is not None
            row |= {
                f"{side}_source": None if key is None else key.source,
                f"{side}_origin": None if key is None else key.origin,
                f"{side}_model": policy if own else None if one is None else one.model,
                f"{side}_weight_version": None if one is None else one.weight_version,
            }
        rows.append(row | {"seed": seed, "isogloss_version": version})
    return rows


def write_dataset(rows: Sequence[JsonMapping], folder: Path) -> Path:
    """Write the rows as parquet, in their order; a file that is there is replaced in one step."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    types: JsonObject = {
        **dict.fromkeys(("prompt", "chosen", "rejected"), turns),
        **dict.fromkeys(("chosen_score", "rejected_score"), pa.float64()),
        **dict.fromkeys(("chosen_weight_version", "rejected_weight_version", "seed"), pa.int64()),
    }
    schema = pa.schema([(name, types.get(name, pa.string())) for name in rows[0]])
    folder.mkdir(parents=True, exist_ok=True)
    with replaced(folder / PAIRS) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary)
    return folder / PAIRS
