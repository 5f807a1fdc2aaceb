"""The report: one JSON file for scripts, one Markdown page for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.gpu_check.result import Cell, Check, Outcome


def write(folder: Path, facts: Mapping[str, object], outcomes: Sequence[Outcome]) -> tuple[Path, Path]:
    """Both files; their paths."""
    data = {
        "facts": dict(facts),
        "ratios": _ratios(outcomes),
        "parts": [one.as_json() for one in outcomes],
    }
    paths = folder / "gpu-check.json", folder / "gpu-check.md"
    paths[0].write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    paths[1].write_text(page(facts, outcomes), encoding="utf-8")
    return paths


def _ratios(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Speed against plain Transformers, by part."""
    name = "times plain, both at their best"
    found = {one.part: one.found.figures.get(name) for one in outcomes}
    return {part: value for part, value in found.items() if isinstance(value, float)}


def page(facts: Mapping[str, object], outcomes: Sequence[Outcome]) -> str:
    """The Markdown page."""
    about = ", ".join(f"{name} {value}" if name != "device" else str(value) for name, value in facts.items())
    lines = ["# GPU check", "", about, "", "| part | outcome | s | |", "|---|---|---|---|"]
    for one in outcomes:
        lines.append(f"| {one.title} | {one.status} | {one.seconds:.0f} | {_cell(one.reason)} |")
    for one in outcomes:
        if one.status == "not run":
            continue
        lines += ["", f"## {one.title}", ""]
        if one.found.rows:
            lines += _table(one.found.columns, one.found.rows)
        holding = sum(check.holds for check in one.found.checks)
        lines.append("")
        if one.found.checks:
            lines.append(f"- {holding} of {len(one.found.checks)} checks hold")
        lines += [_broken(check) for check in one.found.checks if not check.holds]
        lines += [f"- {note}" if "\n" not in note else f"```\n{note}```" for note in one.found.notes]
    return "\n".join(lines) + "\n"


def _broken(check: Check) -> str:
    return f"- BROKEN: {check.name} is {check.value:.3g}, {'at least' if check.at_least else 'at most'} {check.limit:g}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    head = "| " + " | ".join(map(_cell, columns)) + " |"
    body = ["| " + " | ".join(_cell(str(cell)) for cell in row) + " |" for row in rows]
    return [head, "|" + "---|" * len(columns), *body]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
