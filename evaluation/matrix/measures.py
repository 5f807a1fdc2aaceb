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
    """

    title: str
    value: Callable[[PromptResult], float | None]
    less_is_better: bool = False


MEASURES: dict[str, Measure] = {
    "greedy": Measure("greedy accuracy", lambda row: row.greedy),
    "sampled": Measure("sampled accuracy", lambda row: row.sampled),
    "artefacts": Measure("sampled answers with a translation artefact", lambda row: row.marked, less_is_better=True),
}
