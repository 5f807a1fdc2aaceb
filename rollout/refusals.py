"""Why prompts gave no pair, and what a round without any should change. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rollout.records import Score

_KEPT = ("pairs", "groups", "quota", "share", "anchor_pairs", "replayed_pairs")  # counters that are no loss
_MORE = "raise rollout.samples_per_prompt or rollout.temperature"
_CURES = {
    "no_candidates": "no answer passed the gates, which say why",
    "single_candidate": f"one answer alone passed the gates: {_MORE}",
    "equal_text": f"the answers are equal: {_MORE}",
    "no_chosen": f"no answer could be chosen: {_MORE}",
    "no_rejected": f"no answer could be rejected: {_MORE}",
    "above_bound": "all rewards are at or above reward.upper_bound: raise it",
    "below_floor": "pairs.fluency_floor bars the answers with the best reward: lower it",
}


def losses(counters: Mapping[str, int]) -> dict[str, int]:
    """Reason -> prompts, of a language's counters as the miner keeps them."""
    return {reason: count for reason, count in counters.items() if reason not in _KEPT}


def nothing_to_train_on(refused: Mapping[str, Mapping[str, int]], scores: Sequence[Score], min_margin: float) -> str:
    """What the prompts lacked, and the field to change for the commonest lack.

    Args:
        refused: Language -> reason -> prompts, as the miner counted them.
        scores: Of the round.
        min_margin: ``pairs.min_margin``.
    """
    counts: Counter[str] = Counter()
    for reasons in refused.values():
        counts.update(losses(reasons))
    if not counts:
        return "no prompt was mined"
    listed = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    commonest = counts.most_common(1)[0][0]
    cure = _margins(scores, min_margin) if commonest == "no_margin" else _CURES.get(commonest, _MORE)
    return f"prompts refused: {listed}. Mostly {cure}"


def _margins(scores: Sequence[Score], min_margin: float) -> str:
    rewards: dict[tuple[str, str], list[float]] = {}
    for score in scores:
        rewards.setdefault((score.key.prompt_id, score.key.language), []).append(score.reward)
    widest = max((max(values) - min(values) for values in rewards.values()), default=0.0)
    if min_margin == 0:
        return f"the rewards are equal: {_MORE}"
    return (
        f"no two rewards differ by pairs.min_margin ({min_margin:g}; the widest difference is {widest:.3g}): lower it"
    )
