"""Length control of the implicit reward (ICR, arXiv 2503.04647, after DICE): r' = r - alpha * length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.schema import LengthControlConfig

_BLOCK = 1_000_000  # elements of the (alpha, prompt, candidate) array held at once: 8 MB


@dataclass(frozen=True)
class Group:
    """Candidates of one prompt and language, in order of their sample index.

    Attributes:
        rewards: r, in nats for the implicit reward.
        lengths: In characters or tokens.
    """

    rewards: tuple[float, ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Fit:
    """Attributes: alpha (reward per unit of length) and the mean length gap, chosen less rejected, it leaves."""

    alpha: float
    gap: float


def grid(config: LengthControlConfig) -> NDArray[np.float64]:
    """The alphas that are tried, both ends included, as exact decimals."""
    steps = math.floor((config.alpha_max - config.alpha_min) / config.alpha_step + 1e-9)
    return np.round(config.alpha_min + config.alpha_step * np.arange(steps + 1), 10)


def choose(
    rewards: NDArray[np.float64], upper_bound: float | None
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Best and worst candidate of each prompt.

    Args:
        rewards: (..., prompts, candidates), NaN where a prompt has fewer candidates.
        upper_bound: Rewards at or above it can't be chosen; they can still be rejected.

    Returns:
        Index of the best below the bound, of the worst, and whether they are a pair: there is a best, and its
        reward is strictly above the worst one's. Ties go to the first candidate.
    """
    missing = np.isnan(rewards)
    barred = missing if upper_bound is None else missing | (rewards >= upper_bound)
    high = np.where(barred, -np.inf, rewards)
    low = np.where(missing, np.inf, rewards)
    best, worst = high.argmax(axis=-1), low.argmin(axis=-1)
    top = np.take_along_axis(high, best[..., None], axis=-1)[..., 0]
    bottom = np.take_along_axis(low, worst[..., None], axis=-1)[..., 0]
    return best, worst, top > bottom


def fit(groups: Sequence[Group], config: LengthControlConfig, upper_bound: float | None = None) -> Fit:
    """The alpha whose pairs are equally long on average.

    Published: minimise | mean over prompts of (len(argmax r') - len(argmin r')) | on the grid, one alpha a language
    and round. Departures from the released code: candidates that fail a gate are left out by the caller, the fit is
    made under the upper bound that the choice is made under, prompts that give no pair don't count, alpha may be
    negative, and among equals the smallest |alpha| wins (the positive one of two).

    Args:
        groups: One a prompt. Groups of fewer than two candidates are ignored.
        config: Grid.
        upper_bound: On r', chosen side.

    Returns:
        alpha 0 and gap NaN (or the grid's alpha nearest to 0) if no alpha gives any pair.
    """
    alphas = grid(config)
    order = np.lexsort((alphas < 0, np.abs(alphas)))
    alphas = alphas[order]
    usable = [group for group in groups if len(group.rewards) > 1]
    if not usable:
        return Fit(float(alphas[0]), math.nan)
    rewards, lengths = as_arrays(usable)
    gaps = np.full(len(alphas), np.nan)
    step = max(1, _BLOCK // rewards.size)
    for start in range(0, len(alphas), step):
        block = alphas[start : start + step, None, None]
        best, worst, paired = choose(rewards - block * lengths, upper_bound)
        chosen = np.take_along_axis(lengths[None], best[..., None], axis=-1)[..., 0]
        rejected = np.take_along_axis(lengths[None], worst[..., None], axis=-1)[..., 0]
        counts = paired.sum(axis=1)
        total = np.where(paired, chosen - rejected, 0.0).sum(axis=1)
        gaps[start : start + step] = np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    if np.isnan(gaps).all():
        return Fit(float(alphas[0]), math.nan)
    index = int(np.nanargmin(np.abs(gaps)))  # the first of equals, and the order above puts small alphas first
    return Fit(float(alphas[index]), float(gaps[index]))


def as_arrays(groups: Sequence[Group]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rewards and lengths as (prompts, candidates), padded with NaN and 0."""
    width = max(len(group.rewards) for group in groups)
    rewards = np.full((len(groups), width), np.nan)
    lengths = np.zeros((len(groups), width))
    for row, group in enumerate(groups):
        rewards[row, : len(group.rewards)] = group.rewards
        lengths[row, : len(group.lengths)] = group.lengths
    return rewards, lengths
