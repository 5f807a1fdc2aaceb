"""Where a config's paths lead: ``{lang}`` is any spelling of a language's tag, in a file's name or in a folder's."""

from __future__ import annotations

import re
from pathlib import Path

from configs.errors import UserError
from configs.language_codes import same_language, standard_code
from configs.named_paths import NamedPath
from configs.reading import files_in, is_file, is_folder, shown
from rollout.formats.files import SUFFIXES, table_files

LANG = "{lang}"


def placed_files(text: str, field: str) -> list[tuple[Path, str | None]]:
    """The files that a path leads to, by name, and the language that ``{lang}`` stands for in each.

    Raises:
        UserError: There is none, or it is no table.
    """
    if LANG not in text:
        return [(file, None) for file in table_files(Path(text), field)]
    found: list[tuple[Path, str | None]] = [
        (file, code) for code, place in by_language(text, field).items() for file in table_files(place, field)
    ]
    if not found:
        raise UserError(f"{field}: {shown(text)} names no {', '.join(SUFFIXES)} file; correct the path")
    return found


def by_language(text: str, field: str) -> dict[str, Path]:
    """The file or folder of every language that a path with ``{lang}`` leads to, by code.

    Raises:
        UserError: ``{lang}`` is in more than one part, or two spellings of one language are there.
    """
    parts = Path(text).parts
    with_lang = [number for number, part in enumerate(parts) if LANG in part]
    if len(with_lang) != 1 or parts[with_lang[0]].count(LANG) > 1:
        raise UserError(f"{field}: {shown(text)} must have {LANG} once, in the name of the file or of a folder")
    at = with_lang[0]
    name = re.compile(re.escape(parts[at]).replace(re.escape(LANG), "([A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*)"))
    found: dict[str, Path] = {}
    for entry in files_in(Path(*parts[:at]) if at else Path()):
        match = name.fullmatch(entry.name)
        code = standard_code(match[1]) if match else None
        place = Path(entry, *parts[at + 1 :])
        if code is None or not (is_file(place) or is_folder(place)):
            continue
        if code in found:
            raise UserError(f"{field}: {shown(found[code])} and {shown(place)} are both '{code}'; remove one")
        found[code] = place
    return found


def places_of(one: NamedPath) -> list[tuple[str | None, Path]]:
    """Where a config's path leads: for each of its languages where it has ``{lang}``, or else once, without a code."""
    if LANG not in one.text:
        return [(None, Path(one.text))]
    return [(code, place_of(one.text, code, one.field)) for code in one.codes]


def place_of(text: str, code: str, field: str) -> Path:
    """Where a path with ``{lang}`` leads for a language: its code as it is written, or else another spelling of it.

    A path that leads nowhere is given with the code, to be named in a message.
    """
    exact = Path(text.replace(LANG, code))
    if is_file(exact) or is_folder(exact):
        return exact
    try:
        found = by_language(text, field)
    except UserError:
        return exact
    meant = same_language(code, found)
    return exact if meant is None else found[meant]
