"""The matrix as Markdown, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict

from configs.json_types import JsonObject
from evaluation.matrix.compute import GROUPS, OTHERS, SEEN, UNSEEN, Answer, Cell, Estimate, Line, Matrix
from evaluation.matrix.measures import MEASURES
from evaluation.report.markdown import plain, table

_MEANS = (SEEN, UNSEEN, OTHERS)
UNTRAINED = "°"
_CSV = ("kind", "row", "measure", "column", "start", "end", "difference", "low", "high", "runs", "prompts", "untrained")
NOTE = (
    "Change of each row from its start, points, mean over its seeds, with 95 % intervals: clusters of prompts are "
    f"drawn anew in each language, and runs beside them. {UNTRAINED} marks what the row trained on nothing of."
)


def render_markdown(matrix: Matrix) -> str:
    """Answers, cells of every measure, and what is missing; sections of a page, without its title."""
    parts: list[str] = []
    columns = shown_columns(matrix)
    if matrix.answers:
        parts += ["## Questions", table(ANSWER_HEADS, [answer_row(matrix, one) for one in matrix.answers])]
        heads = ["question", *(column_title(column) for column in columns)]
        rows = [[one.contrast.question, *(_shown(one.by_column.get(c)) for c in columns)]
                for one in matrix.answers if one.by_column]  # fmt: skip
        parts += ["### The same differences by language", table(heads, rows)] if rows else []
    for measure in matrix.measures:
        heads = ["row", "seeds", *(column_title(column) for column in columns)]
        rows = [
            [line.row.title, str(len(line.seeds)), *(_cell(line.cells.get(measure, {}).get(c)) for c in columns)]
            for line in matrix.lines
        ]
        parts += [f"## {MEASURES[measure].title.capitalize()}, change in points", NOTE, _start(matrix, measure)]
        parts.append(table(heads, rows))
    if matrix.lines:
        parts += ["## What each row trained on", EXAMPLE_NOTE]
        parts.append(table(EXAMPLE_HEADS, [example_row(line) for line in matrix.lines]))
    if matrix.missing:
        listed = [f"- {plain(one.row)}, seed {one.seed}: {plain(one.why)}" for one in matrix.missing]
        parts += [f"## Runs without a result: {len(matrix.missing)}", "\n".join(listed)]
    return "\n\n".join(parts) + "\n"


ANSWER_HEADS = ("question", "answer", "difference, points", "95 %", "of", "pairs of runs")
EXAMPLE_HEADS = ("row", "in all", "by language", "seconds")
EXAMPLE_NOTE = "Pairs or groups by language, and seconds of a run; means over seeds."


def answer_row(matrix: Matrix, answer: Answer) -> list[str]:
    """A question with its answer, as the cells of ``ANSWER_HEADS``."""
    contrast, found = answer.contrast, answer.estimate
    what = f"{MEASURES[contrast.measure].title}, {languages_of(matrix, contrast.languages)}"
    if found is None:
        return [contrast.question, answer.verdict, "–", "–", what, "0"]
    bounds = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    return [contrast.question, answer.verdict, f"{100 * found.value:+.1f}", bounds, what, str(found.runs)]


def example_row(line: Line) -> list[str]:
    """What a row trained on, as the cells of ``EXAMPLE_HEADS``."""
    listed = ", ".join(f"{code} {count:.0f}" for code, count in line.examples.items())
    return [line.row.title, f"{sum(line.examples.values()):.0f}", listed or "nothing", f"{line.seconds:.0f}"]


def column_title(column: str) -> str:
    """Head of a column."""
    return f"mean, {column}" if column in GROUPS else column


def languages_of(matrix: Matrix, column: str) -> str:
    """A column in words."""
    members = ", ".join(matrix.members(column)) or "none of these runs"
    return f"{column} ({members})" if column in GROUPS else column


def shown_columns(matrix: Matrix) -> list[str]:
    """Columns of a measure's table: languages, then means."""
    return [*matrix.languages, *(group for group in _MEANS if group in matrix.groups)]


def _start(matrix: Matrix, measure: str) -> str:
    """Where the rows start from, in words; rows may start from different models."""
    starts: dict[str, list[str]] = {}
    for column in shown_columns(matrix):
        cells = [line.cells.get(measure, {}).get(column) for line in matrix.lines]
        starts[column] = sorted({f"{100 * cell.start:.1f}" for cell in cells if cell is not None})
    shown = [f"{column_title(c)} {v[0] if len(v) == 1 else f'{v[0]} to {v[-1]}'}" for c, v in starts.items() if v]
    return "Start, per cent: " + "; ".join(shown) + "."


def _cell(cell: Cell | None) -> str:
    return "–" if cell is None else f"{_shown(cell.uplift)}{' ' + UNTRAINED if cell.untrained else ''}"


def _shown(one: Estimate | None) -> str:
    return "–" if one is None else f"{100 * one.value:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})"


def to_json(matrix: Matrix) -> str:
    """All of it as JSON; shares are 0 to 1."""
    data: JsonObject = {
        "study": matrix.name,
        "languages": matrix.languages,
        "groups": matrix.groups,
        "measures": {name: MEASURES[name].title for name in matrix.measures},
        "resamples": matrix.resamples,
        "rows": [
            {
                "name": line.row.name,
                "title": line.row.title,
                "seeds": line.seeds,
                "examples": line.examples,
                "wall_seconds": line.seconds,
                "cells": {m: {c: asdict(cell) for c, cell in cells.items()} for m, cells in line.cells.items()},
            }
            for line in matrix.lines
        ],
        "contrasts": [
            asdict(one.contrast)
            | {
                "verdict": one.verdict,
                "estimate": None if one.estimate is None else asdict(one.estimate),
                "by_column": {column: asdict(found) for column, found in one.by_column.items()},
            }
            for one in matrix.answers
        ],
        "missing": [asdict(one) for one in matrix.missing],
    }
    return json.dumps(data, ensure_ascii=False, indent=2) + "\n"


def to_csv(matrix: Matrix) -> str:
    """Cells and contrasts, a line each; shares are 0 to 1."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV)
    for line in matrix.lines:
        for measure, cells in line.cells.items():
            for column, cell in cells.items():
                one = cell.uplift
                head = ("cell", line.row.name, measure, column, cell.start, cell.end)
                writer.writerow((*head, one.value, one.low, one.high, one.runs, one.prompts, int(cell.untrained)))
    for answer in matrix.answers:
        name = " + ".join(answer.contrast.first) + " less " + (" + ".join(answer.contrast.second) or "start")
        for column, one in answer.by_column.items():
            where = ("contrast", name, answer.contrast.measure, column, "", "")
            writer.writerow((*where, one.value, one.low, one.high, one.runs, one.prompts, ""))
    return out.getvalue()
