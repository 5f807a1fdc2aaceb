"""The miner that goes by where answers come from: those of some sources are chosen, those of others rejected. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rollout.miners.group import Choice, Found, Miner, PromptGroup, Slot, numbered, text_compared
from rollout.sources import Part


def by_source_ranked(
    chosen: Sequence[Part],
    rejected: Sequence[Part],
    per_prompt: int = 1,
    min_margin: float = 0.0,
    require_agreement: bool = False,
) -> Miner:
    """The best answer of the chosen sources against the worst of the rejected ones, by reward.

    The sources decide the sides, the reward only picks among a side's answers; where it does not prefer the chosen one
    the pair is counted as disagreeing, and left out if agreement is required.

    Args:
        chosen: Where chosen answers come from.
        rejected: Where rejected answers come from.
        per_prompt: Pairs a prompt at most, the second of second best and second worst, and so on.
        min_margin: Smallest difference of a pair, where agreement is required.
        require_agreement: Leave out pairs whose rejected answer has the same reward or a higher one.
    """
    ours, theirs = ({(part.source, part.origin) for part in side} for side in (chosen, rejected))

    def mine(group: PromptGroup) -> Found:
        if group.blocked is not None:
            return Found(refused={group.blocked: 1})
        rewards = group.rewards
        bound = float("inf") if group.bound is None else group.bound
        good = [i for i, slot in enumerate(group.slots) if slot[:2] in ours]
        best = sorted((i for i in good if rewards[i] < bound), key=lambda i: (-rewards[i], i))
        worst = sorted((i for i, s in enumerate(group.slots) if s[:2] in theirs), key=lambda i: (rewards[i], i))
        if not good or not worst:
            return Found(refused={"no_chosen" if not good else "no_rejected": 1})
        if not best:
            return Found(refused={"above_bound": 1})
        choices: list[Choice] = []
        refused: Counter[str] = Counter()
        compared = disagreeing = 0
        for place, (high, low) in enumerate(zip(best[:per_prompt], worst[:per_prompt], strict=False)):
            if text_compared(group.candidates[high]) == text_compared(group.candidates[low]):
                refused["equal_text"] += 1
                continue
            margin = rewards[high] - rewards[low]
            compared += 1
            disagreeing += margin <= 0
            if require_agreement and (margin <= 0 or margin < min_margin):
                refused["reward_disagrees" if margin <= 0 else "no_margin"] += 1
                continue
            choices.append(Choice(high, low, numbered(place, per_prompt)))
        return Found(tuple(choices), dict(refused), compared, disagreeing)

    return mine


def by_source_matched(language: str, chosen: Sequence[Part], rejected: Sequence[Part]) -> Miner:
    """Every answer of the chosen sources against that of the same sample of the rejected ones; no reward is looked at.

    This is LIDR (arXiv 2410.08964) where answers that were first given in the dominant language are chosen and those
    first given in others rejected: an answer and its translation have the same sample. The released code keeps the
    dominant language's pairs with the last other language only; here all are kept.

    Args:
        language: Of the pairs.
        chosen: Where chosen answers come from.
        rejected: Where rejected answers come from.
    """
    matches = [(good, bad) for good in chosen for bad in rejected]
    expected = sum(min(good.samples, bad.samples) for good, bad in matches)

    def mine(group: PromptGroup) -> Found:
        if group.blocked is not None:
            return Found(refused={group.blocked: expected})
        places = {slot: place for place, slot in enumerate(group.slots)}
        choices: list[Choice] = []
        refused: Counter[str] = Counter()
        for good, bad in matches:
            seen: set[tuple[str, str]] = set()
            other = next((part.origin for part in (bad, good) if part.origin != language), language)
            for sample in range(min(good.samples, bad.samples)):
                sides = [places.get(Slot(part.source, part.origin, sample)) for part in (good, bad)]
                if (missing := _missing(good, bad, sides)) is not None:
                    refused[missing] += 1
                    continue
                high, low = (place for place in sides if place is not None)
                texts = text_compared(group.candidates[high]), text_compared(group.candidates[low])
                if texts[0] == texts[1]:
                    refused["equal_text"] += 1
                elif texts in seen:
                    refused["equal_pair"] += 1
                else:
                    seen.add(texts)
                    choices.append(Choice(high, low, f"{_named(good, bad)}/{other}/{sample:03d}"))
        return Found(tuple(choices), dict(refused))

    return mine


def _missing(good: Part, bad: Part, places: Sequence[int | None]) -> str | None:
    """What a pair lacks, an answer before a translation; None if it has both sides."""
    absent = [part for part, place in zip((good, bad), places, strict=True) if place is None]
    if not absent:
        return None
    return "no_translation" if all(part.translated for part in absent) else "no_answer"


def _named(good: Part, bad: Part) -> str:
    """Nothing for the policy and its own translations, else the names, as several sources may meet."""
    names = {good.source, bad.source}
    return "" if names <= {"policy", "translation"} else f"/{good.source}-{bad.source}"
