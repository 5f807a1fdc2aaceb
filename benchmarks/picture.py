"""The picture in the README: greedy accuracy before and after, by language.

python -m benchmarks.picture runs/science/likelihood-w0-s0 runs/science/lidr-w0-s0 runs/science/sharpening-w0-s0
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

BEFORE, AFTER = "#b8c4d6", "#2f6fb3"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="finished run folders, one panel each")
    parser.add_argument("--out", type=Path, default=Path("docs/img/uplift.png"))
    arguments = parser.parse_args()
    figure, panels = plt.subplots(
        1, len(arguments.runs), figsize=(3.6 * len(arguments.runs), 3.2), sharey=True, squeeze=False
    )
    for panel, run in zip(panels[0], arguments.runs, strict=True):
        draw(panel, run.name, json.loads((run / "summary.json").read_text(encoding="utf-8")))
    panels[0][0].set_ylabel("held-out facts, greedy accuracy, %")
    panels[0][0].legend(frameon=False, fontsize=8, loc="upper right")
    figure.tight_layout()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, dpi=110)
    print(arguments.out)


def draw(panel: Axes, name: str, summary: dict[str, Any]) -> None:
    """Bars of one run, with the 95 % interval of the change on the bar of the end."""
    codes = list(summary["languages"])
    for index, code in enumerate(codes):
        row = summary["languages"][code]
        start, end = (100 * row[side]["accuracy_greedy"] for side in ("start", "end"))
        low, high = (100 * bound for bound in row["greedy_delta_ci95"])
        panel.bar(index - 0.2, start, 0.4, color=BEFORE, label="before" if index == 0 else None)
        errors = [[end - start - low], [high - end + start]]
        panel.bar(index + 0.2, end, 0.4, color=AFTER, yerr=errors, label="after" if index == 0 else None, capsize=2)
    mean = summary["non_english_mean"]["greedy"]
    panel.set_title(f"{name}: {100 * (mean['end'] - mean['start']):+.1f} points", fontsize=10)
    panel.set_xticks(range(len(codes)), codes)
    panel.set_ylim(0, 100)
    panel.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
