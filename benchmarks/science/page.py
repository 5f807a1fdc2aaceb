"""The page: a head written by hand, then tables of what was run, and no more."""

from __future__ import annotations

import statistics
from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np

from benchmarks.science.results import FIGURES, GREEDY, Result, Results, Run
from benchmarks.science.study import Row, Study, run_name

HEAD = Path(__file__).with_name("head.md")
RESAMPLES = 10_000
_COLUMNS = (
    "| | runs | greedy, weaker languages | change | best over temperature | sampled | pass@k | affected facts "
    "| other facts | unseen languages, greedy | English, greedy |"
)


def render(study: Study, results: Results) -> str:
    """The whole page."""
    title = "## Start and end, held-out facts, per cent"
    lines = [HEAD.read_text(encoding="utf-8").rstrip(), ""]
    lines += [*table(title, [row for row in study.rows.values() if row.rate is None], results), ""]
    for rate, names in study.dial.items():
        if any(results.of(name) for name in names):
            title = f"## The same where answers under the English instruction are true at {rate:g}"
            lines += [*table(title, [study.rows[name] for name in names], results), ""]
    what = "Of greedy accuracy, points: end less start, and differences of two rows' changes, paired by world and seed."
    lines += ["## Contrasts", "", what, "", *_differences(study, results), ""]
    if (repeated := results.repeated()).runs:
        what = (
            "Runs that are in no table above: over the same facts, with models that start elsewhere, at other commits."
        )
        lines += ["## The same in earlier builds of the worlds", "", what, "", *_differences(study, repeated), ""]
    lines += ["## Every run", ""]
    lines += ["| run | greedy, start | end | change | 95% interval | unseen languages | wall, s | commit |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    lines += [_run_line(result) for result in results.runs.values()]
    return "\n".join(lines) + "\n"


def table(title: str, rows: Sequence[Row], results: Results) -> list[str]:
    """Start and end of rows, as means over their runs.

    Args:
        title: Heading.
        rows: In the order to be shown; those without a run are left out.
        results: Of these rows and perhaps others.

    A figure that is of other runs than the row's is followed by their number.
    """
    lines = [title, "", _COLUMNS, "|---|" + "---|" * 10]
    found = [row for row in rows if results.of(row.name)]
    lines += [_line("start", results, row.name, "start") for row in found[:1]]
    return lines + [_line(row.title, results, row.name, "end") for row in found]


def _line(title: str, results: Results, row: str, side: str) -> str:
    runs = results.of(row)
    means = [_mean(*results.mean(row, side, figure), {run.key[1:] for run in runs}) for figure in FIGURES]
    changes = [result.change for result in runs]
    change = f"**{100 * statistics.mean(changes):+.1f}**{_spread(changes)}" if side == "end" else ""
    return f"| {title} | {len(runs)} | {means[0]} | {change} | " + " | ".join(means[1:]) + " |"


def _mean(mean: float, of: Set[Run], runs: Set[Run]) -> str:
    """A mean in per cent, with the number of runs that it is of where those are not the row's."""
    return f"{100 * mean:.1f}" + (f" ({len(of)})" if of != runs else "") if of else ""


def _spread(values: Sequence[float]) -> str:
    return f" ({100 * min(values):+.1f} to {100 * max(values):+.1f})" if len(values) > 1 else ""


def _differences(study: Study, results: Results) -> list[str]:
    lines = ["| | runs | difference | every run |", "|---|---|---|---|"]
    lines += [_against_start(row.title, results.of(row.name)) for row in study.rows.values() if results.of(row.name)]
    return lines + [line for pair in _contrasts(study) if (line := _contrast(study, results, *pair))]


def _contrasts(study: Study) -> list[tuple[str, str]]:
    """The study's, and each of them on the dial where both of its rows are there."""
    turned = [(f"{one}-{rate:g}", f"{two}-{rate:g}") for rate in study.dial for one, two in study.contrasts]
    return [*study.contrasts, *(pair for pair in turned if set(pair) <= set(study.rows))]


def _contrast(study: Study, results: Results, first: str, second: str) -> str:
    pairs = results.pairs(first, second)
    if not pairs:
        return ""
    title = f"{study.rows[first].title} less {study.rows[second].title}"
    return _difference(title, [one.change - two.change for one, two in pairs])


def _against_start(title: str, runs: Sequence[Result]) -> str:
    return _difference(f"{title} less start", [result.change for result in runs])


def _difference(title: str, values: Sequence[float]) -> str:
    every = ", ".join(f"{100 * value:+.1f}" for value in values)
    return f"| {title} | {len(values)} | {100 * statistics.mean(values):+.1f}{_interval(values)} | {every} |"


def _interval(values: Sequence[float]) -> str:
    """Percentile interval of the mean over runs; none for fewer than three."""
    if len(values) < 3:
        return ""
    drawn = np.random.default_rng(0).choice(np.array(values), size=(RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f" [{100 * low:+.1f}, {100 * high:+.1f}]"


def _run_line(result: Result) -> str:
    low, high = (100 * bound for bound in result.interval)
    return (
        f"| {_name(result)} | {100 * result.start[GREEDY]:.1f} | {100 * result.end[GREEDY]:.1f} | "
        f"{100 * result.change:+.1f} | [{low:+.1f}, {high:+.1f}] | {100 * result.unseen:+.1f} | "
        f"{result.wall:.0f} | {result.commit} |"
    )


def _name(result: Result) -> str:
    name = run_name(result.row, result.world, result.seed)
    return f"{name} ({result.build})" if result.build else name
