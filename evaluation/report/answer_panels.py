"""The report's panels about candidates: what was answered in training, in which language, what the gates let pass."""

from __future__ import annotations

from evaluation.report import charts, figures
from evaluation.report.blocks import Absent, Section, chart, section, table
from evaluation.report.data import RunData
from evaluation.report.markup import Markup, el


def training(run: RunData) -> list[Section | Absent]:
    """What the sampled training answers say by themselves: with held-out prompts or without."""
    found = figures.training_answers(run)
    title = "Training answers by language"
    if not found.answers:
        return [Absent(title, figures.NEEDS_CANDIDATES)]
    panels = [
        ("Training answers in the right language", "Of the decided ones, per cent.", found.right_language, " %"),
        ("Length of training answers", "Mean characters.", found.length, ""),
        (
            "Repetition in training answers",
            "Share of an answer's pieces of twelve characters that it has earlier too, per cent, mean over at most 400 "
            "answers of a round and language. An answer that loops is near 100.",
            found.repetition,
            " %",
        ),
    ]
    out: list[Section | Absent] = [
        section(
            title,
            "Answers sampled for training, before any gate; figures of the first and of the last round.",
            table(figures.TRAINING_HEADS, figures.training_rows(found)),
            wide=True,
        )
    ]
    for name, note, curves, unit in panels:
        if curves:
            out.append(section(name, note, charts.lines(curves, unit, run.languages)))
        else:
            out.append(Absent(name, "answers whose language the detector decides"))
    return out


def terms(run: RunData) -> list[Section]:
    """The terms of the reward by language, a chart a term; nothing for a reward without terms."""
    found = figures.term_curves(run)
    if not found:
        return []
    parts: list[object] = []
    for name, curves in found.items():
        parts += chart(name, "", charts.lines(curves, "", run.languages), curves)
    note = "Mean over the scored answers of a round, before scale and weight."
    return [section("Terms of the reward", note, *parts)]


def gates(run: RunData) -> Section | Absent:
    """Candidates by the first gate they failed."""
    totals = figures.gate_totals(run)
    if not totals:
        return Absent("Gates by language", figures.NEEDS_CANDIDATES)
    names = [gate for gate in figures.GATES if any(gate in row for row in totals.values())]
    names += sorted({gate for row in totals.values() for gate in row} - set(names))
    return section(
        "Gates by language",
        "Candidates of all rounds by the first gate they failed; duplicates repeat another candidate of their prompt.",
        charts.legend(names),
        charts.bars(totals, " candidates", True, names),
        table(
            ["language", *names], [[code, *(f"{row.get(n, 0):,.0f}" for n in names)] for code, row in totals.items()]
        ),
    )


def lengths(run: RunData) -> Section | Absent:
    """Length of the mined pairs' two sides."""
    sides = ["chosen", "rejected"]
    lengths = figures.pair_lengths(run)
    if not lengths:
        return Absent("Length of chosen and rejected", "a finished round with mined pairs")
    return section(
        "Length of chosen and rejected",
        "Mean characters over the mined pairs of all rounds. A gap means that length is being rewarded.",
        charts.legend(sides),
        charts.bars(lengths, "", False, sides),
    )


def confusion(run: RunData) -> Section | Absent:
    """The table of language asked by language answered."""
    found, columns = figures.confusion_totals(run)
    if not found:
        return Absent("Language asked and language answered", figures.NEEDS_CANDIDATES)
    rows: list[Markup] = []
    for asked, row in found.items():
        total = sum(row.values())
        cells = [
            el(
                "td",
                f"{100 * row[name] / total:.1f}" if row.get(name) else "·",
                title=f"asked {asked}, answered {name}: {row.get(name, 0):,} of {total:,}",
                style=f"background:rgba(var(--heat),{0.75 * (row.get(name, 0) / total) ** 0.5:.2f})",
            )
            for name in columns
        ]
        rows.append(el("tr", el("td", asked), *cells))
    head = el("tr", el("th", "asked"), *(el("th", name) for name in columns))
    return section(
        "Language asked and language answered",
        "Sampled training answers of all rounds, per cent of a row. und: none of the run's languages; unsure: too "
        "short or undecided.",
        el("div", el("table", head, *rows, class_="heat"), class_="scroll"),
    )
