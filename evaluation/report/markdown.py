"""The report's tables as Markdown, for a terminal or a pull request."""

from __future__ import annotations

import re
from collections.abc import Sequence

from evaluation.report import figures
from evaluation.report.data import RunData
from evaluation.report.markup import visible
from evaluation.report.wins import HEADS, TITLE, win_rows

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~!])")


def render_markdown(run: RunData, compare: Sequence[RunData] = ()) -> str:
    """Uplift (of every run), gates, lengths, languages and seconds."""
    parts = [f"# {plain(run.name)}"]
    if not run.summary:
        parts.append("Not finished: there is no summary yet.")
    for other in (run, *compare):
        rows = [*figures.uplifts(other), *figures.mean_uplifts(other)]
        if rows:
            title = "Accuracy before and after, %" + (f": {plain(other.name)}" if compare else "")
            cells = [[u.language, f"{u.start:.1f}", f"{u.end:.1f}", f"{u.delta:+.1f}", _bounds(u)] for u in rows]
            parts += [f"## {title}", table(["language", "start", "end", "points", "95 %"], cells)]
    if not figures.uplifts(run):
        parts.append(f"No accuracy before and after: it needs {plain(figures.needs_heldout(run))}.")
    if won := win_rows(run):
        parts += [f"## {TITLE}, greedy answers", table(HEADS, won)]
    parts += _transfer([run, *compare]) if compare else []
    training = figures.training_rows(figures.training_answers(run))
    if training:
        parts += ["## Training answers, first and last round", table(figures.TRAINING_HEADS, training)]
    if terms := figures.term_rows(run):
        parts += ["## Terms of the reward, mean", table(["term", "language", "first round", "last round"], terms)]
    totals = figures.gate_totals(run)
    if totals:
        gates = [gate for gate in figures.GATES if any(gate in row for row in totals.values())]
        cells = [[code, *(f"{row.get(gate, 0):.0f}" for gate in gates)] for code, row in totals.items()]
        parts += ["## Gates, candidates", table(["language", *gates], cells)]
    lengths = figures.pair_lengths(run)
    if lengths:
        cells = [[code, f"{row['chosen']:.1f}", f"{row['rejected']:.1f}"] for code, row in lengths.items()]
        parts += ["## Length of pairs, characters", table(["language", "chosen", "rejected"], cells)]
    confusion, columns = figures.confusion_totals(run)
    if confusion:
        cells = [[code, *(str(row.get(name, 0)) for name in columns)] for code, row in confusion.items()]
        parts += ["## Language asked and answered", table(["asked", *columns], cells)]
    seconds, stages = figures.stage_seconds(run)
    if stages:
        cells = [[label, *(f"{row.get(stage, 0.0):.1f}" for stage in stages)] for label, row in seconds.items()]
        parts += ["## Seconds by stage", table(["round (wall)", *stages], cells)]
    return "\n\n".join(parts) + "\n"


def _transfer(runs: Sequence[RunData]) -> list[str]:
    rows, columns = figures.transfer(runs)
    cells = []
    for run, found in rows:
        trained = run.trained_languages
        line = [f"{run.name} ({', '.join(trained) or 'none'})"]
        for code in columns:
            uplift = found.get(code)
            mark = "" if code in trained or code in figures.MEANS.values() else " °"
            line.append("–" if uplift is None else f"{uplift.delta:+.1f}{mark} ({_bounds(uplift)})")
        cells.append(line)
    if not cells:
        return []
    title = "## Transfer: points by language evaluated (95 %); ° without pairs of its own"
    return [title, table(["run (trained on)", *columns], cells)]


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(visible(text).split()))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table: its first column is text of any kind, the other cells are Markdown already."""
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *([plain(row[0]), *row[1:]] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _bounds(uplift: figures.Uplift) -> str:
    return "" if uplift.low is None or uplift.high is None else f"{uplift.low:+.1f} to {uplift.high:+.1f}"
