"""Rows that were left out: how many, why, and where the first of each kind is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from configs.errors import UserError

_REASONS = 8  # that a message lists
_LONGEST = 100  # characters of a reason


@dataclass
class LeftOut:
    """Counts by reason."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)  # reason -> file:line

    def add(self, reason: str, where: str) -> None:
        """One row more."""
        self.counts[reason] += 1
        self.first.setdefault(reason, where)

    def refused(self, error: UserError, where: str) -> None:
        """One row more, for what a message about it says: without its place and its cure."""
        self.add(str(error).removeprefix(f"{where}: ").partition(";")[0][:_LONGEST], where)

    def merge(self, other: LeftOut) -> None:
        """The rows of another file."""
        self.counts.update(other.counts)
        self.first = {**other.first, **self.first}

    @property
    def total(self) -> int:
        """All rows that were left out."""
        return self.counts.total()

    def lines(self) -> list[str]:
        """One a reason, the most frequent first: ``12  no preference (first: x.jsonl:3)``."""
        found = self.counts.most_common(_REASONS)
        lines = [f"{count}  {reason} (first: {self.first[reason]})" for reason, count in found]
        rest = self.total - sum(count for _, count in found)
        return [*lines, f"{rest}  for other reasons"] if rest else lines


def shown_rows(rows: Sequence[tuple[str, str]], most: int = 3, width: int = 300) -> list[str]:
    """The first rows as they were understood, for people: one line each, cut.

    Args:
        rows: (what it is, its text).
        most: How many.
        width: Longest text, in characters.
    """
    out = []
    for head, text in rows[:most]:
        line = " ".join(text.split())
        out.append(f"{head}  {line if len(line) <= width else line[:width] + '…'}")
    return out
