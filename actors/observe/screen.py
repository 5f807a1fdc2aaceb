"""What a person sees: the plan, progress within a stage, one line a round, the table at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from actors.machine.findings import Finding
from actors.observe.rates import Rates
from actors.plan.fit import Placed, by_node, place
from actors.plan.placement import PlacementPlan
from configs.json_types import JsonObject
from evaluation.heldout import HeldoutResult
from evaluation.judged import verdicts, win_figures
from rollout.records import Candidate

LINE_EVERY_S = 30.0  # where there is no terminal

# Without markup: paths, lists and names of languages hold brackets, and mean them. What is to be bold is a ``Text``.
_terminal = Console(highlight=False, markup=False, emoji=False)
# A log file has no width of its own; rich would take 80 columns and cut the tables.
console = _terminal if _terminal.is_terminal else Console(highlight=False, markup=False, emoji=False, width=130)


def print_plan(plan: PlacementPlan) -> None:
    """The placement plan of ``--dry-run``."""
    table = Table(title="Placement", title_justify="left")
    for column in ("actors", "count", "CPUs each", "GPUs each", "CPUs", "GPUs"):
        table.add_column(column, justify="left" if column == "actors" else "right")
    for name, *numbers in plan.rows():
        table.add_row(name, *(f"{number:g}" for number in numbers))
    console.print(table)


def print_turns(turns: Sequence[tuple[str, str, str]]) -> None:
    """Which stage has what when, for ``--dry-run``."""
    table = Table(title="Stages", title_justify="left")
    for column in ("stage", "works with", "meanwhile"):
        table.add_column(column)
    for row in turns:
        table.add_row(*row)
    console.print(table)


def print_nodes(plan: PlacementPlan, nodes: Mapping[str, Mapping[str, float]]) -> list[Placed]:
    """Which process goes to which node of ``--dry-run --cluster``; returns that.

    Raises:
        UserError: A process finds none.
    """
    placed = place(plan, nodes)
    table = Table(title="Nodes", title_justify="left")
    for column in ("node", "processes", "CPUs", "GPUs"):
        table.add_column(column, justify="right" if column.endswith("s") and column != "processes" else "left")
    for row in by_node(placed, nodes, plan):
        table.add_row(*row)
    console.print(table)
    return placed


def print_findings(findings: Sequence[Finding]) -> None:
    """The table of ``isogloss doctor``: each check, how it is, and the cure."""
    table = Table(title="This machine", title_justify="left")
    for column in ("checked", "is", "found", "cure"):
        table.add_column(column, overflow="fold", no_wrap=column in ("checked", "is"))
    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for finding in findings:
        cells = (finding.subject, finding.level, finding.found, finding.cure)
        style = styles[finding.level]
        table.add_row(*(Text(cell, style=style if index == 1 else "") for index, cell in enumerate(cells)))
    console.print(table)


def print_memory(rows: Sequence[tuple[str, ...]]) -> None:
    """What each process keeps on a GPU, from ``gpu_memory.check_memory``."""
    table = Table(title="Memory of each GPU, GiB (activations are not counted)", title_justify="left")
    for column in ("processes", "of which", "counted", "there is"):
        table.add_column(column, justify="right" if column in ("counted", "there is") else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


@dataclass
class StageProgress:
    """Steps of one stage and its pace: a bar on a terminal, now and then a line elsewhere.

    Attributes:
        say: Where lines go; None where a bar shows it, or nothing is to be shown.
        rates: What is done so far.
    """

    title: str
    rates: Rates
    say: Callable[[str], None] | None = None
    bar: tuple[Progress, TaskID] | None = None
    told: float = 0.0

    def total(self, steps: int) -> None:
        """How many steps there are."""
        self.rates.total = steps
        self._show()

    def resumed(self, steps: int) -> None:
        """Done before this process began."""
        self.rates.before += steps
        self.advance(steps)

    def advance(self, steps: int) -> None:
        """More steps are done."""
        self.rates.steps += steps
        self._show()

    def sampled(self, candidates: Sequence[Candidate]) -> None:
        """These came back."""
        self.rates.candidates += len(candidates)
        self.rates.tokens += sum(len(candidate.token_ids) for candidate in candidates)
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        if self.bar is not None:
            progress, task = self.bar
            progress.update(task, total=self.rates.total, completed=self.rates.steps, pace=self.rates.text(now))
        elif self.say is not None and now - self.told >= LINE_EVERY_S and self.rates.steps:
            self.told = now
            self.say(f"{self.title}: {self.rates.text(now)}")


class Screen:
    """Progress bars on a terminal; a line a stage where the output is a file or a job's log.

    Args:
        quiet: Show nothing of the kind, because what is printed is to be read by a program.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._started = time.monotonic()
        self._quiet = quiet

    def say(self, *parts: str | Text) -> None:
        """One line, with the time since the start; every character of a string is shown as it is."""
        if self._quiet:
            return
        # Unwrapped: commands and paths in it are there to be copied.
        since = Text(f"{time.monotonic() - self._started:6.1f}s", style="dim")
        console.print(Text.assemble(since, "  ", *parts), soft_wrap=True)

    def result(self, text: str) -> None:
        """The line at the end, which is shown in any case."""
        if self._quiet:
            console.print(text, soft_wrap=True)
        else:
            self.say(text)

    def note(self, text: str) -> None:
        """One line where the output is a file or a job's log; a terminal shows progress instead."""
        if not console.is_terminal:
            self.say(text)

    @contextmanager
    def stage(self, title: str) -> Iterator[StageProgress]:
        """Shows progress within a stage on a terminal; says when it began elsewhere."""
        now = time.monotonic()
        if self._quiet or not console.is_terminal:
            self.say(title)
            yield StageProgress(title, Rates(now), None if self._quiet else self.say, told=now)
            return
        told = TextColumn("         {task.description}", markup=False)
        pace = TextColumn("{task.fields[pace]}", markup=False)
        with Progress(told, BarColumn(), pace, TimeElapsedColumn(), console=console, transient=True) as progress:
            yield StageProgress(title, Rates(now), bar=(progress, progress.add_task(title, total=None, pace="")))

    def evaluation_line(self, version: int, result: HeldoutResult, languages: Sequence[str]) -> None:
        """Mean accuracy of an evaluation over some languages."""
        others = [row for code, row in result.languages.items() if code in languages]
        columns = {
            "greedy accuracy": [row.accuracy_greedy for row in others],
            "sampled": [row.accuracy_sampled for row in others],
            "right language": [row.right_language for row in others],
        }
        known = {name: [value for value in values if value is not None] for name, values in columns.items()}
        figures = [f"{name} {100 * sum(values) / len(values):.1f}%" for name, values in known.items() if values]
        if (won := win_figures(verdicts(result, languages))) is not None and won["win_rate"] is not None:
            low, high = won["ci95"]
            figures.append(f"judged against the start {won['win_rate']:.1f}% [{low:.1f}, {high:.1f}]")
        self.say(f"held-out, weights v{version}, mean of the others: {', '.join(figures) or 'no gold answers'}")

    def round_line(self, row: JsonObject) -> None:
        """One line a round, from its ``metrics.jsonl`` row."""
        counts, learner, seconds = row["counts"], row["learner"], row["seconds"]
        gated = counts["candidates"] - counts["passed_gates"]
        pairs = f"{counts['pairs']} pairs + {counts['anchors']} anchors"
        trained = f"{counts['groups']} sample groups" if counts["groups"] else pairs
        rewards = (
            f"reward accuracy {learner['reward_accuracy']:.2f}"
            if "reward_accuracy" in learner
            else f"reward {learner['reward_mean']:.3f}"
        )
        self.say(
            _bold(f"round {row['round']}"),
            f"  {counts['candidates']} candidates ({gated} gated)  "
            f"{trained}  "
            f"{_loss(learner)}  "
            f"{rewards}  "
            f"weights v{row['weight_version']}  {seconds['wall']:.0f}s",
        )

    def offline_line(self, row: JsonObject, rounds: int) -> None:
        """One line a round of an offline run, from its ``metrics.jsonl`` row."""
        counts, learner, seconds = row["counts"], row["learner"], row["seconds"]
        self.say(
            _bold(f"round {row['round']} of {rounds}"),
            f"  {counts['pairs']} pairs  {learner['steps']} steps  "
            f"{_loss(learner)}  "
            f"reward accuracy {learner['reward_accuracy']:.2f}  {seconds['wall']:.0f}s",
        )

    def table(self, summary: JsonObject, names: dict[str, str]) -> None:
        """Before and after, by language."""
        if self._quiet:
            return
        table = Table(title="Held-out prompts, before and after", title_justify="left")
        table.add_column("language")
        for column in ("greedy", "after", "change", "95% interval", "sampled", "after", "right lang.", "after"):
            table.add_column(column, justify="right")
        for code, row in summary["languages"].items():
            start, end = row["start"], row["end"]
            greedy = _change(start["accuracy_greedy"], end["accuracy_greedy"], row["greedy_delta_ci95"])
            more = [*_both(start, end, "accuracy_sampled"), *_both(start, end, "right_language")]
            table.add_row(f"{names[code]} ({code})", *greedy, *more)
        table.add_section()
        for key, title in (("non_english_mean", "mean of the others"), ("unseen_mean", "mean of the unseen")):
            if key in summary:
                mean = summary[key]
                greedy = _change(mean["greedy"]["start"], mean["greedy"]["end"], mean["greedy"]["delta_ci95"])
                table.add_row(_bold(title), *greedy, _percent(mean["start"]), _percent(mean["end"]), "", "")
        console.print(table)
        self._wins(summary, names)

    def _wins(self, summary: JsonObject, names: dict[str, str]) -> None:
        """Win rates against the start, where a judge compared the answers."""
        rates = {f"{names[code]} ({code})": row["end"].get("win_rate") for code, row in summary["languages"].items()}
        for key, title in (("non_english_mean", "mean of the others"), ("unseen_mean", "mean of the unseen")):
            rates[title] = summary.get(key, {}).get("win_rate")
        found = {name: rate for name, rate in rates.items() if rate is not None}
        if not found:
            return
        table = Table(title="Greedy answers judged against those of the start", title_justify="left")
        table.add_column("language")
        for column in ("win rate, %", "95% interval", "wins", "ties", "losses", "failed"):
            table.add_column(column, justify="right")
        for name, rate in found.items():
            interval = "-" if rate["ci95"] is None else "[{:.1f}, {:.1f}]".format(*rate["ci95"])
            value = "-" if rate["win_rate"] is None else f"{rate['win_rate']:.1f}"
            table.add_row(name, value, interval, *(str(rate[count]) for count in ("wins", "ties", "losses", "failed")))
        console.print(table)


def _bold(text: str) -> Text:
    return Text(text, style="bold")


def _change(before: float | None, after: float | None, interval: Sequence[float] | None) -> list[str | Text]:
    if before is None or after is None or interval is None:
        return [_percent(before), _percent(after), "-", "-"]
    low, high = interval
    colour = "green" if low > 0 else "red" if high < 0 else "default"
    change = Text(f"{100 * (after - before):+.1f}", style=colour)
    return [_percent(before), _percent(after), change, f"[{100 * low:+.1f}, {100 * high:+.1f}]"]


def _both(start: JsonObject, end: JsonObject, key: str) -> list[str]:
    return [_percent(start[key]), _percent(end[key])]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _loss(learner: JsonObject) -> str:
    """Means over passes, which hold the same examples: single steps differ by what they hold."""
    if "loss_first_pass" not in learner:  # a round that an earlier version trained
        return f"loss {learner['first_loss']:.3f} in the first step, {learner['last_loss']:.3f} in the last"
    first, last = learner["loss_first_pass"], learner["loss_last_pass"]
    if learner["passes"] == 1:
        return f"mean loss {first:.3f} (one pass)"
    return f"mean loss {first:.3f} in the first pass, {last:.3f} in the last"
