"""What a study takes from a finished run: values by held-out prompt, start and end, and its training languages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from configs.reading import is_file, kind, read_json
from evaluation.heldout import HeldoutResult, LanguageResult
from evaluation.matrix.measures import MEASURES
from evaluation.report.data import number
from rollout.run_layout import JOURNAL
from rollout.store import Store

SUMMARY = "summary.json"


@dataclass(frozen=True, slots=True)
class Measured:
    """One measure of one language, by prompt.

    Attributes:
        ids: Of the prompts.
        clusters: Which of them are right or wrong together.
        start: Before the first round, (prompts,).
        end: After the last one, (prompts,).
    """

    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    start: NDArray[np.float64]
    end: NDArray[np.float64]


@dataclass(frozen=True)
class RunResult:
    """A finished run of a study.

    Attributes:
        row: Name of its row.
        seed: Its seed.
        examples: Language -> pairs or groups that it trained on, anchors and replayed ones included.
        values: Measure -> language -> values; measures and languages that it does not have are left out.
        wall_seconds: Of the run.
    """

    row: str
    seed: int
    examples: Mapping[str, int]
    values: Mapping[str, Mapping[str, Measured]]
    wall_seconds: float

    @property
    def trained(self) -> frozenset[str]:
        """Languages that it trained on."""
        return frozenset(code for code, count in self.examples.items() if count)

    @property
    def evaluated(self) -> frozenset[str]:
        """Languages that it has any measure of."""
        return frozenset(code for by_language in self.values.values() for code in by_language)


def is_finished(folder: Path) -> bool:
    """Whether a run in this folder came to its end."""
    return is_file(folder / SUMMARY)


def read_result(folder: Path, row: str, seed: int) -> RunResult:
    """Read a finished run.

    Raises:
        UserError: Its summary or journal is damaged, or it was not evaluated at start and end; says which.
    """
    summary = read_json(folder / SUMMARY, "the run's summary", "restore it, or remove the run's folder to run it again")
    rounds = summary.get("rounds") if isinstance(summary, dict) else None
    if not isinstance(rounds, int):
        raise UserError(
            f"{folder / SUMMARY}: {kind(summary)} without 'rounds'; remove the run's folder to run it again"
        )
    with Store.read(folder / JOURNAL) as store:
        evaluations = store.evaluations()
        examples = Counter(code for table in ("pairs", "groups") for (code,) in store.table(table, ("language",)))
    if 0 not in evaluations or rounds not in evaluations:
        raise UserError(
            f"{folder}: was not evaluated at start and end; name prompts.heldout in the study's base config"
        )
    start, end = (HeldoutResult.from_json(evaluations[version]) for version in (0, rounds))
    values: dict[str, dict[str, Measured]] = {name: {} for name in MEASURES}
    for code, before in start.languages.items():
        after = end.languages[code]
        for name in MEASURES:
            if (found := _measured(name, before, after)) is not None:
                values[name][code] = found
    kept = {name: by_language for name, by_language in values.items() if by_language}
    return RunResult(row, seed, dict(examples), kept, number(summary, "wall_seconds") or 0.0)


def _measured(name: str, before: LanguageResult, after: LanguageResult) -> Measured | None:
    ends = {row.id: row for row in after.prompts}
    kept = [(row, *found) for row in before.prompts if (found := MEASURES[name].change(row, ends[row.id])) is not None]
    if not kept:
        return None
    return Measured(
        tuple(row.id for row, _, _ in kept),
        tuple(row.id if row.cluster is None else row.cluster for row, _, _ in kept),
        np.array([one for _, one, _ in kept], dtype=np.float64),
        np.array([two for _, _, two in kept], dtype=np.float64),
    )
