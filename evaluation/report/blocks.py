"""What pages are put together from: the page itself, sections that close up where there is nothing, tables, tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from evaluation.report.assets import STYLE
from evaluation.report.markup import Markup, el

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True, slots=True)
class Section:
    """A panel of the page; ``wide`` ones take both columns."""

    title: str
    note: str
    content: tuple[object, ...]
    wide: bool = False

    def markup(self) -> Markup:
        """As HTML."""
        head = (el("h2", self.title), el("p", self.note, class_="note") if self.note else "")
        return el("section", *head, *self.content, class_="wide" if self.wide else None)


@dataclass(frozen=True, slots=True)
class Absent:
    """A panel that has nothing to show, and what would fill it."""

    title: str
    needs: str


def section(title: str, note: str, *content: object, wide: bool = False) -> Section:
    """A panel."""
    return Section(title, note, content, wide)


def arranged(sections: Sequence[Section]) -> list[Markup]:
    """Sections as HTML; a narrow one that would stand alone in its row takes all of it."""
    out: list[Section] = []
    column = 0
    for place, one in enumerate(sections):
        alone = column == 0 and (place + 1 == len(sections) or sections[place + 1].wide)
        kept = replace(one, wide=True) if alone and not one.wide else one
        column = 0 if kept.wide else 1 - column
        out.append(kept)
    return [one.markup() for one in out]


def chart(head: str, note: str, drawn: Markup, data: object) -> list[object]:
    """A chart below a head of its own; nothing where there is no data."""
    if not data:
        return []
    return [*([el("h3", head)] if head else []), *([el("p", note, class_="note")] if note else []), drawn]


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """A table that scrolls sideways by itself."""
    head = el("tr", *(el("th", name) for name in heads))
    body = (el("tr", *(el("td", cell) for cell in row)) for row in rows)
    return el("div", el("table", head, *body), class_="scroll")


def tile(value: object, label: str) -> Markup:
    """A large value over its label."""
    return el("div", el("b", value), el("span", label), class_="tile")


def document(title: str, *body: Markup) -> str:
    """A whole page in the report's style that loads nothing."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("title", title),
        el("style", Markup(STYLE)),
    )
    return f"<!DOCTYPE html>\n{el('html', head, el('body', *body), lang='en')}\n"
