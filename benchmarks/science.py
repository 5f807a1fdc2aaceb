"""Do the methods teach, and is it more than sharpening? Over the embedded world, several worlds and seeds.

    python -m benchmarks.science                        # everything in benchmarks/science.yaml; writes docs/science.md
    python -m benchmarks.science --rows likelihood icr sharpening --worlds 0 --seeds 0
    python -m benchmarks.science --rows likelihood-0.8 sharpening-0.8     # on the dial; --dial runs all of it

Every run is an ordinary ``isogloss train``, kept in ``runs/science``: finished ones are not run again, unfinished ones
are resumed, so the command can be stopped and repeated. The page is made of what is there, and says how much that is.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.product import isogloss
from configs.yaml12 import read_yaml
from evaluation.matrix.runs import is_finished

SETTINGS = Path(__file__).with_name("science.yaml")
PAGE_HEAD = Path(__file__).with_name("science_head.md")
RESAMPLES = 10_000


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    name: str
    title: str
    config: str
    overrides: tuple[str, ...] = ()
    rate: float | None = (
        None  # of true answers under the English instruction, in worlds built for it; else the world's own
    )


@dataclass(frozen=True)
class Study:
    """What is run (``benchmarks/science.yaml``)."""

    rows: dict[str, Row]
    core: tuple[str, ...]
    worlds: tuple[int, ...]
    seeds: tuple[int, ...]
    temperatures: tuple[float, ...]
    unseen: tuple[str, ...]
    contrasts: tuple[tuple[str, str], ...]
    dial: dict[float, tuple[str, ...]]

    @property
    def on_dial(self) -> set[str]:
        """Names of the rows that run on worlds of their own."""
        return {name for names in self.dial.values() for name in names}

    def runs(self) -> list[tuple[Row, int, int]]:
        """(row, world, seed), by world and seed first, so that an early page has all rows; the dial comes last."""
        table = [
            (row, world, seed)
            for seed in self.seeds
            for world in self.worlds
            for row in self.rows.values()
            if row.rate is None and (row.name in self.core or seed == self.seeds[0])
        ]
        turned = [row for row in self.rows.values() if row.rate is not None]
        return table + [(row, world, self.seeds[0]) for world in self.worlds for row in turned]


def load_study(path: Path = SETTINGS) -> Study:
    """The frozen settings."""
    raw = read_yaml(path, "settings of the study")
    rows = {
        name: Row(name, fields["title"], f"configs/{fields['config']}", tuple(fields.get("set", ())))
        for name, fields in raw["rows"].items()
    }
    dial: dict[float, tuple[str, ...]] = {}
    for rate in raw["dial"]["rates"]:
        turned = [
            replace(rows[name], name=f"{name}-{rate:g}", title=f"{rows[name].title}, {rate:g}", rate=rate)
            for name in raw["dial"]["rows"]
        ]
        rows |= {row.name: row for row in turned}
        dial[rate] = tuple(row.name for row in turned)
    return Study(
        rows,
        tuple(raw["core"]),
        tuple(raw["worlds"]),
        tuple(raw["seeds"]),
        tuple(raw["temperatures"]),
        tuple(raw["unseen"]),
        tuple((first, second) for first, second in raw["contrasts"]),
        dial,
    )


def main() -> None:
    """Command line."""
    study = load_study()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/science.md"))
    parser.add_argument("--runs", type=Path, default=Path("runs/science"))
    parser.add_argument("--rows", nargs="*", choices=list(study.rows), default=None)
    parser.add_argument("--dial", action="store_true", help="also the rows on the dial, whose worlds are built first")
    parser.add_argument("--worlds", nargs="*", type=int, choices=study.worlds, default=list(study.worlds))
    parser.add_argument("--seeds", nargs="*", type=int, choices=study.seeds, default=list(study.seeds))
    arguments = parser.parse_args()
    rows = arguments.rows or [name for name in study.rows if arguments.dial or name not in study.on_dial]
    for row, world, seed in study.runs():
        if row.name in rows and world in arguments.worlds and seed in arguments.seeds:
            run(study, row, world, seed, arguments.runs)
    arguments.out.write_text(render(study, arguments.runs), encoding="utf-8")
    print(arguments.out)


def run(study: Study, row: Row, world: int, seed: int, folder: Path) -> None:
    """Run one row, or continue it, unless its summary is there."""
    name = run_name(row.name, world, seed)
    if is_finished(folder / name):
        return
    print(f"== {name}", flush=True)
    overrides = [f"run.name={name}", f"run.dir={folder}", f"run.seed={seed}"]
    overrides.append(f"evaluation.temperatures={json.dumps(study.temperatures)}")
    overrides.append(f"evaluation.languages={json.dumps(study.unseen)}")
    if world or row.rate is not None:
        overrides += of_world(build_world(world, folder / "worlds", row.rate), row)
    isogloss("train", row.config, *overrides, *row.overrides, "--resume-or-start")


def build_world(seed: int, folder: Path, rate: float | None = None) -> Path:
    """The world of a seed, and of a rate of truth under the English instruction, built if it is not there."""
    world = folder / (str(seed) if rate is None else f"{seed}-{rate:g}")
    if not (world / "world.json").exists():
        words = ["--out", str(world), "--seed", str(seed)]
        words += [] if rate is None else ["--crosslingual-rate", f"{rate:g}"]
        isogloss("build-world", *words)
    return world


def of_world(world: Path, row: Row) -> list[str]:
    """Overrides that point a preset to another world."""
    fields = {
        "model.policy": "policy",
        "model.reference": "reference",
        "prompts.train": "prompts/train/{lang}.jsonl",
        "prompts.heldout": "prompts/heldout/{lang}.jsonl",
        "anchor.path": "anchor.jsonl",
    }
    set_by_row = {override.partition("=")[0] for override in row.overrides}
    return [f"{field}={world / path}" for field, path in fields.items() if field not in set_by_row]


def run_name(row: str, world: int, seed: int) -> str:
    """Of a run's folder."""
    return f"{row}-w{world}-s{seed}"


def render(study: Study, folder: Path) -> str:
    """The page: a head written by hand, then the tables."""
    found = {
        (row.name, world, seed): json.loads(path.read_text(encoding="utf-8"))
        for row, world, seed in study.runs()
        if (path := folder / run_name(row.name, world, seed) / "summary.json").exists()
    }
    title = "## Start and end, held-out facts, per cent"
    lines = [PAGE_HEAD.read_text(encoding="utf-8").rstrip(), ""]
    lines += [*table(title, [row for row in study.rows.values() if row.rate is None], found), ""]
    for rate, names in study.dial.items():
        if any(name in names for name, _, _ in found):
            title = f"## The same where answers under the English instruction are true at {rate:g}"
            lines += [*table(title, [study.rows[name] for name in names], found), ""]
    lines += ["## Contrasts", "", "Difference of the changes of greedy accuracy, points, paired by world and seed.", ""]
    lines += ["| | runs | difference | every run |", "|---|---|---|---|"]
    lines += [line for pair in study.contrasts if (line := _contrast(study, found, *pair))]
    lines += [
        "",
        "## Every run",
        "",
        "| run | greedy, start | end | change | 95% interval | unseen languages | wall, s |",
    ]
    lines.append("|---|---|---|---|---|---|---|")
    lines += [_run_line(run_name(*key), summary) for key, summary in found.items()]
    return "\n".join(lines) + "\n"


def table(title: str, rows: Sequence[Row], found: dict[tuple[str, int, int], dict[str, Any]]) -> list[str]:
    """Start and end of rows, as means over their runs.

    Args:
        title: Heading.
        rows: In the order to be shown.
        found: (row, world, seed) -> ``summary.json`` of the run; those of other rows are left out.
    """
    head = (
        "| | runs | greedy, weaker languages | change | best over temperature | sampled | pass@k | affected facts "
        "| other facts | unseen languages, greedy | English, greedy |"
    )
    lines = [title, "", head, "|---|" + "---|" * 10]
    start_shown = False
    for row in rows:
        runs = [summary for (name, _, _), summary in found.items() if name == row.name]
        if not runs:
            continue
        if not start_shown:
            lines.append(_line("start", [_figures(summary, "start") for summary in runs], None))
            start_shown = True
        changes = [_change(summary) for summary in runs]
        lines.append(_line(row.title, [_figures(summary, "end") for summary in runs], changes))
    return lines


def _figures(summary: dict[str, Any], side: str) -> list[float]:
    languages = {code: entry[side] for code, entry in summary["languages"].items()}
    seen = _trained(summary)
    weak = [languages[code] for code in seen]
    groups = [row["accuracy_greedy_by_group"] for row in weak]
    return [
        summary["non_english_mean"]["greedy"][side],
        statistics.mean(row["best_over_temperature"] for row in weak),
        summary["non_english_mean"][side],
        statistics.mean(row["pass_at_k"] for row in weak),
        statistics.mean(group["yes"] for group in groups),
        statistics.mean(group["no"] for group in groups),
        summary["unseen_mean"]["greedy"][side],
        languages["en"]["accuracy_greedy"],
    ]


def _trained(summary: dict[str, Any]) -> list[str]:
    """The weaker languages of the run: all but English and the last ones, which are evaluated alone."""
    return [code for code in summary["languages"] if code != "en" and code not in summary["unseen_languages"]]


def _change(summary: dict[str, Any]) -> float:
    greedy = summary["non_english_mean"]["greedy"]
    return float(greedy["end"] - greedy["start"])


def _line(title: str, runs: Sequence[Sequence[float]], changes: Sequence[float] | None) -> str:
    means = [f"{100 * statistics.mean(values):.1f}" for values in zip(*runs, strict=True)]
    change = "" if changes is None else f"**{100 * statistics.mean(changes):+.1f}**{_spread(changes)}"
    return f"| {title} | {len(runs)} | {means[0]} | {change} | " + " | ".join(means[1:]) + " |"


def _spread(values: Sequence[float]) -> str:
    return f" ({100 * min(values):+.1f} to {100 * max(values):+.1f})" if len(values) > 1 else ""


def _contrast(study: Study, found: dict[tuple[str, int, int], dict[str, Any]], first: str, second: str) -> str:
    keys = [(w, s) for w in study.worlds for s in study.seeds if (first, w, s) in found and (second, w, s) in found]
    if not keys:
        return ""
    differences = [_change(found[first, *key]) - _change(found[second, *key]) for key in keys]
    every = ", ".join(f"{100 * value:+.1f}" for value in differences)
    title = f"{study.rows[first].title} less {study.rows[second].title}"
    return f"| {title} | {len(keys)} | {100 * statistics.mean(differences):+.1f}{_interval(differences)} | {every} |"


def _interval(values: Sequence[float]) -> str:
    """Percentile interval of the mean over runs; none for fewer than three."""
    if len(values) < 3:
        return ""
    drawn = np.random.default_rng(0).choice(np.array(values), size=(RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f" [{100 * low:+.1f}, {100 * high:+.1f}]"


def _run_line(title: str, summary: dict[str, Any]) -> str:
    greedy, unseen = summary["non_english_mean"]["greedy"], summary["unseen_mean"]["greedy"]
    low, high = (100 * bound for bound in greedy["delta_ci95"])
    return (
        f"| {title} | {100 * greedy['start']:.1f} | {100 * greedy['end']:.1f} | {100 * _change(summary):+.1f} | "
        f"[{low:+.1f}, {high:+.1f}] | {100 * (unseen['end'] - unseen['start']):+.1f} | {summary['wall_seconds']:.0f} |"
    )


if __name__ == "__main__":
    main()
