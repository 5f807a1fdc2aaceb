"""Adding up the terms of a reward (``reward.kind: terms``): scales over groups or a round, weights, means. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

from configs.reward import RewardConfig, TermsReward
from rollout.records import CandidateKey, Score

PART = "term."  # a term's own value among a score's ``parts`` is ``term.<name>``
_EPSILON = 1e-4  # beside a standard deviation, as in TRL


def weighted_sum(reward: TermsReward, values: Mapping[str, float]) -> float:
    """The sum of the terms as they are, each times its weight."""
    return math.fsum(weight * values[name] for name, (weight, _) in reward.weighted.items())


def combined(
    reward: RewardConfig, scores: Sequence[Score], copies: Mapping[CandidateKey, int] | None = None
) -> Sequence[Score]:
    """The scores of a round with each term on the scale that ``normalise`` asks for; as given for every other kind.

    ``group``: ``z = (r - mean) / (std + 1e-4)`` over the answers to one prompt in one language, each term by itself,
    before they are added up (GDPO, arXiv 2601.05242, section 3.1; TRL's ``normalize_then_sum``); GDPO's last step, the
    scale of the sum over the batch, is the learner's (``learner.advantage: batch_z``). ``batch``: the same over all
    answers of the round. The standard deviation is the sample's (n - 1).

    Args:
        reward: Of the run.
        scores: All of a round.
        copies: How often an answer was drawn, where its equals were left out as duplicates; else once.
    """
    if not isinstance(reward, TermsReward) or all(scale == "none" for _, scale in reward.weighted.values()):
        return scores
    sums = [0.0] * len(scores)
    for name, (weight, scale) in reward.weighted.items():
        values = [score.parts[PART + name] for score in scores]
        if scale != "none":
            values = _normalised(scores, values, _group if scale == "group" else _round, copies or {})
        sums = [total + weight * value for total, value in zip(sums, values, strict=True)]
    return [replace(score, reward=total) for score, total in zip(scores, sums, strict=True)]


def _group(key: CandidateKey) -> Hashable:
    return key.round, key.prompt_id, key.language


def _round(key: CandidateKey) -> Hashable:
    return key.round


def _normalised(
    scores: Sequence[Score],
    values: Sequence[float],
    place: Callable[[CandidateKey], Hashable],
    copies: Mapping[CandidateKey, int],
) -> list[float]:
    members: dict[Hashable, list[tuple[float, int]]] = {}
    for score, value in zip(scores, values, strict=True):
        members.setdefault(place(score.key), []).append((value, copies.get(score.key, 1)))
    scales = {name: _mean_and_deviation(found) for name, found in members.items()}
    return [
        (value - scales[place(score.key)][0]) / (scales[place(score.key)][1] + _EPSILON)
        for score, value in zip(scores, values, strict=True)
    ]


def _mean_and_deviation(values: Sequence[tuple[float, int]]) -> tuple[float, float]:
    count = sum(times for _, times in values)
    mean = math.fsum(value * times for value, times in values) / count
    squares = math.fsum(times * (value - mean) ** 2 for value, times in values)
    return mean, math.sqrt(squares / (count - 1)) if count > 1 else 0.0


def term_means(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Term -> language -> mean of its own value, before scale and weight; empty for a reward without terms."""
    found: dict[str, dict[str, list[float]]] = {}
    for score in scores:
        for name, value in score.parts.items():
            if name.startswith(PART):
                found.setdefault(name.removeprefix(PART), {}).setdefault(score.key.language, []).append(value)
    return {
        name: {code: math.fsum(values) / len(values) for code, values in sorted(rows.items())}
        for name, rows in sorted(found.items())
    }
