"""How each kind of reward scores candidates: one class a kind, behind the protocol of ``shared``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from actors.reward.custom import LoadedReward, custom_scores
from actors.reward.reward_model import RewardModel, reward_model_scores
from actors.reward.shared import Scored, Scorer, Shared
from actors.reward.terms import TermsScorer, TextScorer
from configs.measures import (
    CustomMeasure,
    JudgeMeasure,
    LogprobMeasure,
    Measure,
    RewardModelMeasure,
    VerifierMeasure,
)
from configs.reward import TermsReward
from configs.schema import Config
from judges import Judge, Usage
from judges.tournament import tournament, tournament_scores
from rollout.records import Candidate
from rollout.rewards import score_requests, verifier_scores
from rollout.sources import scored

PATIENCE = 0.9  # of cluster.call_timeout_s, for what a chunk waits for: time is left to say what was late


class LogprobScorer:
    """Implicit and likelihood: log-probabilities of the run's own models."""

    def __init__(self, shared: Shared, section: str, measure: LogprobMeasure) -> None:
        assert shared.models is not None, "they are loaded where a measure needs them"
        self._shared, self._models, self._measure = shared, shared.models, measure

    def score(self, candidates: Sequence[Candidate]) -> Scored:
        """See ``Scorer``."""
        requests, skipped = score_requests(self._shared.config, self._measure, self._shared.prompts, candidates)
        scores, tokens = self._models.score(requests, self._measure)
        return Scored(scores, skipped, tokens)


class ModelScorer:
    """A reward model's scores."""

    def __init__(self, shared: Shared, section: str, measure: RewardModelMeasure) -> None:
        reward = shared.config.reward
        device = torch.device("cuda" if reward.gpus_per_actor > 0 else "cpu")
        self._config, self._prompts = shared.config, shared.prompts
        self._model = RewardModel(
            measure.model,
            measure.model_dtype,
            reward.tokens_per_micro_batch,
            device,
            shared.config.model.template_date,
            field=f"{section}.model",
            template=measure.chat_template,
            values=measure.chat_template_kwargs,
        )

    def score(self, candidates: Sequence[Candidate]) -> Scored:
        """See ``Scorer``."""
        return Scored(*reward_model_scores(self._model, self._prompts, scored(self._config, candidates)))

    def move(self, here: bool) -> None:
        """See ``RewardModel.move``."""
        self._model.move(here)


class JudgeScorer:
    """A judge's comparisons."""

    def __init__(self, shared: Shared, section: str, measure: JudgeMeasure) -> None:
        config = shared.config
        self._config, self._prompts = config, shared.prompts
        # The driver has asked it before anything started: from now on it is waited for, not mistyped.
        self._judge = Judge(config.judge, judge_cache(config), config.languages.names, reached=True)

    def score(self, candidates: Sequence[Candidate]) -> Scored:
        """See ``Scorer``."""
        items, pairs, skipped = tournament(self._config, self._prompts, candidates)
        seen: list[Usage] = []
        # Before the driver takes this actor for one that hangs, and while there is time to say why.
        deadline = PATIENCE * self._config.cluster.call_timeout_s
        scores, failed = tournament_scores(pairs, self._judge.compare(items, seen.append, deadline))
        return Scored(scores, skipped + failed, usage=seen[-1] if seen else Usage())


class VerifierScorer:
    """Comparison with the gold answer."""

    def __init__(self, shared: Shared, section: str, measure: VerifierMeasure) -> None:
        self._config, self._prompts = shared.config, shared.prompts

    def score(self, candidates: Sequence[Candidate]) -> Scored:
        """See ``Scorer``."""
        return Scored(verifier_scores(self._prompts, scored(self._config, candidates)))


class CustomScorer:
    """A function of the user's own."""

    def __init__(self, shared: Shared, section: str, measure: CustomMeasure) -> None:
        config = shared.config
        self._config, self._prompts = config, shared.prompts
        digest = config.run.plugins.get(f"{section}.function")
        self._reward = LoadedReward.load(section, measure, digest)
        self._seconds = min(measure.timeout_s, PATIENCE * config.cluster.call_timeout_s)

    def score(self, candidates: Sequence[Candidate]) -> Scored:
        """See ``Scorer``."""
        return Scored(*custom_scores(self._reward, self._prompts, scored(self._config, candidates), self._seconds))


def scorer_of(shared: Shared, section: str, measure: Measure) -> Scorer:
    """The scorer of one measure.

    Args:
        shared: What scorers have in common.
        section: The config section of the measure, for messages.
        measure: What is measured.
    """
    match measure:
        case CustomMeasure():
            return CustomScorer(shared, section, measure)
        case JudgeMeasure():
            return JudgeScorer(shared, section, measure)
        case RewardModelMeasure():
            return ModelScorer(shared, section, measure)
        case VerifierMeasure():
            return VerifierScorer(shared, section, measure)
        case _ if isinstance(measure, LogprobMeasure):
            return LogprobScorer(shared, section, measure)
    return TextScorer(shared, section, measure)


def reward_scorer(shared: Shared) -> Scorer | None:
    """The scorer of the run's reward; None where pairs are made without scores (``cross_language``)."""
    reward = shared.config.reward
    if isinstance(reward, TermsReward):
        return TermsScorer(shared, reward, scorer_of)
    return scorer_of(shared, "reward", reward) if isinstance(reward, Measure) else None


def judge_cache(config: Config) -> Path:
    """File of the judge's verdicts of a run."""
    return config.judge.cache or config.run.dir / config.run.name / "judge.sqlite"
