"""``isogloss status`` and ``isogloss pairs``: a run's folder in words, read beside the process that writes it."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from configs.errors import UserError
from configs.json_types import JsonMapping
from configs.load import load_run_config
from configs.locks import is_held
from configs.schema import Config
from evaluation.report.data import RunData, fields, number, read_run
from rollout.records import Pair, text_of_turns
from rollout.run_layout import JOURNAL, RUN_LOCK
from rollout.state import action_of
from rollout.store import Store

_DOING = {
    "generate": "sampling answers and scoring them",
    "score": "scoring",
    "pair": "making pairs",
    "reference": "the loss reference's log-probabilities",
    "train": "training",
    "publish": "giving the weights to the rollouts",
}


def status_lines(run: Path, now: float | None = None) -> list[str]:
    """Where a run stands, its last figures and what it waits for.

    Args:
        run: Its folder.
        now: Unix seconds; by default the present.

    Raises:
        UserError: It is no run's folder, or a file in it is damaged.
    """
    data, config = read_run(run), load_run_config(run)
    with Store.read(run / JOURNAL) as store:
        states = store.round_states()
        rounds = max([config.schedule.rounds, *states]) if config.offline.path is None else max(states, default=1)
        current = next((n for n in range(1, rounds + 1) if states.get(n, ("planned", {}))[0] != "done"), None)
        done = {} if current is None else {stage: len(store.done_chunks(current, stage)) for stage in _STAGES}
    running = is_held(run / RUN_LOCK)
    ended = bool(data.summary) and current is None
    lines = [f"{data.name}  ({_kind(config)}; {', '.join(config.languages.codes) or config.languages.dominant})"]
    seconds = (time.time() if now is None else now) - _last_write(run)
    stopped = "not running; isogloss train CONFIG --resume continues it"
    state = "running" if running else "finished" if ended else stopped
    lines.append(f"  state      {state}; last wrote {_ago(seconds)} ago")
    if current is None:
        lines.append(f"  rounds     {rounds} of {rounds} done")
    else:
        reached = states.get(current, ("planned", {}))[0]
        action = action_of(reached, current)  # type: ignore[arg-type]  # the journal's own states
        doing = _DOING[action.kind] if action is not None else "nothing"
        lines.append(f"  rounds     {current - 1} of {rounds} done; round {current} is {reached}")
        chunks = ", ".join(f"{count} chunks {_STAGES[stage]}" for stage, count in done.items() if count)
        lines.append(f"  waits for  {doing}" + (f" ({chunks})" if chunks else ""))
    return [*lines, *_figures(data)]


_STAGES = {"answer": "answered", "translate": "translated", "score": "scored"}


def _kind(config: Config) -> str:
    return f"offline on {config.offline.path}" if config.offline.path is not None else f"reward {config.reward.kind}"


def _last_write(run: Path) -> float:
    found = [0.0]
    for name in ("store.sqlite", "store.sqlite-wal", "metrics.jsonl", "summary.json"):
        with contextlib.suppress(OSError):
            stat = (run / name).stat()
            if stat.st_size:  # a reader makes an empty log
                found.append(stat.st_mtime)
    return max(found)


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _figures(data: RunData) -> Iterator[str]:
    if data.metrics:
        round_number = max(data.metrics)
        row = data.metrics[round_number]
        wanted = (
            ("pairs", number(row, "counts", "pairs"), "{:.0f}"),
            ("candidates", number(row, "counts", "candidates"), "{:.0f}"),
            ("reward accuracy", number(row, "learner", "reward_accuracy"), "{:.2f}"),
            ("mean loss of the last pass", number(row, "learner", "loss_last_pass"), "{:.3f}"),
            ("seconds", number(row, "seconds", "wall"), "{:.0f}"),
        )
        shown = "  ".join(f"{name} {form.format(value)}" for name, value, form in wanted if value is not None)
        yield f"  round {round_number:<5}{shown}"
        if refused := _refused(fields(row, "counts", "gates")):
            yield f"  gated      {refused}"
    for version in sorted(data.evaluations)[-1:]:
        languages = fields(data.evaluations[version], "languages")
        yield f"  held-out   weights v{version}, {heldout_line(languages)}"


def _refused(gates: JsonMapping) -> str:
    """Answers that the gates refused, by language, the most refused first."""
    counts: Counter[str] = Counter()
    for source in gates:
        for code in fields(gates, source):
            by_gate = fields(gates, source, code)
            counts[code] += int(sum(number(by_gate, gate) or 0 for gate in by_gate if gate not in ("ok", "duplicate")))
    return ", ".join(f"{code} {count}" for code, count in counts.most_common() if count)


def heldout_line(languages: JsonMapping) -> str:
    """Accuracy by language; where no prompt has a gold answer, how often the language was right."""
    names: tuple[str, ...] = ("accuracy_greedy", "accuracy_sampled")
    title = "greedy / sampled accuracy"
    if all(number(figures, name) is None for figures in languages.values() for name in names):
        names, title = ("right_language",), "answers in the right language"
    cells = [f"{code} {' / '.join(_percent(number(figures, name)) for name in names)}"
             for code, figures in languages.items()]  # fmt: skip
    return f"{title}, per cent: {', '.join(cells)}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def pair_lines(run: Path, language: str | None, round_number: int | None, count: int) -> list[str]:
    """Pairs of a run to read, as lines: evenly over the round's ids.

    Args:
        run: Its folder.
        language: Only pairs of this one.
        round_number: By default the last that has pairs.
        count: How many.

    Raises:
        UserError: It is no run's folder, or has no such pair: says what there is.
    """
    with Store.read(run / JOURNAL) as store:
        rounds = sorted(store.round_states(), reverse=True)
        found: dict[int, list[Pair]] = {}
        for number_ in rounds if round_number is None else [round_number]:
            if pairs := store.pairs(number_):
                found[number_] = pairs
                break
    if not found:
        there = f"rounds {', '.join(map(str, reversed(rounds)))}" if rounds else "no rounds"
        where = "" if round_number is None else f" in round {round_number}"
        raise UserError(f"{run}: no pairs{where}; the run has {there}")
    ((taken, pairs),) = found.items()
    own = [pair for pair in pairs if language in (None, pair.language)]
    if not own:
        codes = sorted({pair.language for pair in pairs})
        raise UserError(f"--language {language}: round {taken} has no pair in it; there are {', '.join(codes)}")
    step = max(1.0, len(own) / count)
    shown = [own[int(place * step)] for place in range(min(count, len(own)))]
    lines = [f"round {taken}: {len(shown)} of {len(own)} pairs" + ("" if language is None else f" in {language}")]
    for pair in shown:
        lines += [
            "",
            f"{pair.id}  ({pair.source}, {pair.language}, margin {pair.chosen_score - pair.rejected_score:.3g})",
            *_block("prompt", text_of_turns(pair.prompt)),
            *_block("chosen", pair.chosen),
            *_block("rejected", pair.rejected),
        ]
    return lines


def _block(name: str, text: str) -> list[str]:
    """A text under its name; what could steer a terminal is spelt out."""
    lines = [
        "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)
        for line in text.split("\n")
    ]
    return [f"  {name:<9} {line}" if number_ == 0 else f"  {'':<9} {line}" for number_, line in enumerate(lines)]
