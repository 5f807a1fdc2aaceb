"""The prompts of a measurement: read from a folder, checked, and those of middle length copied for the runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from configs.errors import UserError
from configs.reading import is_file, is_folder, read_json
from rollout.jsonl import id_of, read_rows, text_of
from rollout.seeds import stable_seed

_IDS, _TEXTS = ("id", "instruction_id"), ("prompt", "instruction")


def take(place: Path, languages: Sequence[str], lengths: tuple[int, int], limit: int, out: Path) -> int:
    """Copy prompts to ``out/<language>.jsonl``.

    Args:
        place: Folder with ``<language>.jsonl`` (or ``.json``, one list) for each language, parallel by id.
        languages: All that are asked.
        lengths: Least and most characters, in every language.
        limit: At most this number, drawn by id, the same whatever the order of the file.
        out: Folder to write.

    Returns:
        How many were of a fitting length, before ``limit``.

    Raises:
        UserError: No folder, a language without a file, files that are not parallel, a bad row, or too few prompts.
    """
    if not is_folder(place):
        raise UserError(f"{place}: no such folder; name one with {', '.join(f'{code}.jsonl' for code in languages)}")
    found = {code: _read(place, code) for code in languages}
    first = found[languages[0]]
    for code in languages[1:]:
        if strange := sorted(set(first) ^ set(found[code])):
            raise UserError(
                f"{place}: {len(strange)} ids are in only one of '{languages[0]}' and '{code}' (the first is "
                f"'{strange[0]}'); prompts must be parallel"
            )
    low, high = lengths
    fitting = [key for key in first if all(low <= len(found[code][key]) <= high for code in languages)]
    if len(fitting) < 2:
        raise UserError(f"{place}: has {len(fitting)} prompts of {low} to {high} characters in every language")
    chosen = sorted(fitting, key=lambda key: stable_seed("real", key))[:limit]
    out.mkdir(parents=True, exist_ok=True)
    for code in languages:
        lines = [json.dumps({"id": key, "prompt": found[code][key]}, ensure_ascii=False) for key in chosen]
        (out / f"{code}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(fitting)


def _read(place: Path, code: str) -> dict[str, str]:
    paths = [path for ending in ("jsonl", "json") if is_file(path := place / f"{code}.{ending}")]
    if not paths:
        raise UserError(f"{place}: has no prompts in '{code}' ({code}.jsonl); add them, or name another folder")
    texts: dict[str, str] = {}
    for where, row in _rows(paths[0]):
        id_field = next((name for name in _IDS if name in row), _IDS[0])
        text_field = next((name for name in _TEXTS if name in row), _TEXTS[0])
        key = id_of(row, id_field, where)
        if key in texts:
            raise UserError(f"{where}: id '{key}' is there twice; give each row its own")
        texts[key] = text_of(row, text_field, where)
    return texts


def _rows(path: Path) -> list[tuple[str, dict[str, object]]]:
    if path.suffix == ".jsonl":
        return [(f"{path}:{line}", row) for line, row in read_rows(path, "prompts")]
    rows = read_json(path, "prompts", "a .json file holds one list of objects")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a list of objects; a file of JSON lines ends in .jsonl")
    return [(f"{path}: entry {number}", row) for number, row in enumerate(rows, start=1)]
