"""Held-out evaluation on the rollout actors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actors.runtime.pool import Call, Pool, drain
from configs.schema import Config
from evaluation.heldout import HeldoutResult, heldout_chunks, score_heldout
from evaluation.summary import language_figures
from rollout.feeds import deal
from rollout.language import LanguageDetector
from rollout.prompts import PromptSet
from rollout.records import Candidate


def evaluate(
    config: Config,
    prompts: PromptSet,
    version: int,
    rollouts: Pool,
    should_stop: Callable[[], bool],
    progress: Any,
) -> HeldoutResult:
    """Sample answers to all held-out prompts with the weights that the rollout actors hold, and score them.

    Args:
        config: The run.
        prompts: Held-out prompts.
        version: Weight version that must have answered.
        rollouts: Pool whose actors have ``generate(chunks)``.
        should_stop: Asked several times a second.
        progress: Has ``total(n)`` and ``advance(n)``.
    """
    answered: dict[str, list[Candidate]] = {}

    def done(_begin: float, _end: float, found: tuple[str, list[Candidate]]) -> None:
        answered[found[0]] = found[1]
        progress.advance(1)

    chunks = heldout_chunks(config, prompts, version)
    progress.total(len(chunks))
    for feed in deal(config.rollout, chunks):
        rollouts.submit(Call(f"generate {feed[0].id}", "generate", (feed,), done, streams=True))
    drain([rollouts], should_stop)
    answers = [candidate for chunk in chunks for candidate in answered[chunk.id]]
    detector = LanguageDetector(config.evaluated, config.gates.language_min_chars)
    result = score_heldout(prompts, answers, detector, config.evaluation.temperatures)
    assert result.weight_version == version, f"answers are of v{result.weight_version}, not v{version}"
    return result


def shown_figures(result: HeldoutResult) -> dict[str, Any]:
    """What ``metrics.jsonl`` holds of an evaluation: the figures by language, not those by prompt."""
    return {code: language_figures(row) for code, row in result.languages.items()}
