"""The figures of the matrix: pooled over seeds, paired by prompt, with intervals over clusters of prompts and runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluation.matrix.measures import MEASURES
from evaluation.matrix.runs import Measured, RunResult
from evaluation.stats import Pooled, pooled_bootstrap
from rollout.seeds import stable_seed

SEEN, UNSEEN, OTHERS, ALL = "seen", "unseen", "others", "all"
GROUPS = {
    SEEN: "languages that some row trains on, but the dominant one",
    UNSEEN: "languages that no row trains on",
    OTHERS: "all languages but the dominant one",
    ALL: "all languages",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the matrix: runs that differ in their seed alone."""

    name: str
    title: str


@dataclass(frozen=True, slots=True)
class Contrast:
    """A question to two rows, or to several pairs of rows together.

    Attributes:
        question: As the page asks it.
        first: Names of rows.
        second: What they are compared with, one for each of ``first``; none compares them with their own start.
        measure: A key of ``MEASURES``.
        languages: A key of ``GROUPS``, or a code.
        better: "up" where a yes is a positive difference, "down" where it is a negative one.
    """

    question: str
    first: tuple[str, ...]
    second: tuple[str, ...] = ()
    measure: str = "greedy"
    languages: str = OTHERS
    better: str = "up"


@dataclass(frozen=True, slots=True)
class Missing:
    """A run that has no result, and why."""

    row: str
    seed: int
    why: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """A difference, 0 to 1, with its 95 % interval, and how many runs (or pairs of runs) and prompts it is of."""

    value: float
    low: float
    high: float
    runs: int
    prompts: int


@dataclass(frozen=True, slots=True)
class Cell:
    """Uplift of one row in one language, or mean over several.

    Attributes:
        start: Mean before.
        end: Mean after.
        uplift: End less start.
        untrained: Whether the row trained on none of the languages.
    """

    start: float
    end: float
    uplift: Estimate
    untrained: bool


@dataclass(frozen=True)
class Line:
    """One row: cells by measure and column."""

    row: Row
    seeds: tuple[int, ...]
    examples: Mapping[str, float]  # language -> pairs or groups trained on, mean over runs
    seconds: float  # mean over runs
    cells: Mapping[str, Mapping[str, Cell]]


@dataclass(frozen=True)
class Answer:
    """What the runs say to a question.

    Attributes:
        contrast: The question.
        estimate: The difference over the asked languages; None without runs to compare.
        by_column: The same by language and over the groups.
        verdict: "yes", "no: the reverse", "not shown" (the interval holds 0), or "not measured".
    """

    contrast: Contrast
    estimate: Estimate | None
    by_column: Mapping[str, Estimate]
    verdict: str


@dataclass(frozen=True)
class Matrix:
    """The whole of it.

    Attributes:
        name: Of the study.
        languages: All evaluated ones, the dominant one first, those that no row trains on last.
        groups: Group -> its languages; empty ones are left out.
        measures: Keys of ``MEASURES`` that some run has.
        lines: By row.
        answers: By question.
        missing: Runs without a result.
        resamples: Draws of each interval.
    """

    name: str
    languages: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    measures: tuple[str, ...]
    lines: tuple[Line, ...]
    answers: tuple[Answer, ...]
    missing: tuple[Missing, ...] = ()
    resamples: int = 0

    def members(self, column: str) -> tuple[str, ...]:
        """The languages of a column: a group's, or the one that it names."""
        return self.groups.get(column, (column,) if column in self.languages else ())


def build_matrix(
    name: str,
    rows: Sequence[Row],
    runs: Sequence[RunResult],
    contrasts: Sequence[Contrast],
    dominant: str,
    *,
    missing: Sequence[Missing] = (),
    resamples: int = 2000,
    planned: Collection[str] = (),
) -> Matrix:
    """All cells and answers that the finished runs give.

    Args:
        name: Of the study; seeds the draws.
        rows: In the order to be shown.
        runs: Finished ones, of these rows.
        contrasts: The questions.
        dominant: The dominant language.
        missing: Runs without a result.
        resamples: Bootstrap draws of each interval.
        planned: Languages that rows train on, whether or not they have finished.
    """
    trained = frozenset(planned).union(*(run.trained for run in runs))
    evaluated = frozenset[str]().union(*(run.evaluated for run in runs))
    order = tuple(sorted(evaluated, key=lambda code: (code != dominant, code not in trained, code)))
    others = tuple(code for code in order if code != dominant)
    groups = {
        SEEN: tuple(code for code in others if code in trained),
        UNSEEN: tuple(code for code in others if code not in trained),
        OTHERS: others,
        ALL: order,
    }
    measures = tuple(measure for measure in MEASURES if any(measure in run.values for run in runs))
    empty = Matrix(name, order, {k: v for k, v in groups.items() if v}, measures, (), (), tuple(missing), resamples)
    by_row = {row.name: {run.seed: run for run in runs if run.row == row.name} for row in rows}
    lines = tuple(_line(empty, row, [*by_row[row.name].values()]) for row in rows if by_row[row.name])
    answers = tuple(_answer(empty, contrast, by_row) for contrast in contrasts)
    return replace(empty, lines=lines, answers=answers)


def _line(matrix: Matrix, row: Row, runs: Sequence[RunResult]) -> Line:
    codes = {code for run in runs for code in run.examples}
    cells: dict[str, dict[str, Cell]] = {}
    for measure in matrix.measures:
        found = {c: cell for c in _columns(matrix) if (cell := _cell(matrix, row, runs, measure, c)) is not None}
        if found:
            cells[measure] = found
    return Line(
        row,
        tuple(run.seed for run in runs),
        {code: float(np.mean([run.examples.get(code, 0) for run in runs])) for code in sorted(codes)},
        float(np.mean([run.wall_seconds for run in runs])),
        cells,
    )


def _columns(matrix: Matrix) -> list[str]:
    return [*matrix.languages, *matrix.groups]


def _cell(matrix: Matrix, row: Row, runs: Sequence[RunResult], measure: str, column: str) -> Cell | None:
    codes = matrix.members(column)
    units: list[_Unit] = [(run, None) for run in runs]
    uplift = _estimate(matrix, units, measure, column, row.name)
    if uplift is None:
        return None
    values = [run.values[measure][code] for run in runs for code in codes]
    trained = frozenset[str]().union(*(run.trained for run in runs))
    start, end = float(np.mean([v.start.mean() for v in values])), float(np.mean([v.end.mean() for v in values]))
    return Cell(start, end, uplift, not trained.intersection(codes))


_Unit = tuple[RunResult, RunResult | None]  # what is compared with what; None: with its own start


def _estimate(matrix: Matrix, units: Sequence[_Unit], measure: str, column: str, label: str) -> Estimate | None:
    """The pooled difference over the languages of a column; None where a run lacks one of them."""
    pooled: list[Pooled] = []
    prompts = 0
    for code in matrix.members(column):
        sides: list[tuple[Measured, Measured | None]] = []
        for run, other in units:
            first, second = _of(run, measure, code), None if other is None else _of(other, measure, code)
            if first is None or (second is None and other is not None):
                return None
            sides.append((first, second))
        one = _differences(sides)
        if one is None:
            return None
        pooled.append(one)
        prompts += len(one.clusters)
    if not pooled:
        return None
    seed = stable_seed("matrix", matrix.name, label, measure, column)
    value, (low, high) = pooled_bootstrap(pooled, matrix.resamples, seed)
    return Estimate(value, low, high, len(units), prompts)


def _of(run: RunResult, measure: str, code: str) -> Measured | None:
    return run.values.get(measure, {}).get(code)


def _differences(sides: Sequence[tuple[Measured, Measured | None]]) -> Pooled | None:
    """Differences of changes by prompt, over the prompts that all runs answered; None if there are none."""
    every = [side for pair in sides for side in pair if side is not None]
    shared = frozenset(every[0].ids).intersection(*(side.ids for side in every[1:]))
    if not shared:
        return None
    first = every[0]
    order = [place for place, key in enumerate(first.ids) if key in shared]
    ids = [first.ids[place] for place in order]
    rows = [_changes(one, ids) - (0.0 if two is None else _changes(two, ids)) for one, two in sides]
    return Pooled(np.stack(rows), tuple(first.clusters[place] for place in order))


def _changes(one: Measured, ids: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    change = one.end - one.start
    if list(one.ids) == list(ids):
        return change
    by_id = dict(zip(one.ids, change.tolist(), strict=True))
    return np.array([by_id[key] for key in ids], dtype=np.float64)


def _answer(matrix: Matrix, contrast: Contrast, by_row: Mapping[str, Mapping[int, RunResult]]) -> Answer:
    units: list[_Unit] = []
    for place, name in enumerate(contrast.first):
        for seed, run in by_row[name].items():
            other = by_row[contrast.second[place]].get(seed) if contrast.second else None
            if other is not None or not contrast.second:
                units.append((run, other))
    if not units:
        return Answer(contrast, None, {}, "not measured")
    label = f"{contrast.first} {contrast.second}"
    found = {column: _estimate(matrix, units, contrast.measure, column, label) for column in _columns(matrix)}
    estimate = found.get(contrast.languages)
    known = {column: one for column, one in found.items() if one is not None}
    return Answer(contrast, estimate, known, _verdict(contrast, estimate))


def _verdict(contrast: Contrast, estimate: Estimate | None) -> str:
    if estimate is None:
        return "not measured"
    wanted = estimate.low > 0 if contrast.better == "up" else estimate.high < 0
    reverse = estimate.high < 0 if contrast.better == "up" else estimate.low > 0
    return "yes" if wanted else "no: the reverse" if reverse else "not shown"
