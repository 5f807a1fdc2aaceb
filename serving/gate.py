"""Whether a new version may be served: a pure function of held-out results."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from configs.serving import GateConfig
from evaluation.heldout import HeldoutResult
from evaluation.stats import paired_bootstrap
from rollout.seeds import stable_seed


@dataclass(frozen=True, slots=True)
class GateDecision:
    """Whether a version may be served, and why.

    Attributes:
        passed: Whether the version may be served.
        reason: Why, in words.
        figures: What was looked at.
    """

    passed: bool
    reason: str
    figures: dict[str, float] = field(default_factory=dict)


def decide(
    gate: GateConfig,
    dominant: str,
    served: HeldoutResult | None,
    new: HeldoutResult | None,
    resamples: int = 2000,
    *,
    seed: int = 0,
) -> GateDecision:
    """Decide on a new version against the one that is served.

    Args:
        gate: What it must pass.
        dominant: Language that does not count for ``heldout`` (it teaches the others).
        served: Held-out results of the served version; None if it was not evaluated.
        new: Of the new version, on the same prompts.
        resamples: Draws of the bootstrap.
        seed: Of the draws.
    """
    if not gate.needs_evaluation:
        return GateDecision(True, "no gate")
    if new is None:
        return GateDecision(False, "it was not evaluated on the held-out prompts")
    figures: dict[str, float] = {}
    if gate.min_right_language is not None:
        rates = {code: row.right_language for code, row in new.languages.items() if row.right_language is not None}
        if not rates:
            return GateDecision(False, "no answer's language was decided")
        worst = min(rates, key=lambda code: rates[code])
        figures["right_language_min"] = rates[worst]
        if rates[worst] < gate.min_right_language:
            return GateDecision(
                False,
                f"right language in {worst}: {rates[worst]:.3f}, below min_right_language {gate.min_right_language:g}",
                figures,
            )
    if gate.kind == "none":
        return GateDecision(True, "right language", figures)
    if served is None:
        return GateDecision(True, "nothing that was evaluated is served yet", figures)
    codes = [code for code in new.languages if code != dominant or len(new.languages) == 1]
    before, after = (_sampled(result, codes) for result in (served, new))
    if before is None or after is None or before.shape != after.shape:
        return GateDecision(False, "served and new version have no held-out accuracy on the same prompts", figures)
    if gate.kind == "win_rate":
        return _win_rate(gate, before, after, figures)
    delta = paired_bootstrap(before, after, resamples, stable_seed("gate", seed))
    low, high = delta.ci95
    figures |= {"served": delta.start, "new": delta.end, "difference_low": low, "difference_high": high}
    text = f"accuracy of the other languages {delta.start:.3f} > {delta.end:.3f}, difference [{low:+.3f}, {high:+.3f}]"
    return GateDecision(high >= 0, text, figures)


def _win_rate(gate: GateConfig, before: np.ndarray, after: np.ndarray, figures: dict[str, float]) -> GateDecision:
    rate = float(np.mean((after > before) + 0.5 * (after == before)))
    text = f"wins {rate:.3f} of the held-out prompts, min_win_rate {gate.min_win_rate:g}"
    return GateDecision(rate >= gate.min_win_rate, text, figures | {"win_rate": rate})


def _sampled(result: HeldoutResult, codes: list[str]) -> np.ndarray | None:
    """Sampled accuracy, (prompts, languages); None where a prompt has none."""
    columns = []
    for code in codes:
        row = result.languages.get(code)
        values = [prompt.sampled for prompt in row.prompts] if row else []
        if not values or any(value is None for value in values):
            return None
        columns.append(values)
    return np.array(columns, dtype=np.float64).T
