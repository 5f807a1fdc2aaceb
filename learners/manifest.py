"""What is known of published weights: a record without torch, for processes that need not load it."""

from __future__ import annotations

from dataclasses import dataclass

from configs.json_types import JsonObject


@dataclass(frozen=True, slots=True)
class WeightsManifest:
    """What was published. ``names``, ``dtypes`` and ``shapes`` go together, names sorted."""

    version: int  # round that produced the weights
    checksum: str
    names: tuple[str, ...]
    dtypes: tuple[str, ...]  # as torch spells them, "float32"
    shapes: tuple[tuple[int, ...], ...]
    probe_ids: tuple[int, ...]  # a sequence of token ids, to be fed as they are
    probe_logprob: tuple[float, ...]  # nats, of probe_ids[1:], each given those before it; temperature 1
    probe_dtype: str | None = None  # arithmetic of probe_logprob, as torch spells it


def manifest_from_json(data: JsonObject) -> WeightsManifest:
    """The inverse of ``asdict``, after a way through JSON; an older one's arithmetic is that of its weights."""
    return WeightsManifest(
        version=data["version"],
        checksum=data["checksum"],
        names=tuple(data["names"]),
        dtypes=tuple(data["dtypes"]),
        shapes=tuple(tuple(shape) for shape in data["shapes"]),
        probe_ids=tuple(data["probe_ids"]),
        probe_logprob=tuple(data["probe_logprob"]),
        probe_dtype=data.get("probe_dtype", next(iter(data["dtypes"]), None)),
    )
