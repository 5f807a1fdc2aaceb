"""Progress of a judging on a terminal: answers, requests in flight, tokens, cost, time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from judges.records import Usage


@contextmanager
def judging_progress(title: str = "judging", console: Console | None = None) -> Iterator[Callable[[Usage], None]]:
    """A progress bar; what is yielded is the ``watch`` of ``judges.compare``. Where there is no terminal, one line at
    the end says what was done."""
    console = console or Console(highlight=False, markup=False, emoji=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}", markup=False),
        TimeRemainingColumn(),
    )
    last = Usage()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None, said="")

        def watch(usage: Usage) -> None:
            nonlocal last
            last = usage
            said = f"{usage.in_flight} in flight  {describe(usage)}"
            progress.update(task, total=usage.total, completed=usage.done, said=said)

        try:
            yield watch
        finally:
            progress.stop()
            console.print(f"{title}: {last.done} of {last.total} questions, {describe(last)}", markup=False)


def describe(usage: Usage) -> str:
    """Tokens, cost, and what was saved or lost, in a few words."""
    parts = [f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens"]
    if usage.cost is not None:
        parts.append(f"cost {usage.cost:.4f}")
    if usage.cached:
        parts.append(f"{usage.cached} from the cache")
    if usage.failed:
        parts.append(f"{usage.failed} failed")
    return ", ".join(parts)
