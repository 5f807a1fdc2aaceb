"""The one exception that is a user's to mend: shown as a message, never as a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Bad input. The message names the file, line or field and says what to do."""
