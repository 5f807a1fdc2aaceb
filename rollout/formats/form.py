"""What a form of rows is, and how the one of a table is found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from configs.errors import UserError
from configs.reading import shown
from rollout.formats.files import Row

Kind = Literal["prompts", "preferences"]


@dataclass(frozen=True, slots=True)
class Form:
    """One form of rows.

    Attributes:
        name: As `format` names it.
        kind: What its rows are.
        columns: That tell it; each entry is one column or several of which a table has one.
        without: Columns that a table of another form has besides.
        read: (row, file:line, number of the row) -> the row in the plain form, with the fields that ``prompts`` and
            ``offline`` have by default. Raises ``UserError`` for one that is of no use; of preferences such rows are
            left out and counted by what the message says up to its first semicolon.
    """

    name: str
    kind: Kind
    columns: tuple[str | tuple[str, ...], ...]
    read: Callable[[Row, str, int], Row]
    without: tuple[str, ...] = ()

    def missing(self, columns: Iterable[str]) -> list[str]:
        """What a table with these columns lacks for this form."""
        there = set(columns)
        needed = [(one,) if isinstance(one, str) else one for one in self.columns]
        return [" or ".join(some) for some in needed if not there.intersection(some)]


def choose(forms: Iterable[Form], wanted: str, columns: Iterable[str], where: str, field: str) -> Form | None:
    """The form of a table.

    Args:
        forms: Those there are, the most particular first.
        wanted: Name of one, ``plain``, or ``auto``.
        columns: Of the table.
        where: The file.
        field: Config field that holds ``wanted``, for messages.

    Returns:
        The form; None for the plain one.

    Raises:
        UserError: The table lacks a column of the form that is wanted.
    """
    there = sorted(columns)
    if wanted == "plain":
        return None
    if wanted == "auto":
        return next((form for form in forms if not form.missing(there) and not set(form.without) & set(there)), None)
    form = next(form for form in forms if form.name == wanted)
    if missing := form.missing(there):
        raise UserError(
            f"{where}: is not of the form {field} {wanted}: it has no column {', '.join(missing)} (it has "
            f"{shown(', '.join(there))}); set {field} to auto or to another form"
        )
    return form
