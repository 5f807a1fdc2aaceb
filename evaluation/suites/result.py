"""An evaluation's result: as plain data for ``result.json``, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from configs.json_types import JsonObject
from evaluation.suites.figures import Figure

TITLES = {
    "accuracy": "Accuracy",
    "accuracy_difference": "Accuracy less that of the other model",
    "win_rate": "Win rate",
    "lc_win_rate": "Length-controlled win rate",
    "right_language": "Answers in the right language",
    "right_lines": "Lines in the right language",
    "code_switching": "Answers that switch languages",
    "line_pass_rate": "Line pass rate",
    "word_pass_rate": "Word pass rate, of the answers that pass by lines",
    "script_confusion": "Answers with an unusual script",
    "length": "Length of an answer",
}


def figures_json(figures: Sequence[Figure]) -> list[JsonObject]:
    """Plain data, one object a figure."""
    return [asdict(figure) for figure in figures]


def tables(figures: Sequence[Figure]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, heads, rows) of one table a kind of figure, a row a language."""
    groups: dict[str, list[Figure]] = {}
    for figure in figures:
        groups.setdefault(figure.name, []).append(figure)
    out: list[tuple[str, list[str], list[list[str]]]] = []
    for name, rows in groups.items():
        counts = list(dict.fromkeys(count for figure in rows for count in figure.counts))
        heads = ["language", rows[0].unit, "95 %", "items", *(count.replace("_", " ") for count in counts)]
        cells = [
            [row.language, _value(row), _interval(row), str(row.items), *(_count(row, count) for count in counts)]
            for row in rows
        ]
        out.append((TITLES.get(name, name), heads, cells))
    return out


def confusion_table(confusion: Mapping[str, Mapping[str, int]]) -> tuple[str, list[str], list[list[str]]]:
    """(title, heads, rows) of the answers by language asked for and detected; "unsure" and "und" last."""
    seen = {name for row in confusion.values() for name in row}
    last = [name for name in ("und", "unsure") if name in seen]
    columns = [*dict.fromkeys([*confusion, *sorted(seen - set(last))]), *last]
    rows = [[asked, *(str(row.get(name, 0)) for name in columns)] for asked, row in confusion.items()]
    return "Language asked and answered, answers", ["asked", *columns], rows


def markdown(title: str, facts: Sequence[str], found: Sequence[tuple[str, list[str], list[list[str]]]]) -> str:
    """A title, a line for each fact, and the tables."""
    parts = [f"# {_plain(title)}", "\n".join(f"- {_plain(fact)}" for fact in facts)]
    for name, heads, rows in found:
        lines = [heads, ["---", *("---:" for _ in heads[1:])], *rows]
        table = "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)
        parts.append(f"## {name}\n\n{table}")
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("<", r"\<")


def _value(figure: Figure) -> str:
    if figure.value is None:
        return "–"
    return f"{figure.value:+.1f}" if figure.unit == "points" else f"{figure.value:.1f}"


def _interval(figure: Figure) -> str:
    if figure.ci95 is None:
        return "–"
    sign = "+" if figure.unit == "points" else ""
    low, high = figure.ci95
    return f"{low:{sign}.1f} to {high:{sign}.1f}"


def _count(figure: Figure, name: str) -> str:
    return str(figure.counts[name]) if name in figure.counts else "–"
