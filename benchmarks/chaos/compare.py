"""What a run left behind, and how it differs from what another one left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollout.store import Store

_TIMES = ("wall_seconds",)


@dataclass(frozen=True)
class Left:
    """What the journal holds by now. Keys are those of the journal, values everything behind them.

    Gates are set when candidates are judged, so ``sampled`` holds what sampling alone decides.
    """

    sampled: dict[Any, Sequence[int]] = field(default_factory=dict)
    scores: dict[Any, Any] = field(default_factory=dict)
    pairs: dict[str, Any] = field(default_factory=dict)

    def within(self, other: Left, what: str) -> list[str]:
        """What is here and not (or otherwise) in ``other``, in words; empty if all of this is there, too."""
        problems = []
        for name in ("sampled", "scores", "pairs"):
            mine, theirs = getattr(self, name), getattr(other, name)
            odd = [key for key, value in mine.items() if key not in theirs or theirs[key] != value]
            if odd:
                problems.append(f"{len(odd)} of {len(mine)} {name} {what}, e.g. {odd[0]}")
        return problems


def left_by(run: Path, rounds: int) -> Left:
    """Read the journal of a run that is not running; nothing if there is none yet."""
    path = run / "store.sqlite"
    if not path.is_file() or path.stat().st_size == 0:
        return Left()
    with Store.read(path) as store:
        numbers = range(1, rounds + 1)
        known = [one for number in numbers for one in store.candidates(number)]
        scores = [one for number in numbers for one in store.scores(number)]
        pairs = [one for number in numbers for one in store.pairs(number)]
    # Reference log-probabilities and consumption follow later.
    mined = {one.id: (one.chosen, one.rejected, one.chosen_score, one.rejected_score) for one in pairs}
    return Left(
        {one.key: one.token_ids for one in known},
        {one.key: one for one in scores},
        mined,
    )


def journal_differences(straight: Path, run: Path, rounds: int) -> list[str]:
    """How the journal of a finished run differs from the undisturbed one's: candidates, scores, pairs, evaluations."""
    found = []
    with Store.read(straight / "store.sqlite") as one, Store.read(run / "store.sqlite") as two:
        for number in range(1, rounds + 1):
            for kind in ("candidates", "scores", "pairs"):
                if getattr(one, kind)(number) != getattr(two, kind)(number):
                    found.append(f"round {number}: other {kind}")
        if one.counts() != two.counts():
            found.append(f"counts {two.counts()} instead of {one.counts()}")
        if one.evaluations() != two.evaluations():
            found.append("other evaluations")
    return found


def differences(straight: Path, run: Path, rounds: int) -> list[str]:
    """How a finished run differs from the undisturbed one: its journal, weights, summary, rows."""
    found = journal_differences(straight, run, rounds)
    for number in range(1, rounds + 1):
        name = f"checkpoints/round-{number:04d}"
        digests = [_digest(folder / name / "model.safetensors") for folder in (straight, run)]
        if digests[0] != digests[1]:
            found.append(f"{name}: other weights")
    summaries = [_summary(folder) for folder in (straight, run)]
    if summaries[0] != summaries[1]:
        found.append("another summary")
    rows = [json.loads(line)["round"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    if rows != list(range(1, rounds + 1)):
        found.append(f"metrics.jsonl has rows of rounds {rows}")
    return found + [f"left in the folder: {name}" for name in temporary_files(run)]


def temporary_files(run: Path) -> list[str]:
    """What a run should have taken away: hidden folders and half-written files."""
    odd = [path for path in run.rglob("*") if path.name.startswith(".") or path.name.endswith((".tmp", ".partial"))]
    return sorted(str(path.relative_to(run)) for path in odd if path.name != ".lock")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "absent"


def _summary(run: Path) -> Mapping[str, Any]:
    found = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return {name: value for name, value in found.items() if name not in _TIMES}
