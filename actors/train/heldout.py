"""Held-out evaluation on the rollout actors."""

from __future__ import annotations

from collections.abc import Callable

from actors.observe.screen import StageProgress
from actors.plan.preflight import within_evaluation
from actors.runtime.pool import Call, Pool, drain
from actors.runtime.signals import StopRequested
from configs.json_types import JsonObject
from configs.schema import Config, JudgeConfig
from evaluation.heldout import HeldoutResult, heldout_chunks, score_heldout
from evaluation.judged import answers_of, with_preferences
from evaluation.summary import language_figures
from judges import Item, Usage, compare
from rollout.feeds import deal
from rollout.journal import Journal
from rollout.language import LanguageDetector
from rollout.prompts import PromptSet
from rollout.records import Candidate, text_of_turns


def evaluate(
    config: Config,
    prompts: PromptSet,
    version: int,
    rollouts: Pool,
    should_stop: Callable[[], bool],
    *,
    progress: StageProgress,
    store: Journal,
) -> HeldoutResult:
    """Sample answers to all held-out prompts with the weights that the rollout actors hold, and score them.

    With ``evaluation.judge`` the greedy answers are also compared with those of the start.

    Args:
        config: The run.
        prompts: Held-out prompts.
        version: Weight version that must have answered.
        rollouts: Pool whose actors have ``generate(chunks)``.
        should_stop: Asked several times a second.
        progress: Has ``total(n)`` and ``advance(n)``.
        store: The journal, which has the start's evaluation.

    Raises:
        StopRequested: A stop was asked for; verdicts so far are kept.
        UserError: The judge cannot be asked, or too often gave no verdict.
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
    settings, judge = config.evaluation, config.evaluation.judge
    result = score_heldout(
        prompts,
        answers,
        detector,
        temperatures=settings.temperatures,
        keep_answers=judge is not None,
        markers=settings.markers,
    )
    assert result.weight_version == version, f"answers are of v{result.weight_version}, not v{version}"
    if judge is None or version == 0 or (start := store.evaluations().get(0)) is None:
        return result
    return judged(config, judge, prompts, start=HeldoutResult.from_json(start), result=result, should_stop=should_stop)


def judged(
    config: Config,
    judge: JudgeConfig,
    prompts: PromptSet,
    *,
    start: HeldoutResult,
    result: HeldoutResult,
    should_stop: Callable[[], bool],
) -> HeldoutResult:
    """An evaluation with a judge's verdicts on its greedy answers against those of the start.

    Raises:
        StopRequested: A stop was asked for.
        UserError: See ``judges.compare``; names fields of ``evaluation.judge``.
    """
    ours, theirs = answers_of(result), answers_of(start)
    items = [
        Item(name, code, text_of_turns(prompts.get(name, code).turns), ours[code, name], theirs[code, name])
        for code, name in ours
    ]

    def watch(_usage: Usage) -> None:
        if should_stop():
            raise StopRequested

    cache = judge.cache or config.run.dir / ".cache" / "judge.sqlite"  # where `isogloss eval` has its verdicts
    with within_evaluation():
        said = compare(items, judge, cache, names=config.languages.names, watch=watch)
    return with_preferences(result, {(one.language, one.id): (one.preference, one.inconsistent) for one in said})


def shown_figures(result: HeldoutResult) -> JsonObject:
    """What ``metrics.jsonl`` holds of an evaluation: the figures by language, not those by prompt."""
    return {code: language_figures(row) for code, row in result.languages.items()}
