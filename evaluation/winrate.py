"""Win rates from pairwise preferences, by language and over all, with intervals clustered by prompt."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from configs.reading import read_text, shown
from evaluation.stats import wilson
from rollout.seeds import stable_seed

BASELINE, TIE, MODEL = 1.0, 1.5, 2.0
_BLOCK = 4_000_000  # resampled counts held at once: 32 MB
_COLUMNS = ("item", "preference", "baseline_chars", "model_chars")


class NoAnnotations(UserError):
    """A CSV file of something else."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a judge said of one item in one language.

    Attributes:
        item: Joins the verdict with those on the same prompt in other languages.
        language: BCP-47 code.
        preference: 1 for the baseline, 2 for the model, 1.5 for a tie, in between by the label's probability
            (AlpacaEval 2); None if the judge failed.
        baseline_chars: Length of the baseline's answer, characters; None if it is not known.
        model_chars: Length of the model's answer.
        inconsistent: The two orders of the answers disagreed; its preference is then a tie.
    """

    item: str
    language: str
    preference: float | None
    baseline_chars: int | None = None
    model_chars: int | None = None
    inconsistent: bool = False

    def __post_init__(self) -> None:
        if self.preference is not None and not BASELINE <= self.preference <= MODEL:
            raise ValueError(f"item {self.item}: preference {self.preference} is not from 1 to 2")


@dataclass(frozen=True, slots=True)
class WinRate:
    """A win rate in per cent and what it was made from.

    Attributes:
        win_rate: 100 times the mean of (preference - 1) over the verdicts that did not fail; for several languages
            the mean of the languages' win rates. None if every verdict failed.
        ci95: Percentile bootstrap over items (all languages of an item are drawn together).
        wilson95: Wilson's interval; None unless every preference is 1 or 2 and each item occurs once.
        items: Verdicts that count, ties among them.
        wins: Verdicts above 1.5.
        ties: Verdicts of exactly 1.5, inconsistent ones among them.
        losses: Verdicts below 1.5.
        inconsistent: Verdicts that depended on the order of the answers.
        failed: Verdicts without a preference; they count nowhere else.
    """

    win_rate: float | None
    ci95: tuple[float, float] | None
    wilson95: tuple[float, float] | None
    items: int
    wins: int
    ties: int
    losses: int
    inconsistent: int
    failed: int


def win_rate(verdicts: Sequence[Comparison], resamples: int = 2000, seed: int = 0) -> WinRate:
    """The win rate over all given verdicts, of one language or of several.

    Raises:
        ValueError: There are none, or an item occurs twice in a language.
    """
    if not verdicts:
        raise ValueError("no verdicts")
    if len({(v.item, v.language) for v in verdicts}) != len(verdicts):
        raise ValueError("an item occurs twice in one language")
    preferences = [v.preference for v in verdicts if v.preference is not None]
    rate: float | None = None
    interval: tuple[float, float] | None = None
    exact: tuple[float, float] | None = None
    wins = sum(p > TIE for p in preferences)
    if preferences:
        values = _matrix(verdicts)
        rate = 100 * float(np.nanmean(values, axis=0).mean())
        interval = clustered_interval(100 * values, resamples, stable_seed("win_rate", seed))
        if values.shape[1] == 1 and all(p in (BASELINE, MODEL) for p in preferences):
            low, high = wilson(wins, len(preferences))
            exact = (100 * low, 100 * high)
    return WinRate(
        win_rate=rate,
        ci95=interval,
        wilson95=exact,
        items=len(preferences),
        wins=wins,
        ties=sum(p == TIE for p in preferences),
        losses=sum(p < TIE for p in preferences),
        inconsistent=sum(v.inconsistent for v in verdicts),
        failed=len(verdicts) - len(preferences),
    )


def win_rates(
    verdicts: Sequence[Comparison], resamples: int = 2000, seed: int = 0
) -> tuple[dict[str, WinRate], WinRate]:
    """(by language, over all languages) of :func:`win_rate`."""
    groups = by_language(verdicts)
    return {code: win_rate(rows, resamples, seed) for code, rows in groups.items()}, win_rate(verdicts, resamples, seed)


def by_language(verdicts: Iterable[Comparison]) -> dict[str, list[Comparison]]:
    """Verdicts by language, sorted by code."""
    groups: dict[str, list[Comparison]] = {}
    for verdict in verdicts:
        groups.setdefault(verdict.language, []).append(verdict)
    return dict(sorted(groups.items()))


def clustered_interval(
    values: NDArray[np.float64], resamples: int, seed: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap of the mean of column means; rows are the clusters that are drawn.

    Args:
        values: (clusters, columns), NaN where a cluster has no value in a column. A draw without any value in a
            column leaves that column out of its mean.
        resamples: Draws.
        seed: Of the draws.
        confidence: Of the interval.
    """
    known = ~np.isnan(values)
    return ratio_interval(np.where(known, values, 0.0), known.astype(np.float64), resamples, seed, confidence)


def ratio_interval(
    sums: NDArray[np.float64], counts: NDArray[np.float64], resamples: int, seed: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap of the mean over columns of (sum of a column / its count); rows are the clusters drawn.

    Args:
        sums: (clusters, columns), such as the right lines of a prompt's answer in each language.
        counts: (clusters, columns), such as its lines; 0 where there is nothing.
        resamples: Draws. One without any count in a column leaves that column out of its mean.
        seed: Of the draws.
        confidence: Of the interval.
    """
    clusters = len(sums)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _BLOCK // clusters)
    for first in range(0, resamples, step):
        count = min(step, resamples - first)
        times = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=count).astype(np.float64)
        below = times @ counts
        shares = np.divide(times @ sums, below, out=np.zeros_like(below), where=below > 0)
        columns = (below > 0).sum(axis=1)
        means[first : first + count] = np.where(columns > 0, shares.sum(axis=1) / np.maximum(columns, 1), np.nan)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _matrix(verdicts: Sequence[Comparison]) -> NDArray[np.float64]:
    """(items, languages) of preference - 1; only items and languages with at least one verdict that counts."""
    known = [v for v in verdicts if v.preference is not None]
    rows = {item: row for row, item in enumerate(dict.fromkeys(v.item for v in known))}
    columns = {code: column for column, code in enumerate(sorted({v.language for v in known}))}
    values = np.full((len(rows), len(columns)), np.nan)
    for verdict in known:
        if verdict.preference is not None:
            values[rows[verdict.item], columns[verdict.language]] = verdict.preference - BASELINE
    return values


def merge_orders(first: float | None, second: float | None) -> tuple[float | None, bool]:
    """One preference from a judge asked in both orders.

    Args:
        first: Preference (1 baseline to 2 model) with the baseline shown first; None if that call failed.
        second: The same with the model shown first, already turned back to 1 = baseline.

    Returns:
        (preference, inconsistent). The mean of the two; a tie, and inconsistent, if they name different winners; None
        if either call failed, since one order alone carries the judge's position bias.
    """
    if first is None or second is None:
        return None, False
    if (first - TIE) * (second - TIE) < 0:
        return TIE, True
    return (first + second) / 2, False


def read_annotations(path: Path, language: str) -> list[Comparison]:
    """Read a CSV file with the columns item, preference, baseline_chars and model_chars.

    An empty preference is a failed verdict. 0 is a tie, as AlpacaEval writes it.

    Raises:
        NoAnnotations: The file holds something else.
        UserError: The file cannot be read, or a line has a bad or repeated value; names file:line.
    """
    text = read_text(path, "annotations", "name a CSV file of annotations")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    verdicts: dict[str, Comparison] = {}
    try:
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise NoAnnotations(f"{path}:1: column {missing[0]} is missing; the columns are {', '.join(_COLUMNS)}")
        for row in reader:
            where = f"{path}:{reader.line_num}"
            verdict = _verdict(row, language, where)
            if verdict.item in verdicts:
                raise UserError(f"{where}: item {shown(verdict.item)} occurs twice; keep one of them")
            verdicts[verdict.item] = verdict
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not valid CSV ({error}); write the file again") from None
    if not verdicts:
        raise UserError(f"{path}: no annotations in it; leave it out")
    return list(verdicts.values())


def _verdict(row: Mapping[str, str | None], language: str, where: str) -> Comparison:
    item = (row["item"] or "").strip()
    if not item:
        raise UserError(f"{where}: item is empty")
    preference = _number(row, "preference", where)
    if preference == 0:
        preference = TIE
    if preference is not None and not BASELINE <= preference <= MODEL:
        raise UserError(f"{where}: preference is {preference}; it goes from 1 (baseline) to 2 (model)")
    return Comparison(
        item, language, preference, _length(row, "baseline_chars", where), _length(row, "model_chars", where)
    )


def _length(row: Mapping[str, str | None], name: str, where: str) -> int | None:
    value = _number(row, name, where)
    if value is not None and not 0 <= value < math.inf:
        raise UserError(f"{where}: {name} is {value}; a length is a number of characters, 0 or more")
    return None if value is None else int(value)


def _number(row: Mapping[str, str | None], name: str, where: str) -> float | None:
    text = (row[name] or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{where}: {name} is '{shown(text)}' instead of a number") from None
    if math.isnan(value):
        return None
    return value
