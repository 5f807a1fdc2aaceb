"""Small SVG charts. Colours come from the page's CSS variables, so that both themes work; no script is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.report.markup import Markup, el

WIDTH = 540
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 74, 14, 34
_COLOURS = 8
_DIGIT_WIDTH = 6.4  # of a character of the labels, pixels


@dataclass(frozen=True, slots=True)
class Interval:
    """A labelled value with an optional interval, in the chart's unit."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    series: int = 0


def colour(series: int) -> str:
    """CSS colour of a series; they repeat after eight."""
    return f"var(--s{series % _COLOURS})"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values that span [low, high]."""
    if high <= low:
        high = low + 1
    raw = (high - low) / count
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m for m in (1, 2, 2.5, 5, 10) if m * scale >= raw * 0.999) * scale
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 10) for place in range(first, last + 1)]


def lines(
    series: Mapping[str, Mapping[int, float]], unit: str, order: Sequence[str] = (), x_label: str = "round"
) -> Markup:
    """One line a series over whole numbers, labelled at its end.

    Args:
        series: Name -> x -> y; empty ones are left out.
        unit: Behind the values in the labels, such as " %".
        order: Names in the order of their colours, so that a name keeps its colour over several charts.
        x_label: Under the axis.
    """
    kept = {name: points for name, points in series.items() if points}
    if not kept:
        return _nothing()
    xs = sorted({x for points in kept.values() for x in points})
    values = [y for points in kept.values() for y in points.values()]
    marks = ticks(min(values), max(values))
    height = 260
    span = max(1, xs[-1] - xs[0])

    def place_x(x: float) -> float:
        return _LEFT + (x - xs[0]) / span * (WIDTH - _LEFT - _RIGHT) if xs[-1] > xs[0] else WIDTH / 2

    def place_y(y: float) -> float:
        return height - _BOTTOM - (y - marks[0]) / (marks[-1] - marks[0]) * (height - _TOP - _BOTTOM)

    parts = [_grid_y(place_y(mark), _number(mark)) for mark in marks]
    shown = xs if len(xs) <= 12 else xs[:: math.ceil(len(xs) / 12)]
    parts += [_text(place_x(x), height - _BOTTOM + 16, str(x), "middle") for x in shown]
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, height - 4, x_label, "middle"))
    ends = _spread({name: place_y(points[max(points)]) for name, points in kept.items()}, 13, height - _BOTTOM)
    names = list(dict.fromkeys([*order, *kept]))
    for name, points in kept.items():
        index = names.index(name)
        stroke = colour(index)
        path = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in sorted(points.items()))
        dash = "5 3" if index >= _COLOURS else None
        parts.append(
            el("polyline", points=path, fill="none", style=f"stroke:{stroke}", stroke_width=2, stroke_dasharray=dash)
        )
        for x, y in sorted(points.items()):
            title = el("title", f"{name}, {x_label} {x}: {_number(y)}{unit}")
            parts.append(
                el("circle", title, cx=f"{place_x(x):.1f}", cy=f"{place_y(y):.1f}", r=3.5, style=f"fill:{stroke}")
            )
        parts.append(_text(WIDTH - _RIGHT + 8, ends[name] + 4, name, "start", style=f"fill:{stroke};font-weight:600"))
    return _svg(height, parts)


def intervals(rows: Sequence[Interval], unit: str, zero: bool = True, level: float | None = None) -> Markup:
    """A dot with its interval for each row.

    Args:
        rows: From top to bottom.
        unit: Behind the values.
        zero: Draw a line at 0, and make room for it.
        level: Draw a dashed line there too.
    """
    if not rows:
        return _nothing()
    values = [v for row in rows for v in (row.value, row.low, row.high) if v is not None]
    values += ([0.0] if zero else []) + ([] if level is None else [level])
    marks = ticks(min(values), max(values))
    left = max(_LEFT, 12 + _DIGIT_WIDTH * max(len(row.label) for row in rows))
    right, step = 64, 24
    height = _TOP + step * len(rows) + _BOTTOM

    def place(value: float) -> float:
        return left + (value - marks[0]) / (marks[-1] - marks[0]) * (WIDTH - left - right)

    parts = [_grid_x(place(mark), height, _number(mark), mark == 0) for mark in marks]
    if level is not None:
        x = place(level)
        parts.append(_line(x, _TOP - 6, x, height - _BOTTOM + 2, "stroke:var(--ink2);stroke-dasharray:5 4"))
    for index, row in enumerate(rows):
        y = _TOP + step * (index + 0.5)
        stroke = colour(row.series)
        text = f"{row.value:+.1f}" if zero else _number(row.value)
        parts.append(_text(left - 8, y + 4, row.label, "end"))
        bounds = ""
        if row.low is not None and row.high is not None:
            bounds = f" [{row.low:+.1f}, {row.high:+.1f}]" if zero else f" [{_number(row.low)}, {_number(row.high)}]"
            parts.append(_line(place(row.low), y, place(row.high), y, f"stroke:{stroke};stroke-width:2"))
            parts += [
                _line(place(v), y - 5, place(v), y + 5, f"stroke:{stroke};stroke-width:2") for v in (row.low, row.high)
            ]
        title = el("title", f"{row.label}: {text}{unit}{bounds}")
        parts.append(el("circle", title, cx=f"{place(row.value):.1f}", cy=f"{y:.1f}", r=5, style=f"fill:{stroke}"))
        parts.append(_text(WIDTH - right + 10, y + 4, text, "start", class_="value"))
    return _svg(height, parts)


def bars(rows: Mapping[str, Mapping[str, float]], unit: str, stacked: bool, names: Sequence[str]) -> Markup:
    """Horizontal bars, stacked or one under the other.

    Args:
        rows: Row -> part -> value; values are not negative.
        unit: Behind the values.
        stacked: Put the parts of a row end to end.
        names: The parts in their order: the colours.
    """
    if not rows:
        return _nothing()
    top = max((sum(row.values()) if stacked else max(row.values(), default=0.0)) for row in rows.values())
    marks = ticks(0.0, top or 1.0)
    left = max(_LEFT, 12 + _DIGIT_WIDTH * max(map(len, rows)))
    right = 16 if stacked else 60
    thick, gap = (18, 8) if stacked else (11, 3)
    row_height = thick + gap if stacked else len(names) * (thick + gap) + 8
    height = int(_TOP + row_height * len(rows) + _BOTTOM)

    def place(value: float) -> float:
        return left + value / marks[-1] * (WIDTH - left - right)

    parts = [_grid_x(place(mark), height, _number(mark), mark == 0) for mark in marks]
    for index, (label, row) in enumerate(rows.items()):
        y = _TOP + row_height * index
        parts.append(_text(left - 8, y + (row_height - gap) / 2 + 4, label, "end"))
        reach = 0.0
        for series, name in enumerate(names):
            value = row.get(name, 0.0)
            if not value:
                y += 0 if stacked else thick + gap
                continue
            title = el("title", f"{label}, {name}: {_number(value)}{unit}")
            begin, end = place(reach), place(reach + value)
            parts.append(
                el(
                    "rect", title, x=f"{begin:.1f}", y=f"{y:.1f}", width=f"{max(1.0, end - begin - stacked):.1f}",
                    height=thick, rx=2, style=f"fill:{colour(series)}",
                )
            )  # fmt: skip
            if stacked:
                reach += value
            else:
                parts.append(_text(end + 5, y + thick - 2, f"{_number(value)}{unit}", "start", class_="value"))
                y += thick + gap
    return _svg(height, parts)


def timeline(lanes: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], names: Sequence[str]) -> Markup:
    """When each actor did what.

    Args:
        lanes: Actor -> what -> (begin, end), seconds.
        names: All that may be done, in the order of the colours.
    """
    ends = [end for kinds in lanes.values() for spans in kinds.values() for _, end in spans]
    if not ends:
        return _nothing()
    marks = ticks(0.0, max(ends))
    left = max(_LEFT, 12 + _DIGIT_WIDTH * max(map(len, lanes)))
    thick, gap, right = 14, 6, 16
    height = int(_TOP + (thick + gap) * len(lanes) + _BOTTOM)

    def place(value: float) -> float:
        return left + value / marks[-1] * (WIDTH - left - right)

    parts = [_grid_x(place(mark), height, f"{_number(mark)} s", mark == 0) for mark in marks]
    for index, (actor, kinds) in enumerate(lanes.items()):
        y = _TOP + (thick + gap) * index
        parts.append(_text(left - 8, y + thick / 2 + 4, actor, "end"))
        for kind, spans in kinds.items():
            for begin, end in spans:
                title = el("title", f"{actor}, {kind}: {_number(begin)} to {_number(end)} s")
                width = f"{max(0.8, place(end) - place(begin)):.1f}"
                style = f"fill:{colour(names.index(kind))}"
                parts.append(el("rect", title, x=f"{place(begin):.1f}", y=y, width=width, height=thick, style=style))
    return _svg(height, parts)


def legend(names: Sequence[str]) -> Markup:
    """Swatches with names, in the order of the colours."""
    items = (el("span", el("i", style=f"background:{colour(k)}"), name) for k, name in enumerate(names))
    return el("p", *items, class_="legend")


def _spread(places: Mapping[str, float], gap: float, bottom: float) -> dict[str, float]:
    """Labels at these heights, moved apart so that none covers another."""
    order = sorted(places, key=lambda name: places[name])
    out: dict[str, float] = {}
    last = -math.inf
    for name in order:
        last = max(places[name], last + gap)
        out[name] = last
    limit = bottom + gap
    for name in reversed(order):
        out[name] = limit = min(out[name], limit - gap)
    return out


def _number(value: float) -> str:
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if abs(value) < 100 else 0
    text = f"{value:,.{min(digits, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _nothing() -> Markup:
    return el("p", "Nothing recorded.", class_="note")


def _svg(height: float, parts: Sequence[object]) -> Markup:
    drawing = el("svg", *parts, viewBox=f"0 0 {WIDTH} {height}", role="img")
    return el("div", drawing, class_="chart")


def _text(x: float, y: float, text: str, anchor: str, style: str | None = None, *, class_: str | None = None) -> Markup:
    return el("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, style=style, class_=class_)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return el("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", style=style)


def _grid_y(y: float, label: str) -> Markup:
    line = _line(_LEFT, y, WIDTH - _RIGHT, y, "stroke:var(--grid)")
    return Markup(line + _text(_LEFT - 8, y + 4, label, "end"))


def _grid_x(x: float, height: float, label: str, strong: bool) -> Markup:
    line = _line(x, _TOP - 6, x, height - _BOTTOM + 2, f"stroke:var({'--ink2' if strong else '--grid'})")
    return Markup(line + _text(x, height - _BOTTOM + 18, label, "middle"))
