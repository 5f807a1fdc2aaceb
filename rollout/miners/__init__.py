"""Miners: how the candidates of a prompt become preference pairs, by name. No method has a code path of its own."""

from __future__ import annotations

from configs.schema import Config
from rollout.miners.by_source import by_source_matched, by_source_ranked
from rollout.miners.custom import custom, try_miner
from rollout.miners.group import Choice, Found, Miner, PromptGroup, Slot
from rollout.miners.ranked import best_worst, target
from rollout.sources import parts, targets

__all__ = ["Choice", "Found", "Miner", "PromptGroup", "Slot", "make_miner", "pairs_a_prompt", "try_miner"]


def pairs_a_prompt(config: Config, language: str) -> int:
    """Pairs (or sample groups) that a prompt gives in a language where nothing is lost."""
    if config.learner.on_groups:
        return 1
    if config.scores:
        return config.pairs.per_prompt
    chosen, rejected = (parts(config, language, side) for side in config.pairs_sides)
    return max(1, sum(min(good.samples, bad.samples) for good in chosen for bad in rejected))


def make_miner(config: Config, language: str) -> Miner:
    """The miner of a run (``pairs``) for one language; "" where the candidates of all languages are pooled."""
    pairs = config.pairs
    name = config.pairs_miner
    if name == "best_worst":
        return best_worst(pairs.per_prompt, pairs.min_margin)
    if pairs.is_custom and config.scores:
        return custom(config)
    if name == "target":
        return target(pairs.per_prompt, pairs.min_margin, pairs.deviations)
    codes = (language,) if language else targets(config.languages)
    chosen, rejected = ([one for code in codes for one in parts(config, code, side)] for side in config.pairs_sides)
    if not config.scores:
        return by_source_matched(language, chosen, rejected)
    return by_source_ranked(chosen, rejected, pairs.per_prompt, pairs.min_margin, pairs.require_reward_agreement)
