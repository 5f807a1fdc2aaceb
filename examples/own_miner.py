"""A miner of your own: the best answer against the next one that is worse by enough, for pairs that are hard to tell.

isogloss train demo pairs.miner=own_miner:nearest "pairs.options={least: 0.5}"
"""

from __future__ import annotations


def nearest(group, *, least=0.1):
    """Pairs as (chosen, rejected) places in group.candidates; see rollout.miners.custom.MinerFunction."""
    best, *others = sorted(range(len(group.candidates)), key=lambda place: -group.rewards[place])
    worse = [place for place in others if group.rewards[best] - group.rewards[place] >= least]
    return [(best, worse[0])] if worse else []
