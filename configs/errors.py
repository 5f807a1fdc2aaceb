"""The one exception that is a user's to mend: shown as a message, never as a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Bad input. The message names the file, line or field and says what to do."""


class Stopped(Exception):
    """Ctrl-C or SIGTERM ended the work at a point from which it can go on. The message says how."""
