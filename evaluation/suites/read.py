"""Reading a suite's prompts: which languages there are, and every bad row with its file and line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.errors import UserError
from configs.language_codes import LANGUAGE_PATTERN, is_code, refusal
from configs.presets import world_path
from configs.reading import files_in, is_folder, read_json, shown
from evaluation.numbers import parse_number
from evaluation.suites.mgsm_prompts import EXAMPLE_ANSWERS, WORDS, maths_prompt
from evaluation.suites.records import SUITES, Suite, SuiteItem
from rollout.hub import is_hub_name, snapshot
from rollout.jsonl import id_of, read_rows, text_of
from rollout.world_folder import check_world

WORLD = "worlds/default/prompts/heldout"
_ENDINGS = (".jsonl", ".json")


@dataclass(frozen=True, slots=True)
class _Fields:
    """Names of a suite's fields; ``id`` None numbers the rows from 1, ``answer`` None reads no gold answers."""

    id: str | None
    text: tuple[str, ...]  # the first that a row has
    answer: str | None
    gold_needed: bool = False


_FIELDS = {
    "world": _Fields("id", ("prompt",), "answer", True),
    "mgsm": _Fields(None, ("query",), "response", True),
    "x-alpacaeval": _Fields("id", ("instruction",), None),
    "head-to-head": _Fields("id", ("prompt", "instruction"), "answer"),
    "custom": _Fields("id", ("prompt", "instruction"), "answer"),
}


def load_suite(
    name: str, data: str | None, languages: Sequence[str] = (), limit: int | None = None, shots: int = 0
) -> Suite:
    """Read a suite.

    Args:
        name: One of ``SUITES``.
        data: A folder with one file a language (``es.jsonl`` or ``es.json``), a path with ``{lang}``, or one file whose
            rows have a ``language``. None is the embedded world's held-out prompts, for the suite ``world`` only.
        languages: To ask; none are all that there are.
        limit: Only the first so many prompts of each language.
        shots: Worked examples before each question; MGSM only.

    Raises:
        UserError: An unknown suite or option, no data, a language that is not there, or a bad row.
    """
    if name not in SUITES:
        raise UserError(f"--suite {name}: unknown; there are {', '.join(SUITES)}")
    if shots and name != "mgsm":
        raise UserError(f"--shots {shots}: only --suite mgsm has worked examples; leave it out")
    if not 0 <= shots <= len(EXAMPLE_ANSWERS):
        raise UserError(f"--shots {shots}: there are 0 to {len(EXAMPLE_ANSWERS)} worked examples")
    if data is None and name != "world":
        raise UserError(f"--suite {name}: needs --data with its prompts (a folder, a path with {{lang}}, or a file)")
    if len(set(languages)) != len(languages):
        raise UserError("--languages: a language is named twice; name each once")
    place = data or world_path(WORLD)
    if is_hub_name(place):
        place = str(snapshot(place, "dataset", "--data"))
    check_world(place)
    rows = _rows(name, place, languages)
    asked = tuple(languages) or tuple(rows)
    strange = [code for code in asked if not is_code(code)]
    if strange:
        raise UserError(f"--languages: {refusal(strange[0])}")
    absent = [code for code in asked if code not in rows]
    if absent:
        raise UserError(f"--languages {absent[0]}: {name} at {place} has no such language; there are {', '.join(rows)}")
    if name == "mgsm":
        unknown = [code for code in asked if code.split("-", 1)[0] not in WORDS]
        if unknown:
            raise UserError(
                f"--languages {unknown[0]}: mgsm has no instruction in it; there are {', '.join(WORDS)} (add it to "
                "evaluation/suites/mgsm_prompts.py)"
            )
    items = [_asked(name, item, shots) for code in asked for item in rows[code][:limit]]
    _all_or_no_gold(items)
    return Suite(name, place, asked, tuple(items), shots)


def _rows(name: str, place: str, languages: Sequence[str]) -> dict[str, list[SuiteItem]]:
    path = Path(place)
    if "{lang}" in place:
        return _by_pattern(name, path, languages)
    if is_folder(path):
        found = [p for p in files_in(path) if p.suffix in _ENDINGS and is_code(p.stem)]
        files = {p.stem: p for p in reversed(found)}  # of es.json and es.jsonl the first
        if not files:
            raise UserError(f"{path}: has no file of a language, such as es.jsonl or es.json; check --data")
        wanted = [code for code in files if not languages or code in languages]
        # What is not asked for is listed (for messages) but not read.
        return {code: _read(name, files[code], code) if code in wanted else [] for code in sorted(files)}
    out: dict[str, list[SuiteItem]] = {}
    only = languages[0] if len(languages) == 1 else None
    for item in _read(name, path, only, mixed=True):
        out.setdefault(item.language, []).append(item)
    return out


def _by_pattern(name: str, pattern: Path, languages: Sequence[str]) -> dict[str, list[SuiteItem]]:
    root = Path(*pattern.parts[: next(i for i, p in enumerate(pattern.parts) if "{lang}" in p)])
    matcher = re.compile(re.escape(str(pattern)).replace(re.escape("{lang}"), f"(?P<code>{LANGUAGE_PATTERN})", 1))
    glob = str(pattern.relative_to(root)).replace("{lang}", "*")
    codes = {m["code"]: p for p in files_in(root, glob) if (m := matcher.fullmatch(str(p)))}
    if not codes:
        raise UserError(f"{shown(pattern)}: no such file in any language; check --data")
    return {code: _read(name, p, code) if not languages or code in languages else [] for code, p in codes.items()}


def _read(name: str, path: Path, language: str | None, mixed: bool = False) -> list[SuiteItem]:
    """The rows of a file in ``language``; in a ``mixed`` one it is only that of the rows that name none."""
    fields = _FIELDS[name]
    lines: dict[tuple[str, str], str] = {}
    items: list[SuiteItem] = []
    for number, (where, row) in enumerate(_objects(path, name), start=1):
        code = text_of(row, "language", where) if "language" in row or language is None else language
        if not is_code(code):
            raise UserError(f"{where}: language {refusal(code)}")
        if language is not None and code != language and not mixed:
            raise UserError(f"{where}: language is '{code}' where '{language}' was expected; correct one of them")
        key = str(number) if fields.id is None else id_of(row, fields.id, where)
        if (code, key) in lines:
            raise UserError(f"{where}: id '{key}' was already used at {lines[code, key]}; give each row its own id")
        lines[code, key] = where
        field = next((field for field in fields.text if field in row), fields.text[0])
        text = text_of(row, field, where)
        gold = _gold(name, row, fields, where)
        items.append(SuiteItem(key, code, text, text, gold, where))
    return items


def _objects(path: Path, name: str) -> Sequence[tuple[str, dict[str, object]]]:
    if path.suffix != ".json":
        return [(f"{path}:{line}", row) for line, row in read_rows(path, f"prompts of {name}")]
    rows = read_json(path, f"prompts of {name}", "check --data; a .json file holds one list")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}:1: expected a list of objects; a file of JSON lines ends in .jsonl")
    return [(f"{path}: entry {number}", row) for number, row in enumerate(rows, start=1)]


def _gold(name: str, row: dict[str, object], fields: _Fields, where: str) -> str | None:
    if fields.answer is None or (fields.answer not in row and not fields.gold_needed):
        return None
    value = row.get(fields.answer)
    gold = str(value) if isinstance(value, int) and not isinstance(value, bool) else text_of(row, fields.answer, where)
    if name == "mgsm" and parse_number(gold, "en") is None:
        raise UserError(f"{where}: {fields.answer} is '{shown(gold)}' instead of a number")
    return gold


def _asked(name: str, item: SuiteItem, shots: int) -> SuiteItem:
    return replace(item, prompt=maths_prompt(item.instruction, item.language, shots)) if name == "mgsm" else item


def _all_or_no_gold(items: Sequence[SuiteItem]) -> None:
    without = [item for item in items if item.gold is None]
    if without and len(without) < len(items):
        raise UserError(
            f"{without[0].where}: has no gold answer, nor have {len(without) - 1} others, while "
            f"{len(items) - len(without)} prompts have one; add it everywhere or remove it everywhere"
        )
