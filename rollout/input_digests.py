"""What a run's inputs hold, as a checksum each: a run does not continue over others under the same names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import xxhash

from configs.errors import UserError
from configs.named_paths import named_paths
from configs.reading import is_file, is_folder
from configs.schema import Config
from rollout.formats.files import table_files
from rollout.formats.places import places_of
from rollout.model_folder import file_digests, settings_files, weight_files

_PAIRS = "offline.path"  # the journal has a digest of the pairs themselves (``actors.train.offline``)


def input_files(config: Config) -> dict[str, tuple[Path, list[Path]]]:
    """What is read: folder and files in their order, by ``field``, or ``field.language`` where a path has ``{lang}``.

    Models count with their weights, tokenizer and settings. What is not there, no regular file, or no table or model is
    left out: who reads it says so.
    """
    found = {}
    for field, place in _places(config):
        try:
            files = _files(field, place)
        except UserError:
            continue
        if files and all(is_file(file) for file in files):
            found[field] = (place if is_folder(place) else place.parent, files)
    return found


def input_digests(files: Mapping[str, tuple[Path, list[Path]]]) -> dict[str, str]:
    """XXH3 of what the files of ``input_files`` hold; without those that cannot be read."""
    found = {}
    for field, (folder, paths) in files.items():
        try:
            digests = file_digests(folder, paths)
        except OSError:
            continue
        # The name of a single file is a field of the config, or says no more than its language.
        content = list(digests.items()) if len(paths) > 1 else list(digests.values())
        found[field] = xxhash.xxh3_64_hexdigest(json.dumps(content).encode())
    return found


def changed_inputs(begun: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Fields whose inputs hold something else than when they were first read; what only one side knows is no change."""
    return sorted(field for field in begun.keys() & now.keys() if begun[field] != now[field])


def _places(config: Config) -> Iterator[tuple[str, Path]]:
    for one in named_paths(config):
        if one.field != _PAIRS:
            for code, place in places_of(one):
                yield (one.field if code is None else f"{one.field}.{code}"), place


def _files(field: str, place: Path) -> list[Path]:
    if field.startswith("model.") or field.endswith(".model"):
        return [*settings_files(place), *weight_files(place)]
    return table_files(place, field) if is_folder(place) else [place]
