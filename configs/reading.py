"""Data files and JSON that somebody else wrote: every way in which they can be wrong is a ``UserError``."""

from __future__ import annotations

import json
from pathlib import Path

from configs.errors import SHOWN, UserError
from configs.files import as_text, check_regular_file, shown_path
from configs.json_types import Json

_KINDS = {
    "NoneType": "null",
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
    "str": "a text",
    "list": "a list",
    "dict": "an object",
}


def shown(value: object, most: int = SHOWN) -> str:
    """A value as a message shows it: on one line, cut, and with what cannot be printed spelt out."""
    # Ten times as much as is shown is looked at: a value may be of many megabytes.
    text = (value if isinstance(value, str) else str(value))[: 10 * most]
    text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return text if len(text) <= most else f"{text[:most]}…"


def gib_apart(free: float, needed: float) -> tuple[str, str]:
    """Two sizes in GiB as a message shows them: with as many digits as tell them apart, two at least."""
    for digits in range(2, 10):
        texts = f"{free:.{digits}f}", f"{needed:.{digits}f}"
        if texts[0] != texts[1]:
            break
    return texts


def kind(value: object) -> str:
    """What a value of JSON is, in words."""
    return _KINDS.get(type(value).__name__, f"of the type {type(value).__name__}")


def read_bytes(path: Path, what: str, cure: str = "correct the path") -> bytes:
    """The bytes of a plain file.

    Args:
        path: Of it.
        what: It holds, for the messages, e.g. "anchor pairs".
        cure: What to do about a path that leads to no file.

    Raises:
        UserError: As ``check_regular_file``; or it cannot be read.
    """
    check_regular_file(path, f"file ({what})", cure)
    try:
        return path.read_bytes()
    except OSError as error:
        advice = "correct its permissions" if isinstance(error, PermissionError) else cure
        raise UserError(f"{shown_path(path)}: cannot be read ({what}): {error.strerror}; {advice}") from None


def is_folder(path: Path) -> bool:
    """Whether a path is that of a folder; False too where it can be no path."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # longer than a name may be, say
        return False


def is_file(path: Path) -> bool:
    """Whether a path is that of a plain file; False too where it can be no path."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def files_in(folder: Path, pattern: str = "*") -> list[Path]:
    """What a folder holds, by name; nothing where it is none, or cannot be listed."""
    try:
        return sorted(folder.glob(pattern))
    except (OSError, ValueError, NotImplementedError):  # the last: of a pattern that begins at the root
        return []


def read_text(path: Path, what: str, cure: str = "correct the path") -> str:
    """The text of a plain file of any size in UTF-8; a byte-order mark is left out.

    Raises:
        UserError: As :func:`read_bytes`; or it is not UTF-8, which is named by line.
    """
    return as_text(read_bytes(path, what, cure), shown_path(path))


def parse_json(text: str, where: str, cure: str) -> Json:
    """A JSON document.

    Args:
        text: The document.
        where: Its file, or file:line where it is one line of several.
        cure: What to do if it is none.

    Raises:
        UserError: It is no JSON, nested too deeply, or with numbers too long to be read.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = where if error.lineno == 1 else f"{where}:{error.lineno}"
        raise UserError(f"{place}: not valid JSON at column {error.colno} ({error.msg}); {cure}") from None
    except RecursionError:
        raise UserError(f"{where}: JSON nested too deeply to be read; {cure}") from None
    except ValueError:
        raise UserError(f"{where}: JSON with a number of thousands of digits; {cure}") from None


def read_json(path: Path, what: str, cure: str) -> Json:
    """The JSON document of a file.

    Raises:
        UserError: As :func:`read_text` and :func:`parse_json`.
    """
    return parse_json(read_text(path, what, cure), shown(path), cure)
