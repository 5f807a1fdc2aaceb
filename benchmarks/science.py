"""Do the methods do what their papers say? Over the embedded world, three seeds each.

    python -m benchmarks.science            # writes docs/science.md

Every run is an ordinary ``isogloss train``, kept in ``runs/science``: finished ones are not run again, so the
command can be stopped and repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2)
DOMINANT = "en"  # of the embedded world


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    title: str
    config: str
    overrides: tuple[str, ...] = ()


VARIANTS = (
    Variant("icr", "ICR (`configs/icr.yaml`)", "configs/icr.yaml"),
    Variant("icr-native", "ICR, native reward prompt", "configs/icr.yaml", ("reward.prompt=native",)),
    Variant("icr-translated", "ICR, translated reward prompt", "configs/icr.yaml", ("reward.prompt=translated",)),
    Variant("lidr", "LIDR (`configs/lidr.yaml`)", "configs/lidr.yaml"),
    Variant("control", "control: ICR with shuffled scores", "configs/icr.yaml", ("reward.shuffle=true",)),
    Variant("icr-current", "ICR, reward policy of the round", "configs/icr.yaml", ("reward.policy=current",)),
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/science.md"))
    parser.add_argument("--runs", type=Path, default=Path("runs/science"))
    parser.add_argument("--only", nargs="*", choices=[v.name for v in VARIANTS], help="rows to run")
    arguments = parser.parse_args()
    chosen = [v for v in VARIANTS if not arguments.only or v.name in arguments.only]
    for seed in SEEDS:
        for variant in chosen:
            run(variant, seed, arguments.runs)
    arguments.out.write_text(render(arguments.runs), encoding="utf-8")
    print(arguments.out)


def run(variant: Variant, seed: int, folder: Path) -> None:
    """Run one variant with one seed, or go on with it, unless its summary is there."""
    name = f"{variant.name}-seed{seed}"
    if (folder / name / "summary.json").exists():
        return
    print(f"== {name}", flush=True)
    resume = ["--resume"] if (folder / name / "config.yaml").exists() else []
    overrides = [*variant.overrides, f"run.name={name}", f"run.dir={folder}", f"run.seed={seed}"]
    isogloss = Path(sys.executable).with_name("isogloss")
    subprocess.run([isogloss, "train", variant.config, *overrides, *resume], check=True)


def render(folder: Path) -> str:
    """The page: means over seeds, then every run with its interval."""
    loaded = {(v.name, s): summary for v in VARIANTS for s in SEEDS if (summary := _summary(folder, v.name, s))}
    codes = sorted(next(iter(loaded.values()))["languages"], key=lambda code: (code != DOMINANT, code))
    lines = [
        "# Does it work?",
        "",
        "Written by `make science`: two rounds over the embedded world, held-out prompts, three seeds. Accuracy is",
        "exact match in percent, sampled at temperature 1.0 unless it says greedy. The world and its start are the",
        "same for all rows; a seed changes the prompts' order, the samples and the batches.",
        "",
        "## Change of sampled accuracy, mean over seeds, points",
        "",
        "| | seeds | mean of the others | " + " | ".join(codes) + " | greedy, mean of the others | right language |",
        "|---|---|---|" + "---|" * (len(codes) + 2),
    ]
    for variant in VARIANTS:
        rows = [loaded[variant.name, seed] for seed in SEEDS if (variant.name, seed) in loaded]
        if rows:
            lines.append(_mean_row(variant, rows, codes))
    lines += ["", "## Every run", "", "| run | start | end | change | 95% interval | worst language | wall, s |"]
    lines.append("|---|---|---|---|---|---|---|")
    for (name, seed), summary in loaded.items():
        lines.append(_run_row(f"{name}, seed {seed}", summary))
    return "\n".join(lines) + "\n"


def _summary(folder: Path, name: str, seed: int) -> dict[str, Any] | None:
    path = folder / f"{name}-seed{seed}" / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _mean_row(variant: Variant, rows: list[dict[str, Any]], codes: list[str]) -> str:
    def change(row: dict[str, Any], code: str, key: str) -> float:
        language = row["languages"][code]
        return 100 * (language["end"][key] - language["start"][key])

    others = [code for code in codes if code != DOMINANT]
    overall = [100 * (r["non_english_mean"]["end"] - r["non_english_mean"]["start"]) for r in rows]
    cells = [str(len(rows)), f"**{statistics.mean(overall):+.1f}** ({min(overall):+.1f} to {max(overall):+.1f})"]
    cells += [f"{statistics.mean(change(r, c, 'accuracy_sampled') for r in rows):+.1f}" for c in codes]
    for key in ("accuracy_greedy", "right_language"):
        cells.append(f"{statistics.mean(change(r, c, key) for r in rows for c in others):+.1f}")
    return f"| {variant.title} | " + " | ".join(cells) + " |"


def _run_row(title: str, summary: dict[str, Any]) -> str:
    mean = summary["non_english_mean"]
    low, high = (100 * bound for bound in mean["delta_ci95"])
    changes = {
        code: 100 * (row["end"]["accuracy_sampled"] - row["start"]["accuracy_sampled"])
        for code, row in summary["languages"].items()
    }
    worst = min(changes, key=lambda code: changes[code])
    return (
        f"| {title} | {100 * mean['start']:.1f} | {100 * mean['end']:.1f} | "
        f"{100 * (mean['end'] - mean['start']):+.1f} | [{low:+.1f}, {high:+.1f}] | "
        f"{worst} {changes[worst]:+.1f} | {summary['wall_seconds']:.0f} |"
    )


if __name__ == "__main__":
    main()
