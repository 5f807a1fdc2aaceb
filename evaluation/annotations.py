"""A folder of annotation files, one model each, as a table of win rates and length-controlled win rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from configs.errors import UserError
from evaluation.length_controlled import (
    LengthControlled,
    estimate_difficulty,
    length_controlled,
    too_few,
)
from evaluation.winrate import Comparison, NoAnnotations, WinRate, read_annotations, win_rate


def annotation_table(
    models: Sequence[Path],
    others: Path | None,
    language: str,
    resamples: int = 1000,
    say: Callable[[str], None] = print,
) -> list[tuple[str, WinRate, LengthControlled | str]]:
    """Win rate and length-controlled win rate of each model.

    Args:
        models: CSV files (item, preference, baseline_chars, model_chars), one a model, judged against one baseline.
        others: Folder of further such files, used for the items' difficulty only. A model is never used for its own.
            A CSV file of something else is left out, and said.
        language: Of all files.
        resamples: Of the intervals.
        say: Is given a line on each file that was left out.

    Returns:
        (name, win rate, length-controlled win rate or why there is none), in the given order.

    Raises:
        UserError: A file is bad, or two have one name.
    """
    if len({path.stem for path in models}) != len(models):
        raise UserError("two annotation files have the same name; a file's name is its model's")
    verdicts = {path.stem: read_annotations(path, language) for path in models}
    pool = dict(verdicts)
    if others is not None:
        if not others.is_dir():
            raise UserError(f"{others}: no such folder; name one with annotation files of other models")
        for path in sorted(others.glob("*.csv")):
            if path.stem in pool:
                continue
            try:
                pool[path.stem] = read_annotations(path, language)
            except NoAnnotations as error:
                say(f"left out: {error}")
    rows: list[tuple[str, WinRate, LengthControlled | str]] = []
    for name, own in verdicts.items():
        rest = {other: found for other, found in pool.items() if other != name}
        rows.append((name, win_rate(own, resamples), _controlled(own, rest, resamples)))
    return rows


def _controlled(
    own: Sequence[Comparison], others: Mapping[str, Sequence[Comparison]], resamples: int
) -> LengthControlled | str:
    lengths = [v for v in own if None not in (v.preference, v.baseline_chars, v.model_chars)]
    if not lengths:
        return "no length-controlled win rate: no verdict has the lengths of both answers"
    difficulty = estimate_difficulty(others)
    few = too_few(difficulty.models if difficulty else min(len(others), 1))
    if few is not None or difficulty is None:
        return few or ""
    if not any(v.item in difficulty.items for v in lengths):
        return "no length-controlled win rate: no other model was judged on the same items"
    return length_controlled(own, difficulty, resamples)


def render_table(rows: Sequence[tuple[str, WinRate, LengthControlled | str]]) -> str:
    """The table as Markdown, with the counts beside every figure; below it why a figure is missing."""
    heads = "model | win rate, % | 95 % | LC, % | 95 % | items | ties | inconsistent | failed | difficulty from"
    lines = [f"| {heads} |", "| --- |" + " ---: |" * 9]
    missing: dict[str, list[str]] = {}
    for name, rate, found in rows:
        controlled = found if isinstance(found, LengthControlled) else None
        if isinstance(found, str):
            missing.setdefault(found, []).append(name)
        cells = [
            name.replace("|", r"\|"),
            _figure(rate.win_rate),
            _interval(rate.ci95),
            _figure(controlled.win_rate if controlled else None),
            _interval(controlled.ci95 if controlled else None),
            *(str(count) for count in (rate.items, rate.ties, rate.inconsistent, rate.failed)),
            f"{controlled.difficulty_models} models" if controlled else "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"\n{', '.join(names)}: {why}." for why, names in missing.items()]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _interval(bounds: tuple[float, float] | None) -> str:
    return "–" if bounds is None else f"{bounds[0]:.1f} to {bounds[1]:.1f}"
