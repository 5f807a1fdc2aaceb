"""The figures of all seeds so far, in one file that a later call continues."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.chaos.schedule import VICTIMS
from configs.atomic import write_text


class Ledger:
    """Kills, damages and finished runs, written after each run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.data: dict[str, list[dict[str, Any]]] = {"kills": [], "damages": [], "runs": []}
        if path.is_file():
            self.data = json.loads(path.read_text(encoding="utf-8"))

    def add(self, **rows: list[dict[str, Any]]) -> None:
        """Append rows and write the file, atomically."""
        for name, more in rows.items():
            self.data[name] += more
        write_text(self._path, json.dumps(self.data, indent=1, ensure_ascii=False) + "\n")

    def done(self, seed: int) -> set[int]:
        """Numbers of a seed's kills that are done."""
        return {row["number"] for row in self.data["kills"] if row["seed"] == seed}

    @property
    def problems(self) -> list[str]:
        """Everything that was wrong."""
        return [
            f"seed {row['seed']}, {row.get('victim') or row.get('damage') or 'finished run'}: {problem}"
            for rows in self.data.values()
            for row in rows
            for problem in row["problems"]
        ]

    def lines(self) -> list[str]:
        """The figures, over all seeds."""
        kills, runs = self.data["kills"], self.data["runs"]
        found = []
        for victim in VICTIMS:
            rows = [row for row in kills if row["victim"] == victim]
            if not rows:
                continue
            outcomes = Counter(row["outcome"] for row in rows)
            ended = [row["seconds"] for row in rows if row["outcome"] == "ended"]
            took = f", ended within {max(ended):.1f} s" if ended else ""
            wrong = sum(bool(row["problems"]) for row in rows)
            parts = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
            found.append(f"{victim:8} {len(rows):3} kills: {parts}{took}, {wrong} with a problem")
        if damages := self.data["damages"]:
            outcomes = Counter(f"{row['damage']}: {row['outcome']}" for row in damages)
            found += [f"{name} ({count})" for name, count in sorted(outcomes.items())]
        equal = sum(not row["problems"] for row in runs)
        starts = sum(row["starts"] for row in runs)
        seeds = len({row["seed"] for row in kills})
        found.append(
            f"{len(kills)} kills over {seeds} seed(s) in {len(runs)} runs of {starts} starts; {equal} runs equal to "
            f"the undisturbed one; {len(self.problems)} problems"
        )
        return found
