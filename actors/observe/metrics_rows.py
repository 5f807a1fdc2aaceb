"""What a round's row in ``metrics.jsonl`` holds, counted from the journal's rows. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from configs.json_types import JsonObject
from learners.metrics import COUNTS, RoundMetrics, StepMetrics, weight
from rollout.gates import gate_counts
from rollout.groups import groups_by_language
from rollout.pairs import MinedPairs
from rollout.plan import translation_counts
from rollout.records import Candidate, Score
from rollout.sources import is_answer
from rollout.terms import term_means


def round_counts(candidates: Sequence[Candidate], scores: Sequence[Score], mined: MinedPairs) -> JsonObject:
    """Counts and means of a round, by language where that says more.

    "candidates" are sampled answers; translations are counted apart, with those that failed.
    """
    answers = [candidate for candidate in candidates if is_answer(candidate.key)]
    return {
        "candidates": len(answers),
        "translations": len(candidates) - len(answers),
        "passed_gates": sum(candidate.gate in ("ok", "duplicate") for candidate in answers),
        "completion_tokens": sum(len(candidate.token_ids) for candidate in candidates),
        "gates": gate_counts(candidates),
        "undecided_language": dict(
            sorted(Counter(a.key.language for a in answers if a.gate == "ok" and a.detected_language is None).items())
        ),
        "translation_outcomes": translation_counts(candidates),
        "scores": len(scores),
        "passed_without_score": sum(candidate.gate == "ok" for candidate in answers) - len(scores) if scores else 0,
        "reward_mean": _reward_means(scores),
        "reward_terms": term_means(scores),
        "pairs": sum(pair.source == "mined" for pair in mined.pairs),
        "replayed": sum(pair.source == "replay" for pair in mined.pairs),
        "anchors": sum(pair.source == "anchor" for pair in mined.pairs),
        "pairs_by_language": dict(sorted(Counter(p.language for p in mined.pairs if p.source == "mined").items())),
        "groups": len(mined.groups),
        "groups_by_language": groups_by_language(mined.groups),
        "refused": mined.counters,
        "pair_lengths": mined.lengths,
        "agreement": mined.agreement,
        "alpha": {code: fit.alpha for code, fit in mined.alphas.items()},
    }


def _reward_means(scores: Sequence[Score]) -> dict[str, float]:
    sums: dict[str, list[float]] = {}
    for score in scores:
        sums.setdefault(score.key.language, []).append(score.reward)
    return {code: sum(values) / len(values) for code, values in sorted(sums.items())}


# Of the figures of a step, those that a round's row holds under these names, where the objective has them.
_FIRST = {"first_loss": "loss", "first_preference_loss": "preference_loss"}
_OVER_THE_LAST_PASS = (
    "reward_accuracy",
    "reward_margin",
    "kl_reference",
    "reward_mean",
    "reward_std",
    "advantage_abs",
    "ratio",
    "clip_fraction",
)


def learner_figures(metrics: RoundMetrics) -> JsonObject:
    """Training of a round: first and last step, first and last pass, by language over the last, every step in short."""
    first, last = metrics.steps[0], metrics.steps[-1]
    opening = [step for step in metrics.steps if step.epoch == first.epoch]
    final = [step for step in metrics.steps if step.epoch == last.epoch]
    return {
        "steps": len(metrics.steps),
        "pairs": metrics.pairs,
        "seconds": metrics.seconds,
        **{name: first.values[figure] for name, figure in _FIRST.items() if figure in first.values},
        "last_loss": last.values["loss"],
        # Steps hold other examples, the last one often few; passes hold the same ones.
        "loss_first_pass": _mean_over(opening, "loss"),
        "loss_last_pass": _mean_over(final, "loss"),
        "passes": len({step.epoch for step in metrics.steps}),
        **{name: _mean_over(final, name) for name in _OVER_THE_LAST_PASS if name in last.values},
        "tokens_per_second": sum(step.tokens for step in metrics.steps) / metrics.seconds,
        "padding_saved": sum(step.padding_saved for step in metrics.steps) / len(metrics.steps),
        "grad_norm_max": max(step.grad_norm for step in metrics.steps),
        "languages": _by_language(final),
        "by_step": [
            {"loss": s.values["loss"], "grad_norm": s.grad_norm, "lr": s.learning_rate, "tokens": s.tokens}
            for s in metrics.steps
        ],
    }


def _mean_over(steps: Sequence[StepMetrics], name: str) -> float:
    return sum(step.values[name] * weight(step.values) for step in steps) / sum(weight(step.values) for step in steps)


def _by_language(steps: Sequence[StepMetrics]) -> dict[str, dict[str, float]]:
    codes = sorted({code for step in steps for code in step.languages})
    out: dict[str, dict[str, float]] = {}
    for code in codes:
        rows = [step.languages[code] for step in steps if code in step.languages]
        weights = sum(weight(row) for row in rows)
        out[code] = {
            name: sum(row[name] for row in rows)
            if name in COUNTS
            else sum(row[name] * weight(row) for row in rows) / weights
            for name in rows[0]
        }
    return out
