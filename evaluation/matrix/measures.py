"""What a study compares, by held-out prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evaluation.heldout import PromptResult


@dataclass(frozen=True, slots=True)
class Measure:
    """A value of each held-out prompt, 0 to 1; tables show it times 100.

    Attributes:
        title: In tables.
        value: Of one prompt; None where it has none.
        less_is_better: Whether a fall is what one wants.
        at_start: What the start has by definition, where it is not measured.
    """

    title: str
    value: Callable[[PromptResult], float | None]
    less_is_better: bool = False
    at_start: float | None = None

    def change(self, before: PromptResult, after: PromptResult) -> tuple[float, float] | None:
        """Of one prompt at start and end; None where either has none."""
        start, end = self.value(before) if self.at_start is None else self.at_start, self.value(after)
        return None if start is None or end is None else (start, end)


MEASURES: dict[str, Measure] = {
    "greedy": Measure("greedy accuracy", lambda row: row.greedy),
    "sampled": Measure("sampled accuracy", lambda row: row.sampled),
    "judged": Measure("judged win rate against the start", lambda row: row.preference, at_start=0.5),
    "artefacts": Measure("sampled answers with a translation artefact", lambda row: row.marked, less_is_better=True),
}
