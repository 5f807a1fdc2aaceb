"""What a round's row in ``metrics.jsonl`` holds, counted from the journal's rows. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rollout.gates import gate_counts
from rollout.pairs import MinedPairs
from rollout.plan import translation_counts
from rollout.records import Candidate, Score


def round_counts(candidates: Sequence[Candidate], scores: Sequence[Score], mined: MinedPairs) -> dict[str, Any]:
    """Counts and means of a round, by language where that says more.

    "candidates" are sampled answers; translations are counted apart, with those that failed.
    """
    answers = [candidate for candidate in candidates if candidate.key.source == "policy"]
    return {
        "candidates": len(answers),
        "translations": len(candidates) - len(answers),
        "passed_gates": sum(candidate.gate in ("ok", "duplicate") for candidate in answers),
        "completion_tokens": sum(len(candidate.token_ids) for candidate in candidates),
        "gates": gate_counts(candidates),
        "translation_outcomes": translation_counts(candidates),
        "scores": len(scores),
        "reward_mean": _reward_means(scores),
        "pairs": sum(pair.source == "mined" for pair in mined.pairs),
        "anchors": sum(pair.source == "anchor" for pair in mined.pairs),
        "pairs_by_language": dict(sorted(Counter(p.language for p in mined.pairs if p.source == "mined").items())),
        "refused": mined.counters,
        "pair_lengths": mined.lengths,
        "alpha": {code: fit.alpha for code, fit in mined.alphas.items()},
    }


def _reward_means(scores: Sequence[Score]) -> dict[str, float]:
    sums: dict[str, list[float]] = {}
    for score in scores:
        sums.setdefault(score.key.language, []).append(score.reward)
    return {code: sum(values) / len(values) for code, values in sorted(sums.items())}
