"""``summary.json``: what the run did to each language, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.json_types import JsonObject
from configs.schema import Config
from evaluation.heldout import HeldoutResult, LanguageResult
from evaluation.judged import language_verdicts, verdicts, win_figures
from evaluation.stats import Clustered, Delta, clustered_bootstrap, paired_bootstrap, wilson
from rollout.seeds import stable_seed


def build_summary(
    config: Config,
    start: HeldoutResult,
    end: HeldoutResult,
    rounds: int,
    wall_seconds: float,
) -> JsonObject:
    """The content of ``summary.json``.

    ``unseen_mean`` is there where ``evaluation.languages`` names languages. ``greedy`` and ``greedy_delta_ci95`` are of
    greedy accuracy, with whole clusters of prompts drawn (``prompts.cluster_field``); the other intervals are of the
    accuracy sampled at ``evaluation.temperature``, with prompts drawn. All are 95 %, paired bootstrap
    (``evaluation.stats``). Values that do not exist (no gold answers, no second language) are None. ``win_rate`` (of
    ``end`` and of the means, per cent against the start) is there where ``evaluation.judge`` names a judge.

    Args:
        config: The run.
        start: Evaluation of the weights before the first round.
        end: Of the last ones, on the same prompts.
        rounds: Rounds trained.
        wall_seconds: Of the command; of the last one alone, where the run was stopped and continued.
    """
    if list(start.languages) != list(end.languages):
        raise ValueError(f"start has languages {list(start.languages)}, end {list(end.languages)}")
    resamples = config.evaluation.bootstrap_samples
    languages: JsonObject = {}
    sides: dict[str, _Sides] = {}
    for code in (code for code in config.evaluated if code in start.languages):
        one, two = start.languages[code], end.languages[code]
        if [row.id for row in one.prompts] != [row.id for row in two.prompts]:
            raise ValueError(f"language {code}: start and end answered different prompts")
        entry: JsonObject = {
            "start": language_figures(one),
            "end": language_figures(two),
            "delta_ci95": None,
            "greedy_delta_ci95": None,
        }
        both = _sides(one, two)
        if both is not None:
            sides[code] = both
            seed = stable_seed("bootstrap", config.run.seed, code)
            entry["delta_ci95"] = list(paired_bootstrap(both.before, both.after, resamples, seed).ci95)
            entry["greedy_delta_ci95"] = list(clustered_bootstrap([both.greedy], resamples, seed).ci95)
        languages[code] = entry
    return {
        "languages": languages,
        "non_english_mean": _mean(config, config.languages.others, sides, "non_english_mean", end),
        "unseen_languages": list(config.evaluation.languages),
        **_unseen(config, sides, end),
        "rounds": rounds,
        "weight_version": end.weight_version,
        "wall_seconds": wall_seconds,
    }


@dataclass(frozen=True, slots=True)
class _Sides:
    """One language before and after: sampled accuracy by prompt, (prompts,), and greedy accuracy with its clusters."""

    before: NDArray[np.float64]
    after: NDArray[np.float64]
    greedy: Clustered


def _sides(start: LanguageResult, end: LanguageResult) -> _Sides | None:
    before, after = _sampled(start), _sampled(end)
    if before is None or after is None:
        return None
    clusters = tuple(row.id if row.cluster is None else row.cluster for row in start.prompts if row.sampled is not None)
    return _Sides(before, after, Clustered(_greedy(start), _greedy(end), clusters))


def _greedy(result: LanguageResult) -> NDArray[np.float64]:
    return np.array([row.greedy for row in result.prompts if row.greedy is not None], dtype=np.float64)


def _unseen(config: Config, sides: dict[str, _Sides], end: HeldoutResult) -> JsonObject:
    if not config.evaluation.languages:
        return {}
    return {"unseen_mean": _mean(config, config.evaluation.languages, sides, "unseen_mean", end)}


def _mean(
    config: Config, languages: Sequence[str], sides: dict[str, _Sides], name: str, end: HeldoutResult
) -> JsonObject:
    """The mean over some languages; for sampled accuracy prompt ids are drawn jointly over them."""
    won = win_figures(verdicts(end, languages))
    judged = {} if won is None else {"win_rate": won}
    found = [sides[code] for code in sides if code in languages]
    if not found:
        none = {"start": None, "end": None, "delta_ci95": None}
        return {**none, "greedy": none, **judged}
    resamples, seed = config.evaluation.bootstrap_samples, stable_seed("bootstrap", config.run.seed, name)
    before, after = (np.stack(values, axis=1) for values in zip(*((s.before, s.after) for s in found), strict=True))
    sampled = paired_bootstrap(before, after, resamples, seed)
    greedy = clustered_bootstrap([one.greedy for one in found], resamples, seed)
    return {**_figures(sampled), "greedy": _figures(greedy), **judged}


def _figures(delta: Delta) -> JsonObject:
    return {"start": delta.start, "end": delta.end, "delta_ci95": list(delta.ci95)}


def language_figures(result: LanguageResult) -> JsonObject:
    """One language's figures, without the rows by prompt.

    ``pass_at_k``: share of prompts with a right answer among those sampled. ``best_over_temperature``: the highest
    accuracy among greedy, sampled, and ``evaluation.temperatures``. ``accuracy_greedy_by_group``: by
    ``prompts.group_field``.
    """
    figures: JsonObject = {
        "accuracy_greedy": result.accuracy_greedy,
        "accuracy_greedy_ci95": None,
        "accuracy_sampled": result.accuracy_sampled,
        "pass_at_k": None,
        "accuracy_by_temperature": {},
        "best_over_temperature": None,
        "accuracy_greedy_by_group": {},
        "right_language": result.right_language,
        "undecided_language": result.undecided_language,
        "mean_length": result.mean_length,
        "mean_length_tokens": result.mean_length_tokens,
        "truncated": result.truncated,
        "marked": result.marked,
    }
    if (won := win_figures(language_verdicts("", result))) is not None:
        figures["win_rate"] = won
    rows = [row for row in result.prompts if row.greedy is not None]
    if not rows:
        return figures
    greedy = [row.greedy for row in rows if row.greedy is not None]
    figures["accuracy_greedy_ci95"] = list(wilson(round(sum(greedy)), len(greedy)))
    found = [row.any_sampled for row in rows if row.any_sampled is not None]
    figures["pass_at_k"] = float(np.mean(found)) if found else None
    temperatures = {name: float(np.mean([row.by_temperature[name] for row in rows])) for name in rows[0].by_temperature}
    figures["accuracy_by_temperature"] = temperatures
    known = (result.accuracy_greedy, result.accuracy_sampled, *temperatures.values())
    figures["best_over_temperature"] = max(value for value in known if value is not None)
    for group in sorted({row.group for row in rows if row.group is not None}):
        figures["accuracy_greedy_by_group"][group] = float(np.mean([row.greedy for row in rows if row.group == group]))
    return figures


def _sampled(result: LanguageResult) -> NDArray[np.float64] | None:
    values = [row.sampled for row in result.prompts if row.sampled is not None]
    return np.array(values) if values else None
