"""Reading JSON lines so that no bad line is ever skipped: each is a ``UserError`` with file:line and a cure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from configs.errors import UserError
from configs.reading import kind, parse_json, read_bytes, shown

LONGEST_ID = 1000  # characters
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
    return lines_of(read_bytes(path, what, "create it or correct the path in the config"), path, what)


def lines_of(data: bytes, path: Path, what: str) -> list[bytes]:
    """The lines of what a file holds, as :func:`read_lines`.

    Raises:
        UserError: It is empty, or begins with a byte-order mark.
    """
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
    row = parse_json(text, where, "write one complete JSON object a line")
    if not isinstance(row, dict):
        raise UserError(f'{where}: {kind(row)} instead of an object; write {{"field": ...}} on each line')
    return row


def text_of(row: dict[str, object], field: str, where: str, *, setting: str | None = None) -> str:
    """The non-empty string in ``field``; ``setting`` is the config key that names the field, for the cure."""
    cure = f"; add it, or set {setting}" if setting else "; add it"
    if field not in row:
        raise UserError(f"{where}: field '{field}' is missing (the row has {shown(sorted(row))}){cure}")
    value = row[field]
    if value is None:
        raise UserError(f"{where}: field '{field}' is null; fill it in or remove the row from every language")
    if not isinstance(value, str):
        raise UserError(f"{where}: field '{field}' is {kind(value)} instead of a text; {_text_cure(value)}")
    if not value.strip():
        raise UserError(f"{where}: field '{field}' is empty; fill it in or remove the row from every language")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: field '{field}' has half of a surrogate pair (\\ud800 to \\udfff); write the character itself"
        ) from None
    return value


def _text_cure(value: object) -> str:
    if isinstance(value, list | dict):
        return "write the text itself"
    return "put it in quotes"


def id_of(row: dict[str, object], field: str, where: str, *, setting: str | None = None) -> str:
    """The id in ``field`` as a string: a non-empty string of at most ``LONGEST_ID`` characters, or an integer."""
    value = row.get(field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if field in row and not isinstance(value, str | None):
        raise UserError(f"{where}: field '{field}' is {kind(value)}; use a text or an integer as id")
    text = text_of(row, field, where, setting=setting).strip()
    if len(text) > LONGEST_ID:
        raise UserError(
            f"{where}: field '{field}' has {len(text)} characters, an id at most {LONGEST_ID}; choose another"
        )
    return text
