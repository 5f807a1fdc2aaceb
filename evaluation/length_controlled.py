"""Length-controlled win rate: AlpacaEval 2's GLM (Dubois et al. 2024, arXiv 2404.04475), in any language.

The model of a preference is ``logistic(slope * tanh(dlen / sd(dlen)) + weight * difficulty[item] + quality)`` with
``dlen`` the baseline's characters less the model's; the length-controlled win rate is its mean with ``dlen`` 0. The
original's difficulties and its two "gamed" baselines (the baseline told to be short, and to be verbose) are of
English AlpacaEval only. Here both come from the annotations at hand: difficulties of a language are fitted jointly
over several models, and the gamed rows are replaced by what that joint fit expects of an equal model whose answers are
shorter or longer. The original's L1 penalty, chosen by cross-validation, is a small fixed ridge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.winrate import BASELINE, Comparison
from rollout.seeds import stable_seed

Array = NDArray[np.float64]

# Models, the measured one among them, below which no figure is shown: the slope and the difficulties then come from too
# few to hold the fit (docs/evaluation.md has the error by number of models).
LEAST_MODELS = 10

_GAMED_TANH = (0.7, -0.5)  # tanh(dlen / sd) of a told-to-be-short and a told-to-be-verbose baseline
_GAMED_WEIGHT = 0.1  # of each of their rows: the original's 0.2 over two baselines
_GAMED_DIFFICULTY = 0.75  # their weight of difficulty, as a share of a usual model's (so in the published fits)
_RIDGE = 1e-2  # keeps a model that always or never wins finite
_DIFFICULTY_RIDGE = 1.0  # prior of a difficulty: normal, variance 1
# In the joint fit a model's weight of difficulty is pulled to the median one: with few models and hard labels the
# difficulties would otherwise turn into a copy of whichever model they can reproduce best.
_WEIGHT_RIDGE = 50.0
_LEAST_WEIGHT = 0.5
_JOINT_ITERATIONS = 60
_MAX_STEP = 1.5  # of a Newton step, logits
_BLOCK = 256  # resamples fitted at once


@dataclass(frozen=True, slots=True)
class Difficulty:
    """What one language's annotations of several models say about its items.

    Attributes:
        items: Difficulty by item: mean 0, standard deviation 1, higher is *easier to win*.
        slope: Median length slope of the models (negative: the longer answer is preferred).
        weight: Median weight of difficulty.
        models: How many models it was estimated from.
    """

    items: dict[str, float]
    slope: float
    weight: float
    models: int


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """A length-controlled win rate, per cent.

    Attributes:
        win_rate: Mean predicted preference at equal length, over all items of the language with a known difficulty.
        ci95: Percentile bootstrap over items; the difficulties are held fixed. None if not asked for.
        slope: Of tanh(dlen / sd(dlen)).
        weight: Of difficulty; 0 without difficulties.
        quality: The model's own term, logits.
        items: Verdicts fitted.
        left_out: Verdicts that failed, or without lengths, or on an item without difficulty.
        difficulty_models: Models that the difficulties come from; 0 if none were used.
    """

    win_rate: float
    ci95: tuple[float, float] | None
    slope: float
    weight: float
    quality: float
    items: int
    left_out: int
    difficulty_models: int


def too_few(others: int) -> str | None:
    """Why there is no length-controlled win rate with this many other models; None if there are enough."""
    if others + 1 >= LEAST_MODELS:
        return None
    models = f"{others + 1} model{'s' if others else ''}"
    return (
        f"no length-controlled win rate from {models}: it takes at least {LEAST_MODELS} "
        "judged against the same baseline, this one among them, to tell a preference for length from the items' "
        "difficulty; with fewer the figure can be further off than the plain win rate. Name results of other models "
        "(--others)"
    )


def estimate_difficulty(models: Mapping[str, Sequence[Comparison]]) -> Difficulty | None:
    """Fit every item's difficulty jointly over models, in one language.

    Alternates between each model's (slope, weight, quality) and the difficulties, which are standardised: the scale
    that they share with the weights is free.

    Args:
        models: Verdicts by model; the items may differ.

    Returns:
        None with fewer than two models: one model's wins can't be told from its items' difficulty.
    """
    usable = {name: rows for name, rows in models.items() if any(_usable(v) for v in rows)}
    languages = {v.language for rows in usable.values() for v in rows}
    if len(languages) > 1:
        raise ValueError(f"difficulty is estimated for one language at a time, got {sorted(languages)}")
    if len(usable) < 2:
        return None
    names = list(dict.fromkeys(v.item for rows in usable.values() for v in rows if _usable(v)))
    columns = {item: column for column, item in enumerate(names)}
    wins, length, known = (np.zeros((len(usable), len(names))) for _ in range(3))
    for row, verdicts in enumerate(usable.values()):
        kept = [v for v in verdicts if _usable(v)]
        places = [columns[v.item] for v in kept]
        wins[row, places], length[row, places], known[row, places] = _labels(kept), _length_term(kept), 1.0
    easy = _standardised((wins * known).sum(axis=0) / known.sum(axis=0))
    terms = np.zeros((len(usable), 3))
    ridge = np.array([_RIDGE, _WEIGHT_RIDGE, _RIDGE])
    for _ in range(_JOINT_ITERATIONS):
        centre = np.array([0.0, max(_LEAST_WEIGHT, float(np.median(terms[:, 1]))), 0.0])
        for row in range(len(usable)):
            features = np.column_stack([length[row], easy, np.ones(len(names))])
            terms[row] = _fit(
                features, wins[row], known[row][None], terms[row], iterations=3, ridge=ridge, centre=centre
            )[0]
        weight = terms[:, 1:2]
        chance = _logistic(terms[:, :1] * length + weight * easy + terms[:, 2:])
        gradient = (known * (wins - chance) * weight).sum(axis=0) - _DIFFICULTY_RIDGE * easy
        curvature = (known * chance * (1 - chance) * weight**2).sum(axis=0) + _DIFFICULTY_RIDGE
        easy = _standardised(easy + np.clip(gradient / curvature, -_MAX_STEP, _MAX_STEP))
    slope, middle, _ = np.median(terms, axis=0)
    return Difficulty(dict(zip(names, easy.tolist(), strict=True)), float(slope), float(middle), len(usable))


def length_controlled(
    verdicts: Sequence[Comparison], difficulty: Difficulty | None, resamples: int = 0, seed: int = 0
) -> LengthControlled:
    """The length-controlled win rate of one model in one language.

    Args:
        verdicts: Of the model, one language.
        difficulty: Of that language's items. None leaves the term and the gamed rows out: the fit is then a plain
            logistic regression on length, and says so with ``difficulty_models`` 0.
        resamples: Of the interval; 0 for none.
        seed: Of the resamples.

    Raises:
        ValueError: No verdict can be fitted.
    """
    fit = _fitted(verdicts, difficulty)
    interval = None
    if resamples:
        draws = _draws(len(fit.easy), resamples, seed)
        interval = _quantiles(_rates(fit, draws))
    return _result(fit, verdicts, difficulty, interval)


def length_controlled_by_language(
    verdicts: Mapping[str, Sequence[Comparison]],
    difficulties: Mapping[str, Difficulty | None],
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[dict[str, LengthControlled], tuple[float, tuple[float, float]]]:
    """Length-controlled win rates of several languages, and the mean of them.

    The bootstrap draws items, and an item in all its languages at once: a prompt that is hard in one language tends to
    be hard in the others.

    Args:
        verdicts: Of one model, by language.
        difficulties: By language; one that is missing or None leaves the term out there.
        resamples: Of the intervals.
        seed: Of the resamples.

    Returns:
        (by language, (mean of the languages, its 95 % interval)).

    Raises:
        ValueError: A language has no verdict that can be fitted.
    """
    fits = {code: _fitted(rows, difficulties.get(code)) for code, rows in verdicts.items()}
    columns = {item: k for k, item in enumerate(dict.fromkeys(i for fit in fits.values() for i in fit.items))}
    draws = _draws(len(columns), resamples, seed)
    rates = {code: _rates(fit, draws[:, [columns[i] for i in fit.items]]) for code, fit in fits.items()}
    out = {
        code: _result(fit, verdicts[code], difficulties.get(code), _quantiles(rates[code]))
        for code, fit in fits.items()
    }
    mean = sum(result.win_rate for result in out.values()) / len(out)
    return out, (mean, _quantiles(np.mean(list(rates.values()), axis=0)))


@dataclass(frozen=True, slots=True)
class _Fit:
    """One model's regression: the verdicts' rows first, then the gamed ones."""

    items: list[str]
    features: Array
    labels: Array
    weights: Array
    easy: Array
    terms: Array


def _fitted(verdicts: Sequence[Comparison], difficulty: Difficulty | None) -> _Fit:
    kept = [v for v in verdicts if _usable(v) and (difficulty is None or v.item in difficulty.items)]
    if not kept:
        raise ValueError("no verdict with a preference, both lengths and a known item")
    easy = np.array([difficulty.items[v.item] if difficulty else 0.0 for v in kept])
    features = np.column_stack([_length_term(kept), easy, np.ones(len(kept))])
    labels, weights = _labels(kept), np.ones(len(kept))
    if difficulty is not None:
        gamed, gamed_labels = _gamed(difficulty)
        features = np.concatenate([features, gamed])
        labels = np.concatenate([labels, gamed_labels])
        weights = np.concatenate([weights, np.full(len(gamed), _GAMED_WEIGHT)])
    terms = _fit(features, labels, weights[None], np.zeros(3))[0]
    return _Fit([v.item for v in kept], features, labels, weights, easy, terms)


def _result(
    fit: _Fit, verdicts: Sequence[Comparison], difficulty: Difficulty | None, interval: tuple[float, float] | None
) -> LengthControlled:
    # Failed verdicts have items too: the prediction is over every item that was asked, as in the original.
    known = [difficulty.items[v.item] for v in verdicts if v.item in difficulty.items] if difficulty else fit.easy
    terms = fit.terms
    return LengthControlled(
        win_rate=100 * float(_logistic(terms[1] * np.array(known) + terms[2]).mean()),
        ci95=interval,
        slope=float(terms[0]),
        weight=float(terms[1]),
        quality=float(terms[2]),
        items=len(fit.items),
        left_out=len(verdicts) - len(fit.items),
        difficulty_models=difficulty.models if difficulty else 0,
    )


def _draws(items: int, resamples: int, seed: int) -> Array:
    """(resamples, items): how often each item was drawn."""
    rng = np.random.default_rng(stable_seed("length_controlled", seed))
    return rng.multinomial(items, np.full(items, 1 / items), size=resamples).astype(np.float64)


def _rates(fit: _Fit, draws: Array) -> Array:
    """(resamples,): the win rate of each draw, per cent; the difficulties are held fixed."""
    rates: list[Array] = []
    for first in range(0, len(draws), _BLOCK):
        times = draws[first : first + _BLOCK]
        drawn = np.tile(fit.weights, (len(times), 1))
        drawn[:, : len(fit.items)] = times
        terms = _fit(fit.features, fit.labels, drawn, fit.terms, iterations=8)
        predicted = _logistic(terms[:, 1:2] * fit.easy + terms[:, 2:])
        # A draw of several languages may leave one without items; its prediction is then the unweighted mean.
        used = np.where(times.sum(axis=1, keepdims=True) > 0, times, 1.0)
        rates.append(100 * (predicted * used).sum(axis=1) / used.sum(axis=1))
    return np.concatenate(rates)


def _quantiles(rates: Array) -> tuple[float, float]:
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(low), float(high)


def _gamed(difficulty: Difficulty) -> tuple[Array, Array]:
    """Rows of an equal model (no quality term) with shorter and with longer answers than the baseline."""
    easy = np.array(list(difficulty.items.values()))
    rows = [np.column_stack([np.full(len(easy), t), easy, np.zeros(len(easy))]) for t in _GAMED_TANH]
    features = np.concatenate(rows)
    return features, _logistic(features @ np.array([difficulty.slope, _GAMED_DIFFICULTY * difficulty.weight, 0.0]))


def _fit(
    features: Array,
    labels: Array,
    weights: Array,
    start: Array,
    iterations: int = 50,
    *,
    ridge: Array | float = _RIDGE,
    centre: Array | float = 0.0,
) -> Array:
    """Ridge logistic regression on soft labels by Newton's method, one fit for each row of ``weights``.

    Args:
        features: (rows, terms).
        labels: (rows,), 0 to 1.
        weights: (fits, rows).
        start: (terms,).
        iterations: At most.
        ridge: Of each term.
        centre: What the ridge pulls each term to.

    Returns:
        (fits, terms).
    """
    terms = np.tile(start, (len(weights), 1))
    penalty = np.diag(np.broadcast_to(ridge, features.shape[1]))
    outer = np.einsum("ri,rj->rij", features, features).reshape(len(features), -1)
    for _ in range(iterations):
        chance = _logistic(terms @ features.T)
        gradient = (weights * (labels - chance)) @ features - (terms - centre) @ penalty
        hessian = ((weights * chance * (1 - chance)) @ outer).reshape(-1, *penalty.shape) + penalty
        step = np.clip(np.linalg.solve(hessian, gradient[..., None])[..., 0], -_MAX_STEP, _MAX_STEP)
        terms = terms + step
        if np.abs(step).max() < 1e-8:
            break
    return terms


def _usable(verdict: Comparison) -> bool:
    return None not in (verdict.preference, verdict.baseline_chars, verdict.model_chars)


def _labels(verdicts: Sequence[Comparison]) -> Array:
    return np.array([v.preference for v in verdicts], dtype=np.float64) - BASELINE


def _length_term(verdicts: Sequence[Comparison]) -> Array:
    """tanh of the length difference in its own standard deviations; 0 if the difference never varies."""
    difference = np.array([(v.baseline_chars or 0) - (v.model_chars or 0) for v in verdicts], dtype=np.float64)
    spread = difference.std(ddof=1) if len(difference) > 1 else 0.0
    return np.tanh(difference / spread) if spread else np.zeros(len(difference))


def _standardised(values: Array) -> Array:
    spread = values.std()
    return (values - values.mean()) / spread if spread else np.zeros(len(values))


def _logistic(values: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(values, -35, 35)))
