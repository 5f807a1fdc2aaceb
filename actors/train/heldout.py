"""Held-out evaluation on the rollout actors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actors.runtime.pool import Call, Pool, drain
from configs.schema import Config
from evaluation.heldout import HeldoutResult, heldout_chunks, score_heldout
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
        rollouts: Pool whose actors have ``generate(chunk)``.
        should_stop: Asked several times a second.
        progress: Has ``total(n)`` and ``advance(n)``.
    """
    answers: list[Candidate] = []

    def done(_begin: float, _end: float, candidates: list[Candidate]) -> None:
        answers.extend(candidates)
        progress.advance(1)

    chunks = heldout_chunks(config, prompts, version)
    progress.total(len(chunks))
    for chunk in chunks:
        rollouts.submit(Call(f"generate {chunk.id}", "generate", (chunk,), done))
    drain([rollouts], should_stop)
    detector = LanguageDetector(config.evaluated, config.gates.language_min_chars)
    result = score_heldout(prompts, answers, detector, config.evaluation.temperatures)
    assert result.weight_version == version, f"answers are of v{result.weight_version}, not v{version}"
    return result
