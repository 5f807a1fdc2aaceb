"""Reading JSON lines so that no bad line is ever skipped: each is a ``UserError`` with file:line and a cure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from configs.errors import UserError

_BOM = b"\xef\xbb\xbf"


def read_rows(path: Path, what: str) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (line number from 1, object) of every line of a JSON-lines file.

    Args:
        path: The file.
        what: What the file holds, for the messages, e.g. "train prompts of language 'es'".

    Raises:
        UserError: As :func:`read_lines` and :func:`parse_row`.
    """
    for number, raw in enumerate(read_lines(path, what), start=1):
        yield number, parse_row(raw, f"{path}:{number}")


def read_lines(path: Path, what: str) -> list[bytes]:
    """The lines of a file, without their newlines.

    Raises:
        UserError: File missing, unreadable, empty, or with a byte-order mark.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file ({what}); create it or correct the path in the config") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder ({what}); name a JSON-lines file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({what}): {error.strerror}; correct its permissions") from None
    if not data.strip():
        raise UserError(f"{path}: the file is empty ({what}); put one JSON object on each line")
    if data.startswith(_BOM):
        raise UserError(f"{path}:1: begins with a byte-order mark; save the file as UTF-8 without BOM")
    lines = data.split(b"\n")
    if lines[-1] == b"":  # the newline that ends the last line
        lines.pop()
    return lines


def parse_row(raw: bytes, where: str) -> dict[str, object]:
    """The object of a line; ``where`` is its file:line.

    Raises:
        UserError: The line is blank, not UTF-8, not JSON or not an object.
    """
    if not raw.strip():
        raise UserError(f"{where}: blank line; remove it")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: byte {error.start + 1} is not UTF-8 (0x{raw[error.start]:02x}); save the file as UTF-8"
        ) from None
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not valid JSON at column {error.colno} ({error.msg}); write one complete JSON object a line"
        ) from None
    except (RecursionError, ValueError):
        raise UserError(f"{where}: JSON that cannot be read; write one flat JSON object a line") from None
    if not isinstance(row, dict):
        raise UserError(f'{where}: {type(row).__name__} instead of an object; write {{"field": ...}} on each line')
    return row


def text_of(row: dict[str, object], field: str, where: str, *, setting: str | None = None) -> str:
    """The non-empty string in ``field``; ``setting`` is the config key that names the field, for the cure."""
    cure = f"; add it, or set {setting}" if setting else "; add it"
    if field not in row:
        raise UserError(f"{where}: field '{field}' is missing (the row has {sorted(row)}){cure}")
    value = row[field]
    if value is None:
        raise UserError(f"{where}: field '{field}' is null; fill it in or remove the row from every language")
    if not isinstance(value, str):
        raise UserError(f"{where}: field '{field}' is {type(value).__name__} instead of a string; quote it")
    if not value.strip():
        raise UserError(f"{where}: field '{field}' is empty; fill it in or remove the row from every language")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: field '{field}' has half of a surrogate pair (\\ud800 to \\udfff); write the character itself"
        ) from None
    return value


def id_of(row: dict[str, object], field: str, where: str, *, setting: str | None = None) -> str:
    """The id in ``field`` as a string: a non-empty string or an integer."""
    value = row.get(field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if field in row and not isinstance(value, str | None):
        raise UserError(f"{where}: field '{field}' is {type(value).__name__}; use a string or an integer as id")
    return text_of(row, field, where, setting=setting).strip()
