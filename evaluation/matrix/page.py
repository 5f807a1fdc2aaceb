"""The matrix as one HTML page that needs nothing else, in the report's style."""

from __future__ import annotations

from evaluation.matrix.compute import SEEN, UNSEEN, Cell, Matrix
from evaluation.matrix.measures import MEASURES
from evaluation.matrix.tables import (
    ANSWER_HEADS,
    EXAMPLE_HEADS,
    EXAMPLE_NOTE,
    NOTE,
    UNTRAINED,
    answer_row,
    column_title,
    example_row,
    shown_columns,
)
from evaluation.report import charts
from evaluation.report.assets import SCRIPT
from evaluation.report.blocks import Section, arranged, document, section, table, tile
from evaluation.report.markup import Markup, el, join, visible


def render_html(matrix: Matrix) -> str:
    """The whole page."""
    parts = [_questions(matrix), *(_measure(matrix, name) for name in matrix.measures), _examples(matrix)]
    if matrix.missing:
        listed = el("ul", *(el("li", el("b", f"{one.row}, seed {one.seed}"), f": {one.why}") for one in matrix.missing))
        parts.append(section(f"Runs without a result: {len(matrix.missing)}", "", listed, wide=True))
    runs = sum(len(line.seeds) for line in matrix.lines)
    facts = (
        f"{len(matrix.lines)} rows · {runs} runs · {len(matrix.languages)} languages · {len(matrix.missing)} missing"
    )
    title = el("div", el("h1", matrix.name, dir="auto"), el("p", facts, class_="note"))
    header = el("header", title, el("button", "Light / dark", id="theme", type="button"))
    tiles = el("div", *(tile(one.verdict, one.contrast.question) for one in matrix.answers), class_="tiles")
    body = el("main", tiles, el("div", *arranged(parts), class_="grid"))
    return document(f"{matrix.name} · isogloss study", header, body, el("script", Markup(SCRIPT)))


def _questions(matrix: Matrix) -> Section:
    drawn = [
        charts.Interval(f"{place + 1}", 100 * e.value, 100 * e.low, 100 * e.high, 0)
        for place, one in enumerate(matrix.answers)
        if (e := one.estimate) is not None
    ]
    rows: list[list[object]] = [
        [f"{place + 1}. {row[0]}", *row[1:]]
        for place, row in enumerate(answer_row(matrix, one) for one in matrix.answers)
    ]
    return section(
        "Questions",
        "Differences between rows, paired by prompt and seed, pooled over seeds; 95 % intervals over clusters of "
        "prompts and runs.",
        table(ANSWER_HEADS, rows),
        charts.intervals(drawn, " points") if drawn else "",
        wide=True,
    )


def _measure(matrix: Matrix, measure: str) -> Section:
    columns = shown_columns(matrix)
    fall_is_good = MEASURES[measure].less_is_better
    rows: list[list[object]] = [
        [
            line.row.title,
            len(line.seeds),
            *(_cell(line.cells.get(measure, {}).get(column), fall_is_good) for column in columns),
        ]
        for line in matrix.lines
    ]
    drawn = [
        charts.Interval(visible(line.row.title[:28]), 100 * e.value, 100 * e.low, 100 * e.high, series)
        for series, group in enumerate((SEEN, UNSEEN))
        for line in matrix.lines
        if (cell := line.cells.get(measure, {}).get(group)) is not None and (e := cell.uplift)
    ]
    return section(
        f"{MEASURES[measure].title.capitalize()}, change in points",
        NOTE,
        table(["row", "seeds", *(column_title(column) for column in columns)], rows),
        charts.legend(["languages that some row trains on", "languages that no row trains on"]) if drawn else "",
        charts.intervals(drawn, " points") if drawn else "",
        wide=True,
    )


def _cell(cell: Cell | None, fall_is_good: bool) -> object:
    if cell is None:
        return "·"
    one = cell.uplift
    good = (one.value < 0) == fall_is_good
    mark = f" {UNTRAINED}" if cell.untrained else ""
    value = el("span", f"{100 * one.value:+.1f}{mark}", class_="up" if good else "down")
    return join([value, el("small", f" [{100 * one.low:+.1f}, {100 * one.high:+.1f}]")])


def _examples(matrix: Matrix) -> Section:
    rows: list[list[object]] = [[*example_row(line)] for line in matrix.lines]
    return section("What each row trained on", EXAMPLE_NOTE, table(EXAMPLE_HEADS, rows), wide=True)
