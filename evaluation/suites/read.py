"""Reading a suite's prompts: which languages there are, and every bad row with its file and line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.errors import UserError
from configs.language_codes import is_code, refusal, same_language
from configs.presets import world_path
from configs.reading import shown
from configs.schema import PromptsConfig
from evaluation.numbers import parse_number
from evaluation.suites.mgsm_prompts import EXAMPLE_ANSWERS, WORDS, maths_prompt
from evaluation.suites.published import PUBLISHED, Place, places
from evaluation.suites.records import SUITES, Suite, SuiteItem
from rollout.formats.files import RawRow, Row, columns_of, read_table
from rollout.formats.form import Form
from rollout.frames import framed
from rollout.hub import is_hub_name, snapshot
from rollout.jsonl import id_of, text_of
from rollout.languages import language_code
from rollout.prompt_files import form_of, plain_fields, prompt_of
from rollout.records import Prompt, text_of_turns
from rollout.world_folder import check_world

WORLD = "worlds/default/prompts/heldout"
FREE = ("head-to-head", "custom")  # whose rows may be of any form, with fields of any name
_FIELDS = {
    "mgsm": PromptsConfig(format="plain", text_field="query", answer_field="response"),
    "x-alpacaeval": PromptsConfig(format="plain", text_field="instruction", answer_field=None),
    "world": PromptsConfig(format="plain"),
}
_NUMBERED = ("mgsm",)  # whose rows have no ids: they are numbered from 1
_GOLD_NEEDED = ("world", "mgsm")


@dataclass
class _Reading:
    """What is read of a suite: fields of its rows, its languages, and what was read."""

    name: str
    fields: PromptsConfig
    languages: Sequence[str]
    rows: dict[str, list[tuple[Prompt, str]]]  # code -> (prompt, file:line)
    places: dict[tuple[str, str], str]  # (code, id) -> file:line


def load_suite(
    name: str,
    data: str | None,
    *,
    languages: Sequence[str] = (),
    limit: int | None = None,
    shots: int = 0,
    prompts: PromptsConfig | None = None,
) -> Suite:
    """Read a suite.

    Args:
        name: One of ``SUITES``.
        data: A folder with one file or folder a language (``es.jsonl``, ``es/``), a path with ``{lang}``, one file or
            folder whose rows say their language, or any of these on the Hub (``hf:...``). None is the embedded world's
            held-out prompts for the suite ``world``, and the Hub's for those that are there.
        languages: To ask; none are all that there are.
        limit: Only the first N prompts of each language.
        shots: Worked examples before each question; MGSM only.
        prompts: The config section ``prompts``: frame and system turn of every suite, and the form and names of fields
            of the suites in ``FREE``.

    Raises:
        UserError: An unknown suite or option, no data, a language that is not there, or a bad row.
    """
    _check(name, languages, shots)
    given = prompts or PromptsConfig()
    if shots and given.frame is not None:
        raise UserError(f"--shots {shots}: prompts.frame is put in place of the suite's words; leave one of them out")
    place = _place(name, data)
    fields = given if name in FREE else _FIELDS.get(name, PromptsConfig())
    reading = _Reading(name, fields, languages, {}, {})
    for one in places(name, place):
        _read(reading, one)
    rows = reading.rows
    asked = tuple(languages) or tuple(rows)
    if not asked:
        raise UserError(f"{shown(place)}: has no prompts; check --data")
    absent = [code for code in asked if code not in rows]
    if absent:
        raise UserError(f"--languages {absent[0]}: {name} at {place} has no such language; there are {', '.join(rows)}")
    own_words = name == "mgsm" and given.frame is None
    if own_words and (unknown := [code for code in asked if code.split("-", 1)[0] not in WORDS]):
        raise UserError(
            f"--languages {unknown[0]}: mgsm has no instruction in it; there are {', '.join(WORDS)} (add it to "
            "evaluation/suites/mgsm_prompts.py, or set prompts.frame)"
        )
    words = shots if own_words else None
    items = [_asked(prompt, where, given, words) for code in asked for prompt, where in rows[code][:limit]]
    _all_or_no_gold(items)
    return Suite(name, place, asked, tuple(items), shots)


def _check(name: str, languages: Sequence[str], shots: int) -> None:
    if name not in SUITES:
        raise UserError(f"--suite {name}: unknown; there are {', '.join(SUITES)}")
    if shots and name != "mgsm":
        raise UserError(f"--shots {shots}: only --suite mgsm has worked examples; leave it out")
    if not 0 <= shots <= len(EXAMPLE_ANSWERS):
        raise UserError(f"--shots {shots}: there are 0 to {len(EXAMPLE_ANSWERS)} worked examples")
    if len(set(languages)) != len(languages):
        raise UserError("--languages: a language is named twice; name each once")
    if strange := [code for code in languages if not is_code(code)]:
        raise UserError(f"--languages: {refusal(strange[0])}")


def _place(name: str, data: str | None) -> str:
    published = PUBLISHED.get(name)
    place = (
        data or (published.home if published is not None else None) or (world_path(WORLD) if name == "world" else None)
    )
    if place is None:
        found = "" if published is None else f"; it is {published.where}"
        raise UserError(
            f"--suite {name}: needs --data with its prompts (a folder, a path with {{lang}}, or a file){found}"
        )
    if is_hub_name(place):
        place = str(snapshot(place, "dataset", "--data" if data else f"--suite {name}"))
    check_world(place)
    return place


def _read(reading: _Reading, place: Place) -> None:
    """The rows of some files; what is not asked for is listed, for messages, but not kept."""
    name, asked = reading.name, reading.languages
    if place.code is not None:
        reading.rows.setdefault(place.code, [])
        if asked and place.code not in asked:
            return
    before = set(reading.rows) if place.rest else set()
    for path in place.files:
        rows = read_table(path, f"prompts of {name}")
        form = _form(reading, rows, path)
        fields = reading.fields if form is None else plain_fields(reading.fields)
        for raw in rows:
            row = raw.read() if form is None else form.read(raw.read(), raw.where, raw.number)
            code = _language(row, fields, place.code, asked, raw.where)
            if code in before:
                continue  # an earlier place has the language
            reading.rows.setdefault(code, [])
            if not asked or code in asked:
                _take(reading, row, raw, fields, code=code, prefix=place.prefix)


def _form(reading: _Reading, rows: Sequence[RawRow], path: Path) -> Form | None:
    published = PUBLISHED.get(reading.name)
    if published is None:
        return form_of(rows, reading.fields, path)
    columns = columns_of(rows)
    if missing := published.form.missing(columns):
        raise UserError(
            f"{path}: has no column {', '.join(missing)}, which rows of {published.where} have (it has "
            f"{shown(', '.join(sorted(columns)))}); name its files, or take --suite custom"
        )
    return published.form


def _language(row: Row, fields: PromptsConfig, own: str | None, asked: Sequence[str], where: str) -> str:
    """The language of a row: what it says, else that of its file, else the only one that is asked for."""
    only = own if own is not None else (asked[0] if len(asked) == 1 else None)
    name = fields.language_field
    if name not in row and only is not None:
        return only
    said = text_of(row, name, where)
    code = language_code(said)
    if code is None:
        raise UserError(f"{where}: language {refusal(said)}")
    code = same_language(code, asked) or code
    if own is not None and same_language(code, [own]) is None:
        raise UserError(f"{where}: language is '{code}' where '{own}' was expected; correct one of them")
    return code if own is None else own


def _take(reading: _Reading, row: Row, raw: RawRow, fields: PromptsConfig, *, code: str, prefix: str) -> None:
    name, where = reading.name, raw.where
    key = str(raw.number) if name in _NUMBERED else prefix + id_of(row, fields.id_field, where)
    if (code, key) in reading.places:
        raise UserError(
            f"{where}: id '{key}' was already used at {reading.places[code, key]}; give each row its own id"
        )
    reading.places[code, key] = where
    prompt = prompt_of(row, key, code, fields, where)
    if prompt.answer is None and name in _GOLD_NEEDED:
        text_of(row, fields.answer_field or "", where)  # says that it is missing
    if name == "mgsm" and prompt.answer is not None and parse_number(prompt.answer, "en") is None:
        raise UserError(f"{where}: {fields.answer_field} is '{shown(prompt.answer)}' instead of a number")
    reading.rows[code].append((prompt, where))


def _asked(prompt: Prompt, where: str, given: PromptsConfig, words: int | None) -> SuiteItem:
    """The item with what goes around its prompt: MGSM's words and examples, frame, system turn."""
    worded = prompt if words is None else replace(prompt, text=maths_prompt(prompt.text, prompt.language, words))
    turns = framed(worded, given, {}).turns
    return SuiteItem(prompt.id, prompt.language, text_of_turns(prompt.turns), turns, prompt.answer, where)


def _all_or_no_gold(items: Sequence[SuiteItem]) -> None:
    without = [item for item in items if item.gold is None]
    if without and len(without) < len(items):
        raise UserError(
            f"{without[0].where}: has no gold answer, nor have {len(without) - 1} others, while "
            f"{len(items) - len(without)} prompts have one; add it everywhere or remove it everywhere"
        )
