"""Numbers in rows: as such, or as texts, which is what CSV has."""

from __future__ import annotations

from configs.errors import UserError
from configs.reading import kind, shown


def whole_number(value: object, name: str, where: str) -> int:
    """An integer, also one that is written as a float or a text.

    Raises:
        UserError: It is none.
    """
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            number = float(value)
            if number == int(number):
                return int(number)
    except (ValueError, OverflowError):
        pass
    said = shown(value, 20) if isinstance(value, str | int | float) else kind(value)
    raise UserError(f"{where}: field '{name}' is no whole number; it is {said}")
