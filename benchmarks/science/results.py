"""What the page takes from a finished run, and a file of such results, which outlives the runs' folders."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.science.study import COMMIT, Study, run_name
from evaluation.matrix.runs import SUMMARY

Run = tuple[int, int, str]  # world, seed, build
Key = tuple[str, int, int, str]  # row, and those
GREEDY, UNSEEN = "greedy", "unseen"
FIGURES = (GREEDY, "best", "sampled", "pass_at_k", "affected", "other", UNSEEN, "english")


@dataclass(frozen=True, slots=True)
class Result:
    """One run.

    Attributes:
        row: Its name.
        world: Seed of its world.
        seed: Of the run.
        commit: What it ran at, or nothing where that is not known.
        start: Shares of right answers before training, by ``FIGURES``: means of the weaker languages that were trained
            on, but for ``unseen`` and ``english``.
        end: The same after it.
        interval: 95% interval of the change of greedy accuracy, clustered.
        unseen: Change of greedy accuracy in the languages that are evaluated alone.
        wall: Seconds.
        build: Which build of the world, where it is not what ``isogloss build-world`` makes now: another version
            rounds otherwise, so that a world of the same facts starts from other weights.
    """

    row: str
    world: int
    seed: int
    commit: str
    start: Mapping[str, float]
    end: Mapping[str, float]
    interval: tuple[float, float]
    unseen: float
    wall: float
    build: str = ""

    @property
    def key(self) -> Key:
        """Row, world, seed, build."""
        return self.row, self.world, self.seed, self.build

    @property
    def change(self) -> float:
        """Of greedy accuracy, end less start."""
        return self.end[GREEDY] - self.start[GREEDY]


@dataclass(frozen=True, slots=True)
class Pool:
    """Means over runs of which only greedy accuracies were kept one by one.

    Attributes:
        row: Name of the row.
        runs: (world, seed, build) of each.
        start: Of the other ``FIGURES``, as in ``Result``.
        end: The same.
    """

    row: str
    runs: tuple[Run, ...]
    start: Mapping[str, float]
    end: Mapping[str, float]


@dataclass(frozen=True)
class Results:
    """All that is known, in the study's order, today's builds of the worlds before earlier ones."""

    runs: Mapping[Key, Result]
    pools: tuple[Pool, ...] = ()

    def of(self, row: str) -> list[Result]:
        """Runs of a row, one for each world and seed: in an earlier build of the world only where there is no other."""
        found: dict[tuple[int, int], Result] = {}
        for result in self.runs.values():
            if result.row == row:
                found.setdefault((result.world, result.seed), result)
        return list(found.values())

    def pairs(self, first: str, second: str) -> list[tuple[Result, Result]]:
        """Runs of two rows in the same build of a world with the same seed; one pair for each, as ``of``."""
        found: dict[tuple[int, int], tuple[Result, Result]] = {}
        for (row, world, seed, build), result in self.runs.items():
            other = self.runs.get((second, world, seed, build))
            if row == first and other is not None:
                found.setdefault((world, seed), (result, other))
        return list(found.values())

    def repeated(self) -> Results:
        """Runs in earlier builds that ``of`` leaves out."""
        taken = {result.key for row in {key[0] for key in self.runs} for result in self.of(row)}
        return Results({key: result for key, result in self.runs.items() if key not in taken})

    def mean(self, row: str, side: str, figure: str) -> tuple[float, set[Run]]:
        """Of a figure over those of a row's runs that have it, and which runs these are. ``side`` is start or end.

        Means that were kept for several runs at once count with all of these, whatever their builds.
        """
        known = [(getattr(result, side), {result.key[1:]}) for result in self.of(row)]
        known += [(getattr(pool, side), set(pool.runs)) for pool in self.pools if pool.row == row]
        found = [(figures[figure], runs) for figures, runs in known if figure in figures]
        mean = statistics.fmean([value for value, _ in found], [len(runs) for _, runs in found]) if found else 0.0
        return mean, {run for _, runs in found for run in runs}


def of_summary(summary: Mapping[str, Any], key: Key, commit: str) -> Result:
    """The result in a run's ``summary.json``."""
    low, high = summary["non_english_mean"]["greedy"]["delta_ci95"]
    start, end = (_figures(summary, side) for side in ("start", "end"))
    row, world, seed, build = key
    unseen = end[UNSEEN] - start[UNSEEN]
    return Result(row, world, seed, commit, start, end, (low, high), unseen, summary["wall_seconds"], build)


def _figures(summary: Mapping[str, Any], side: str) -> dict[str, float]:
    languages = {code: entry[side] for code, entry in summary["languages"].items()}
    weak = [row for code, row in languages.items() if code != "en" and code not in summary["unseen_languages"]]
    groups = [row["accuracy_greedy_by_group"] for row in weak]
    best = [row["best_over_temperature"] for row in weak if row["accuracy_by_temperature"]]
    return {
        GREEDY: summary["non_english_mean"]["greedy"][side],
        **({"best": statistics.mean(best)} if best else {}),  # none where no further temperature was asked for
        "sampled": summary["non_english_mean"][side],
        "pass_at_k": statistics.mean(row["pass_at_k"] for row in weak),
        "affected": statistics.mean(group["yes"] for group in groups),
        "other": statistics.mean(group["no"] for group in groups),
        UNSEEN: summary["unseen_mean"]["greedy"][side],
        "english": languages["en"]["accuracy_greedy"],
    }


def collect(study: Study, folder: Path, kept: Results | None = None) -> Results:
    """Results of the runs in a folder, before those that were kept of the same runs.

    Args:
        study: Says which runs there can be, and their order.
        folder: Of runs.
        kept: Of earlier runs. A pool counts while none of its runs is there in full.
    """
    kept = kept or Results({})
    runs = dict(kept.runs)
    for row, world, seed in study.runs():
        path = folder / run_name(row.name, world, seed)
        if (path / SUMMARY).exists():
            key = (row.name, world, seed, "")
            at = (path / COMMIT).read_text(encoding="utf-8") if (path / COMMIT).exists() else ""
            runs[key] = of_summary(json.loads((path / SUMMARY).read_text(encoding="utf-8")), key, at)
    full = {key for key, result in runs.items() if len(result.end) > 1}
    pools = [pool for pool in kept.pools if not full & {(pool.row, *run) for run in pool.runs}]
    place = {(row.name, world, seed): number for number, (row, world, seed) in enumerate(study.runs())}
    ordered = sorted(runs, key=lambda key: (bool(key[3]), place[key[:3]]))
    return Results({key: runs[key] for key in ordered}, tuple(pools))


def read(path: Path) -> Results:
    """A file that ``write`` wrote."""
    runs: dict[Key, Result] = {}
    pools: list[Pool] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        if "runs" in fields:
            pools.append(
                Pool(**{**fields, "runs": tuple((world, seed, build) for world, seed, build in fields["runs"])})
            )
        else:
            result = Result(**{**fields, "interval": tuple(fields["interval"])})
            runs[result.key] = result
    return Results(runs, tuple(pools))


def write(results: Results, path: Path) -> None:
    """One JSON object a line: runs, then pools."""
    entries: Iterable[Result | Pool] = [*results.runs.values(), *results.pools]
    path.write_text("".join(f"{json.dumps(_rounded(asdict(entry)))}\n" for entry in entries), encoding="utf-8")


def _rounded(value: Any) -> Any:
    """Figures to six digits: enough for any page, and readable."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value
