"""What a run's inputs hold, as a checksum each: a run does not continue over others under the same names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import xxhash

from configs.errors import UserError
from configs.named_paths import named_paths
from configs.reading import is_folder
from configs.schema import Config
from rollout.formats.files import table_files
from rollout.formats.places import LANG, place_of
from rollout.model_folder import STATE_FILE, file_digests, weight_files

_PAIRS = "offline.path"  # the journal has a digest of the pairs themselves (``actors.train.offline``)
_SETTINGS = ("*.json", "*.jinja", "*.model")  # of a model folder: config, tokenizer, template


def input_digests(config: Config) -> dict[str, str]:
    """XXH3 of what is read, by ``field``, or ``field.language`` where a path has ``{lang}``.

    Models count with their weights, tokenizer and settings; about 0.4 s a GiB. What is not there or cannot be read is
    left out: who reads it says so.
    """
    found = {}
    for field, place in _places(config):
        try:
            digests = file_digests(place if is_folder(place) else place.parent, _files(field, place))
        except (OSError, UserError):
            continue
        found[field] = xxhash.xxh3_64_hexdigest(json.dumps(digests, sort_keys=True).encode())
    return found


def _places(config: Config) -> Iterator[tuple[str, Path]]:
    for one in named_paths(config):
        if one.field == _PAIRS:
            continue
        if LANG not in one.text:
            yield one.field, Path(one.text)
            continue
        for code in one.codes:
            yield f"{one.field}.{code}", place_of(one.text, code, one.field)


def _files(field: str, place: Path) -> list[Path]:
    if field.startswith("model.") or field.endswith(".model"):
        settings = {path for pattern in _SETTINGS for path in place.glob(pattern) if path.name != STATE_FILE}
        return sorted(settings | set(weight_files(place)))
    return table_files(place, field) if is_folder(place) else [place]
