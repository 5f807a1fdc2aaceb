"""Win rates and length-controlled win rates against AlpacaEval 2's published ones.

``python -m benchmarks.length_control FOLDER``: the folder holds ``<model>.csv`` (item, preference, baseline_chars,
model_chars) and ``published.csv`` (model, win_rate, length_controlled_win_rate). Prints a table, then the two figures
that matter: difficulty estimated from all models, and for each model from all the others (a model that is new). For a
model with missing rows it also prints what becomes of the figure when difficulties are joined by row position, as the
published computation does, instead of by item.

``python -m benchmarks.length_control FOLDER --by-models``: the error of both figures by the number of models, the
measured one among them, drawn anew for each measured model.
"""

from __future__ import annotations

import csv
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from configs.errors import UserError
from evaluation.length_controlled import estimate_difficulty, length_controlled
from evaluation.winrate import Comparison, read_annotations, win_rate


def main(folder: Path) -> None:
    """Print the comparison."""
    published = _published(folder / "published.csv")
    verdicts = {name: read_annotations(folder / f"{name}.csv", "en") for name in published}
    items = max(len(rows) for rows in verdicts.values())
    whole = {name for name, rows in verdicts.items() if sum(map(_complete, rows)) == items}
    started = time.perf_counter()
    shared = estimate_difficulty(verdicts)
    print(f"difficulty of {len(verdicts)} models: {time.perf_counter() - started:.2f} s")
    print(f"{'model':38} {'WR':>6} {'pub.':>6} {'LC':>6} {'95% interval':>14} {'new':>6} {'pub.':>6} {'diff':>6}")
    rates, fitted, new = {}, {}, {}
    for name, rows in verdicts.items():
        rates[name] = win_rate(rows, resamples=200).win_rate or 0.0
        result = length_controlled(rows, shared, resamples=500)
        fitted[name] = result.win_rate
        others = estimate_difficulty({other: rows for other, rows in verdicts.items() if other != name})
        new[name] = length_controlled(rows, others).win_rate
        low, high = result.ci95 or (0.0, 0.0)
        print(
            f"{name:38} {rates[name]:6.2f} {published[name][0]:6.2f} {fitted[name]:6.2f} [{low:5.1f}, {high:5.1f}]"
            f" {new[name]:6.2f} {published[name][1]:6.2f} {fitted[name] - published[name][1]:+6.2f}"
            f"{'' if name in whole else '  incomplete'}"
        )
        if name not in whole and shared:
            kept = sorted((row for row in rows if _complete(row)), key=lambda row: int(row.item))
            moved = [replace(row, item=str(place)) for place, row in enumerate(kept)]
            print(f"{'  joined by row position':52} {length_controlled(moved, shared).win_rate:6.2f}")
    worst = max(abs(rates[name] - published[name][0]) for name in published)
    print(f"win rate: largest difference {worst:.6f}")
    for label, values in (("difficulty of all models", fitted), ("difficulty of the other models", new)):
        _report(label, values, published, set(published))
        _report(f"{label}, complete models only", values, published, whole)


def by_models(folder: Path, counts: Sequence[int] = (1, 2, 3, 5, 9, 10, 20, 40), draws: int = 4) -> None:
    """Print the error of the length-controlled figure by number of models; complete models only are measured."""
    published = _published(folder / "published.csv")
    verdicts = {name: read_annotations(folder / f"{name}.csv", "en") for name in published}
    items = max(len(rows) for rows in verdicts.values())
    whole = sorted(name for name, rows in verdicts.items() if sum(map(_complete, rows)) == items)
    plain = [abs((win_rate(verdicts[name], resamples=1).win_rate or 0.0) - published[name][1]) for name in whole]
    print(f"{len(whole)} measured models, {draws} draws of the others each; points from the published figure")
    print(f"{'models':>10} {'mean':>6} {'median':>6} {'90 %':>6} {'largest':>7} {'worse than plain':>17}")
    _errors("plain rate", plain, plain)
    for count in counts:
        apart: list[float] = []
        for name in whole:
            others = sorted(verdicts.keys() - {name})
            for draw in range(draws):
                drawn = random.Random(f"{count}/{draw}/{name}").sample(others, count - 1)
                difficulty = estimate_difficulty({other: verdicts[other] for other in drawn})
                apart.append(abs(length_controlled(verdicts[name], difficulty).win_rate - published[name][1]))
        _errors(str(count), apart, [error for error in plain for _ in range(draws)])


def _errors(label: str, apart: Sequence[float], plain: Sequence[float]) -> None:
    found = np.array(apart)
    worse = float((found > np.array(plain)).mean())
    print(
        f"{label:>10} {found.mean():6.2f} {np.median(found):6.2f} {np.quantile(found, 0.9):6.2f} {found.max():7.2f} "
        f"{100 * worse:15.0f} %",
        flush=True,
    )


def _report(label: str, values: dict[str, float], published: dict[str, tuple[float, float]], names: set[str]) -> None:
    ours = np.array([values[name] for name in sorted(names)])
    theirs = np.array([published[name][1] for name in sorted(names)])
    apart = np.abs(ours - theirs)
    spearman = np.corrcoef(ours.argsort().argsort(), theirs.argsort().argsort())[0, 1]
    print(
        f"LC, {label} ({len(names)}): median |difference| {np.median(apart):.2f}, mean {apart.mean():.2f}, "
        f"largest {apart.max():.2f}, Spearman {spearman:.4f}"
    )


def _complete(row: Comparison) -> bool:
    return None not in (row.preference, row.baseline_chars, row.model_chars)


def _published(path: Path) -> dict[str, tuple[float, float]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {
            row["model"]: (float(row["win_rate"]), float(row["length_controlled_win_rate"]))
            for row in csv.DictReader(file)
        }


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[2:] not in ([], ["--by-models"]):
        sys.exit(f"usage: python -m benchmarks.length_control FOLDER [--by-models]\n{__doc__}")
    try:
        (by_models if sys.argv[2:] else main)(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(str(error))
