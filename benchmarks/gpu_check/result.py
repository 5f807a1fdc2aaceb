"""What a part gives back: figures, a table, and checks that hold or do not."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

Status = Literal["passed", "failed", "not run"]
Cell = str | float | int


@dataclass
class Check:
    """A number and the limit that it must not exceed (``at_least``: not fall below)."""

    name: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether it does; not for a NaN."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass
class Found:
    """What a part measured."""

    columns: tuple[str, ...] = ()
    rows: list[tuple[Cell, ...]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, float | str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def check(self, name: str, value: float, limit: float, at_least: bool = False) -> None:
        """Note a check."""
        self.checks.append(Check(name, float(value), limit, at_least))


@dataclass
class Outcome:
    """A part as it stands in the report. ``reason`` says why it did not run, or how it failed."""

    part: str
    title: str
    status: Status
    seconds: float = 0.0
    reason: str = ""
    found: Found = field(default_factory=Found)

    def as_json(self) -> dict[str, object]:
        """For the JSON file."""
        return asdict(self) | {"broken": [check.name for check in self.found.checks if not check.holds]}


def outcome_of(part: str, title: str, seconds: float, found: Found) -> Outcome:
    """Passed, or failed where a check does not hold."""
    broken = [f"{one.name} {one.value:.3g}, limit {one.limit:.3g}" for one in found.checks if not one.holds]
    return Outcome(part, title, "failed" if broken else "passed", seconds, "; ".join(broken), found)
