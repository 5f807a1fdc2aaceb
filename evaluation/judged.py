"""Held-out answers of a run under a judge (``evaluation.judge``): win rates of a version against the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from configs.json_types import JsonObject
from evaluation.heldout import HeldoutResult, LanguageResult
from evaluation.winrate import BASELINE, Comparison, win_rate

Key = tuple[str, str]  # (language, prompt id)


def answers_of(result: HeldoutResult) -> dict[Key, str]:
    """The greedy answers of an evaluation, where it kept them."""
    return {
        (code, row.id): row.answer
        for code, language in result.languages.items()
        for row in language.prompts
        if row.answer is not None
    }


def with_preferences(result: HeldoutResult, found: Mapping[Key, tuple[float | None, bool]]) -> HeldoutResult:
    """An evaluation with what a judge said of it.

    Args:
        result: The evaluation.
        found: By prompt: 1 where its answer is better than that of the start, 0 where it is worse, 0.5 for a tie, None
            where the judge failed; and whether the verdict depended on the order of the answers.
    """
    languages = {
        code: replace(
            language,
            prompts=tuple(
                replace(row, judged=True, preference=found[code, row.id][0], inconsistent=found[code, row.id][1])
                if (code, row.id) in found
                else row
                for row in language.prompts
            ),
        )
        for code, language in result.languages.items()
    }
    return replace(result, languages=languages)


def verdicts(result: HeldoutResult, languages: Sequence[str]) -> list[Comparison]:
    """The judge's verdicts in some languages, the failed ones among them."""
    return [verdict for code in languages if code in result.languages
            for verdict in language_verdicts(code, result.languages[code])]  # fmt: skip


def win_figures(found: Sequence[Comparison]) -> JsonObject | None:
    """A win rate in per cent with its 95 % interval, as ``summary.json`` has it; None without verdicts.

    The same figures as those of ``isogloss eval``: of several languages the mean of their win rates; the interval is
    Wilson's where every verdict is one yes or no, else a bootstrap that draws prompts with all their languages.
    """
    if not found:
        return None
    figures = asdict(win_rate(found))
    exact, drawn = figures.pop("wilson95"), figures.pop("ci95")
    interval = exact if exact is not None else drawn
    return {**figures, "ci95": None if interval is None else list(interval)}


def language_verdicts(code: str, language: LanguageResult) -> list[Comparison]:
    """Those of one language."""
    return [
        Comparison(
            row.id,
            code,
            None if row.preference is None else BASELINE + row.preference,
            inconsistent=row.inconsistent,
        )
        for row in language.prompts
        if row.judged
    ]
