"""Intervals: the paired bootstrap over prompts, clusters of them and runs, and Wilson's for a share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

_BLOCK = 4_000_000  # resampled indices held at once: 32 MB


@dataclass(frozen=True, slots=True)
class Delta:
    """Means before and after, their difference, and its percentile interval."""

    start: float
    end: float
    delta: float
    ci95: tuple[float, float]


def paired_bootstrap(
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    resamples: int,
    seed: int,
    confidence: float = 0.95,
) -> Delta:
    """Difference of means of two systems on the same prompts (Efron and Tibshirani 1993, percentile interval).

    The prompt is the unit that is drawn: its samples and, in the second axis, its languages stay together, since a
    prompt that is hard in one language tends to be hard in the others.

    Args:
        start: (prompts,) or (prompts, languages): a prompt's mean over its samples.
        end: The same shape, the same prompts in the same order.
        resamples: Bootstrap draws.
        seed: Of the draws.
        confidence: Of the interval.

    Returns:
        In the unit of the arguments. With one prompt the interval has no width.
    """
    if start.shape != end.shape or start.shape[0] == 0:
        raise ValueError(f"paired values of shapes {start.shape} and {end.shape}")
    difference = (end - start).reshape(len(start), -1).mean(axis=1)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _BLOCK // len(difference))
    for first in range(0, resamples, step):
        count = min(step, resamples - first)
        drawn = rng.integers(0, len(difference), size=(count, len(difference)))
        means[first : first + count] = difference[drawn].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Delta(float(start.mean()), float(end.mean()), float(difference.mean()), (float(low), float(high)))


@dataclass(frozen=True, slots=True)
class Clustered:
    """Paired values of one language: the same prompts before and after, and the cluster that each belongs to."""

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    clusters: tuple[str, ...]


def clustered_bootstrap(languages: Sequence[Clustered], resamples: int, seed: int, confidence: float = 0.95) -> Delta:
    """Mean over languages of the difference of means, with whole clusters drawn (percentile interval).

    Errors come in clusters (here: a language that takes one value for another is wrong about every fact with it), so
    a language's clusters are the units that are drawn, anew for each language.

    Args:
        languages: One or more.
        resamples: Bootstrap draws.
        seed: Of the draws.
        confidence: Of the interval.

    Returns:
        In the unit of the arguments. With one cluster a language the interval has no width.
    """
    rng = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for language in languages:
        if language.start.shape != language.end.shape or len(language.clusters) != len(language.start):
            raise ValueError(f"paired values of {len(language.start)}, {len(language.end)} and clusters do not match")
        names, index = np.unique(np.array(language.clusters), return_inverse=True)
        sums = np.bincount(index, weights=language.end - language.start)
        sizes = np.bincount(index)
        drawn = rng.integers(0, len(names), size=(resamples, len(names)))
        means += sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1) / len(languages)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    start = float(np.mean([language.start.mean() for language in languages]))
    end = float(np.mean([language.end.mean() for language in languages]))
    return Delta(start, end, end - start, (float(low), float(high)))


@dataclass(frozen=True, slots=True)
class Pooled:
    """Values of one language from several runs over the same prompts, such as differences that were paired before."""

    values: NDArray[np.float64]  # (runs, prompts)
    clusters: tuple[str, ...]  # (prompts,)


def pooled_bootstrap(
    languages: Sequence[Pooled], resamples: int, seed: int, confidence: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """Mean over languages of the mean over runs and prompts, and its percentile interval.

    Drawn are whole clusters of prompts, anew for each language (:func:`clustered_bootstrap`), and the runs, the same
    ones for all languages: another seed moves all languages of a run together. With one run the interval is of prompts
    alone.

    Args:
        languages: One or more, each with the same number of runs.
        resamples: Bootstrap draws.
        seed: Of the draws.
        confidence: Of the interval.
    """
    runs = {len(language.values) for language in languages}
    if len(runs) != 1 or 0 in runs:
        raise ValueError(f"languages of {sorted(runs)} runs; each needs the same number, at least one")
    count = runs.pop()
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(count, [1 / count] * count, size=resamples) / count  # (resamples, runs)
    means = np.zeros(resamples)
    for language in languages:
        if language.values.shape[1] != len(language.clusters) or not language.clusters:
            raise ValueError(f"{language.values.shape[1]} values and {len(language.clusters)} clusters do not match")
        names, index = np.unique(np.array(language.clusters), return_inverse=True)
        sums = np.stack([np.bincount(index, weights=row, minlength=len(names)) for row in language.values])
        sizes = np.bincount(index)
        drawn = rng.multinomial(len(names), [1 / len(names)] * len(names), size=resamples)  # (resamples, clusters)
        means += ((drawn @ sums.T) * weights).sum(axis=1) / (drawn @ sizes) / len(languages)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(np.mean([language.values.mean() for language in languages])), (float(low), float(high))


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a binomial share (Wilson 1927), without continuity correction.

    Only for independent trials, e.g. the greedy answers of one language; samples of one prompt are not.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes in {trials} trials")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == trials else (centre + half) / scale
    return low, high
