"""The report's panel about judged answers: win rates of the last weights against those of the start."""

from __future__ import annotations

from evaluation.report import charts
from evaluation.report.blocks import Section, section, table
from evaluation.report.data import RunData, interval_of, lookup, number
from evaluation.report.figures import MEANS

HEADS = ("language", "win rate, %", "95 %", "wins", "ties", "losses", "inconsistent", "failed")
TITLE = "Judged against the start"
_DRAW = 50.0


def win_rates(run: RunData) -> dict[str, object]:
    """Language, or name of a mean -> its win rate as ``summary.json`` has it; empty without ``evaluation.judge``."""
    found = {code: lookup(run.summary, "languages", code, "end", "win_rate") for code in run.languages}
    found |= {name: lookup(run.summary, key, "win_rate") for key, name in MEANS.items()}
    return {name: rate for name, rate in found.items() if rate is not None}


def win_rows(run: RunData) -> list[list[str]]:
    """Rows of the table."""
    rows = []
    for name, rate in win_rates(run).items():
        value, bounds = number(rate, "win_rate"), _bounds(rate)
        shown = "–" if value is None else f"{value:.1f}"
        interval = "" if bounds is None else f"{bounds[0]:.1f} to {bounds[1]:.1f}"
        counts = [f"{number(rate, head) or 0:.0f}" for head in HEADS[3:]]
        rows.append([name, shown, interval, *counts])
    return rows


def wins(run: RunData) -> list[Section]:
    """The panel; nothing where no judge compared the answers."""
    rows = win_rows(run)
    if not rows:
        return []
    dots = []
    for name, rate in win_rates(run).items():
        if (value := number(rate, "win_rate")) is not None:
            low, high = (None, None) if (bounds := _bounds(rate)) is None else bounds
            dots.append(
                charts.Interval(
                    name,
                    value - _DRAW,
                    None if low is None else low - _DRAW,
                    None if high is None else high - _DRAW,
                )
            )
    return [
        section(
            TITLE,
            "How often a judge finds the greedy answer of the last weights better than that of the start, in both "
            "orders; the chart has points above or below a draw (50 %). An inconsistent verdict depended on the order "
            "and counts as a tie; a failed one counts nowhere.",
            charts.intervals(dots, " points"),
            table(HEADS, rows),
            wide=True,
        )
    ]


def _bounds(rate: object) -> tuple[float, float] | None:
    low, high = interval_of(rate, "ci95")
    return None if low is None or high is None else (low, high)
