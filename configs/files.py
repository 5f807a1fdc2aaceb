"""Paths and text files that a user names: what the system would refuse is refused here, in one line with its cure."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from configs.errors import UserError, shortened

MAX_CONFIG_BYTES = 1 << 20
_MAX_NAME, _MAX_PATH = 255, 4095  # bytes, on Linux


def path_problem(path: str | os.PathLike[str]) -> str | None:
    """Why no file can have this path, with the cure; None if one can."""
    text = os.fspath(path)
    if "\0" in text:
        return "holds a NUL character, which no path can; remove it"
    try:
        encoded = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return "holds half a character (a lone surrogate); write it as UTF-8"
    if len(encoded) > _MAX_PATH:
        return f"is {len(encoded)} bytes long, where a path has at most {_MAX_PATH}; shorten it"
    longest = max(len(part) for part in encoded.split(b"/"))
    if longest > _MAX_NAME:
        return f"has a name of {longest} bytes, where a file's has at most {_MAX_NAME}; shorten it"
    return None


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path as a message repeats it: printable, and not longer than a message should be."""
    return shortened(os.fspath(path).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0"))


def check_regular_file(path: Path, what: str = "file", cure: str = "check the path") -> None:
    """Refuse a path that is not a file's.

    Args:
        path: As the user gave it.
        what: What it should be, for the message: ``no such <what>``.
        cure: What to do where there is nothing.

    Raises:
        UserError: Nothing is there, or a folder, a pipe or a device, or no file can have this path.
    """
    shown, problem = shown_path(path), path_problem(path)
    if problem is not None:
        raise UserError(f"{shown}: the path {problem}")
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{shown}: no such {what}; {cure}") from None
    except OSError as error:
        raise UserError(f"{shown}: cannot be read ({error.strerror}); {cure}") from None
    if stat.S_ISDIR(mode):
        raise UserError(f"{shown}: is a folder; name a file in it")
    if not stat.S_ISREG(mode):
        raise UserError(f"{shown}: is a pipe, socket or device, not a file; copy what it holds into a file")


def read_text(path: Path, what: str = "file", cure: str = "check the path", max_bytes: int = MAX_CONFIG_BYTES) -> str:
    """A UTF-8 file, whole; a byte order mark is left out.

    Args:
        path: As the user gave it.
        what: What it should be, for the message.
        cure: What to do where there is nothing.
        max_bytes: A longer file is refused, unread.

    Raises:
        UserError: As :func:`check_regular_file`, or it is too long, or not UTF-8.
    """
    check_regular_file(path, what, cure)
    shown = shown_path(path)
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise UserError(f"{shown}: cannot be read ({error.strerror}); {cure}") from None
    if len(data) > max_bytes:
        raise UserError(f"{shown}: is longer than {max_bytes // 1024} KiB, so it is no {what}; name another")
    return as_text(data, shown)


def as_text(data: bytes, where: str) -> str:
    """The bytes of a file as text, without a byte-order mark; ``where`` is the file's name, for the message.

    Raises:
        UserError: Names the line and byte that is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{where}:{line}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
