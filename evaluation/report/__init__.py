"""The report of a run: ``isogloss report RUN``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.atomic import write_text
from configs.errors import UserError
from evaluation.report.data import read_run
from evaluation.report.markdown import render_markdown
from evaluation.report.page import render_html

FORMATS = ("html", "md")


def render_report(run: Path, compare: Sequence[Path] = (), format: str = "html") -> str:
    """The report as text.

    Args:
        run: A run folder, finished or not.
        compare: Others to show beside it.
        format: "html" or "md".

    Raises:
        UserError: An unknown format, or a run that cannot be read.
    """
    if format not in FORMATS:
        raise UserError(f"--format {format}: unknown; use {' or '.join(FORMATS)}")
    render = render_html if format == "html" else render_markdown
    return render(read_run(run), [read_run(other) for other in compare])


def write_report(run_dir: Path, compare: Sequence[Path] = (), out: Path | None = None) -> Path:
    """Write ``report.html`` into the run folder (or ``out``) atomically; returns where it is."""
    path = out or run_dir / "report.html"
    text = render_report(run_dir, compare)
    try:
        return write_text(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); name another file with --out") from error
