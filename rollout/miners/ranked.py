"""Miners that go by the reward alone. Pure."""

from __future__ import annotations

import math

from rollout.miners.group import Choice, Found, Miner, PromptGroup, numbered


def best_worst(per_prompt: int = 1, min_margin: float = 0.0) -> Miner:
    """Highest against lowest reward of each prompt (ICR, arXiv 2503.04647), gated and deduplicated by the caller.

    The released code lets truncated candidates compete, and falls back to the first one where all are above the bound.

    Args:
        per_prompt: Pairs a prompt at most: the second is that of the second highest and the second lowest, and so on.
        min_margin: Smallest difference of a pair; equal rewards never make one.
    """

    def mine(group: PromptGroup) -> Found:
        highest, lowest = _eligible(group), sorted(range(len(group.rewards)), key=lambda i: (group.rewards[i], i))
        return _paired(group, highest, lowest, per_prompt, min_margin)

    return mine


def target(per_prompt: int = 1, min_margin: float = 0.0, deviations: float = 2.0) -> Miner:
    """Highest reward against the one nearest to mean - ``deviations`` standard deviations (arXiv 2605.26293).

    With many samples the very worst answer is broken, and easy to tell from a good one; this one is merely weak.

    Args:
        per_prompt: As of :func:`best_worst`; the second pair takes the second nearest.
        min_margin: As of :func:`best_worst`.
        deviations: Of the rewards of a prompt's candidates (divided by their number, not by one less).
    """

    def mine(group: PromptGroup) -> Found:
        rewards = group.rewards
        mean = math.fsum(rewards) / len(rewards)
        spread = math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards) / len(rewards))
        aim = mean - deviations * spread
        nearest = sorted(range(len(rewards)), key=lambda i: (abs(rewards[i] - aim), i))
        return _paired(group, _eligible(group), nearest, per_prompt, min_margin)

    return mine


def _eligible(group: PromptGroup) -> list[int]:
    """Candidates that may be chosen, the best first; of equals the first."""
    bound = math.inf if group.bound is None else group.bound
    barred = group.barred or (False,) * len(group.rewards)
    allowed = [i for i, reward in enumerate(group.rewards) if reward < bound and not barred[i]]
    return sorted(allowed, key=lambda i: (-group.rewards[i], i))


def _paired(group: PromptGroup, chosen: list[int], rejected: list[int], most: int, min_margin: float) -> Found:
    choices: list[Choice] = []
    for place, (high, low) in enumerate(zip(chosen[:most], rejected[:most], strict=False)):
        margin = group.rewards[high] - group.rewards[low]
        if margin <= 0 or margin < min_margin:
            break
        choices.append(Choice(high, low, numbered(place, most)))
    if choices:
        return Found(tuple(choices))
    highest = max(range(len(group.rewards)), key=group.rewards.__getitem__)
    if group.bound is not None and group.rewards[highest] >= group.bound:
        return Found(refused={"above_bound": 1})
    return Found(refused={"below_floor" if group.barred and group.barred[highest] else "no_margin": 1})
