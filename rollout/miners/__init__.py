"""Miners: how the candidates of a prompt become preference pairs, by name. No method has a code path of its own."""

from __future__ import annotations

from configs.schema import Config
from rollout.miners.by_source import by_source_matched, by_source_ranked
from rollout.miners.group import Choice, Found, Miner, PromptGroup, Slot
from rollout.miners.ranked import best_worst, target
from rollout.sources import parts

__all__ = ["Choice", "Found", "Miner", "PromptGroup", "Slot", "make_miner"]


def make_miner(config: Config, language: str) -> Miner:
    """The miner of a run (``pairs``) for one language; "" where the candidates of all languages are pooled."""
    pairs = config.pairs
    name = config.pairs_miner
    if name == "best_worst":
        return best_worst(pairs.per_prompt, pairs.min_margin)
    if name == "target":
        return target(pairs.per_prompt, pairs.min_margin, pairs.deviations)
    chosen, rejected = (parts(config, language, side) for side in config.pairs_sides)
    if not config.scores:
        return by_source_matched(language, chosen, rejected)
    return by_source_ranked(chosen, rejected, pairs.per_prompt, pairs.min_margin, pairs.require_reward_agreement)
