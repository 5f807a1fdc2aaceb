"""``summary.json``: what the run did to each language, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.schema import Config
from evaluation.heldout import HeldoutResult, LanguageResult
from evaluation.stats import Delta, paired_bootstrap, wilson
from rollout.seeds import stable_seed


def build_summary(
    config: Config,
    start: HeldoutResult,
    end: HeldoutResult,
    rounds: int,
    wall_seconds: float,
) -> dict[str, Any]:
    """The content of ``summary.json``.

    ``unseen_mean`` is there where ``evaluation.languages`` names languages. Intervals are of the sampled accuracy:
    95 %, paired bootstrap over prompts (``evaluation.stats``). Values that do not exist (no gold answers, no second
    language) are None.

    Args:
        config: The run.
        start: Evaluation of the weights before the first round.
        end: Of the last ones, on the same prompts.
        rounds: Rounds trained.
        wall_seconds: Of the whole run.
    """
    if list(start.languages) != list(end.languages):
        raise ValueError(f"start has languages {list(start.languages)}, end {list(end.languages)}")
    resamples = config.evaluation.bootstrap_samples
    languages: dict[str, Any] = {}
    before: dict[str, NDArray[np.float64]] = {}
    after: dict[str, NDArray[np.float64]] = {}
    for code in (code for code in config.evaluated if code in start.languages):
        one, two = start.languages[code], end.languages[code]
        if [row.id for row in one.prompts] != [row.id for row in two.prompts]:
            raise ValueError(f"language {code}: start and end answered different prompts")
        entry: dict[str, Any] = {"start": language_figures(one), "end": language_figures(two), "delta_ci95": None}
        sampled = _sampled(one), _sampled(two)
        if sampled[0] is not None and sampled[1] is not None:
            before[code], after[code] = sampled[0], sampled[1]
            seed = stable_seed("bootstrap", config.run.seed, code)
            entry["delta_ci95"] = list(paired_bootstrap(before[code], after[code], resamples, seed).ci95)
        languages[code] = entry
    return {
        "languages": languages,
        "non_english_mean": _mean(config, config.languages.others, before, after, "non_english_mean"),
        **_unseen(config, before, after),
        "rounds": rounds,
        "weight_version": end.weight_version,
        "wall_seconds": wall_seconds,
    }


def _unseen(
    config: Config, before: dict[str, NDArray[np.float64]], after: dict[str, NDArray[np.float64]]
) -> dict[str, Any]:
    if not config.evaluation.languages:
        return {}
    return {"unseen_mean": _mean(config, config.evaluation.languages, before, after, "unseen_mean")}


def _mean(
    config: Config,
    languages: Sequence[str],
    before: dict[str, NDArray[np.float64]],
    after: dict[str, NDArray[np.float64]],
    name: str,
) -> dict[str, Any]:
    """The mean over some languages; prompt ids are drawn jointly over them."""
    codes = [code for code in before if code in languages]
    if not codes:
        return {"start": None, "end": None, "delta_ci95": None}
    joint: Delta = paired_bootstrap(
        np.stack([before[code] for code in codes], axis=1),
        np.stack([after[code] for code in codes], axis=1),
        config.evaluation.bootstrap_samples,
        stable_seed("bootstrap", config.run.seed, name),
    )
    return {"start": joint.start, "end": joint.end, "delta_ci95": list(joint.ci95)}


def language_figures(result: LanguageResult) -> dict[str, Any]:
    """One language's figures, without the rows by prompt."""
    figures: dict[str, Any] = {
        "accuracy_sampled": result.accuracy_sampled,
        "accuracy_greedy": result.accuracy_greedy,
        "accuracy_greedy_ci95": None,
        "right_language": result.right_language,
        "undecided_language": result.undecided_language,
        "mean_length": result.mean_length,
        "mean_length_tokens": result.mean_length_tokens,
        "truncated": result.truncated,
    }
    greedy = [row.greedy for row in result.prompts if row.greedy is not None]
    if greedy:
        figures["accuracy_greedy_ci95"] = list(wilson(round(sum(greedy)), len(greedy)))
    return figures


def _sampled(result: LanguageResult) -> NDArray[np.float64] | None:
    values = [row.sampled for row in result.prompts if row.sampled is not None]
    return np.array(values) if values else None
