"""The one exception that is a user's to fix: shown as a message, never as a traceback."""

from __future__ import annotations

SHOWN = 200  # characters of a value that a message repeats


class UserError(Exception):
    """Bad input. The message names the file, line or field and says what to do."""


class Stopped(Exception):
    """Ctrl-C or SIGTERM ended the work at a point from which it can continue. The message says how."""


def shortened(text: str, limit: int = SHOWN) -> str:
    """``text`` as a message may repeat it: cut after ``limit`` characters, with its length; no lone surrogates."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
