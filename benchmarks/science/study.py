"""What is run, and how: rows of the table, worlds, seeds, each an ordinary ``isogloss train``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.product import isogloss
from configs.yaml12 import read_yaml
from evaluation.matrix.runs import is_finished

SETTINGS = Path(__file__).with_name("settings.yaml")
COMMIT = "commit"  # file of a run's folder: what it was run at


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
    """What is run (``benchmarks/science/settings.yaml``)."""

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


def rows_of(named: Mapping[str, Mapping[str, Any]]) -> dict[str, Row]:
    """Rows as a settings file has them: name -> title, config, and overrides under ``set``."""
    return {
        name: Row(name, fields["title"], f"configs/{fields['config']}", tuple(fields.get("set", ())))
        for name, fields in named.items()
    }


def load_study(path: Path = SETTINGS) -> Study:
    """The frozen settings."""
    raw = read_yaml(path, "settings of the study")
    rows = rows_of(raw["rows"])
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
    (folder / name / COMMIT).write_text(commit(), encoding="utf-8")


def commit() -> str:
    """The checkout's, short; with a plus sign where files were changed, and empty outside a checkout."""
    words = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(words, check=False, capture_output=True, text=True).stdout.strip()


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
