"""The reward actor: gates, then the scorer of the run's reward."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import ray
from ray.util.placement_group import PlacementGroup

from actors.engine.sync_report import SyncReport
from actors.engine.worker_actor import WorkerActor
from actors.reward.shared import Scored, Shared
from actors.runtime.env import base_env
from actors.runtime.health import Health, SyncError
from actors.runtime.spawn import ActorOptions, absolute_dump, actor_name, spawn
from configs.json_types import JsonObject
from configs.measures import RewardModelMeasure
from configs.reward import ModelReward, TermsReward
from configs.schema import Config
from judges import Usage
from learners.manifest import WeightsManifest
from learners.rendezvous import Rendezvous
from rollout.gates import apply_gates
from rollout.language import LanguageDetector
from rollout.plan import load_untranslated
from rollout.prompts import PromptSet
from rollout.records import Candidate, Score
from rollout.rewards import FLUENCY
from rollout.token_ids import TokenIds

if TYPE_CHECKING:
    from actors.reward.log_ratios import ScoringModels

_SHORT = 100  # characters: of short texts the detector looks at more than of long ones


@dataclass(frozen=True, slots=True)
class ScoredCandidates:
    """What became of candidates.

    Attributes:
        candidates: All that were given, in order, with their gates and detected languages.
        scores: Of those that have one.
        skipped: (language, why) -> answers without a score.
        usage: What a judge was asked for them.
    """

    candidates: list[Candidate]
    scores: list[Score]
    skipped: Counter[tuple[str, str]]
    usage: Usage | None = None


def anchored(config: Config) -> Config:
    """The config with the paths that a reward actor opens made absolute: its working directory is Ray's to choose."""
    run = config.run.model_copy(update={"dir": config.run.dir.absolute()})
    reward, cache = config.reward, config.judge.cache
    if isinstance(reward, ModelReward):
        reward = reward.model_copy(update={"model": reward.model.absolute()})
    elif isinstance(reward, TermsReward):
        terms = {
            name: term.model_copy(update={"model": term.model.absolute()})
            if isinstance(term, RewardModelMeasure)
            else term
            for name, term in reward.terms.items()
        }
        reward = reward.model_copy(update={"terms": terms})
    judge = config.judge.model_copy(update={"cache": cache and cache.absolute()})
    ids = config.candidates.untranslated_ids
    candidates = config.candidates.model_copy(update={"untranslated_ids": ids and ids.absolute()})
    return config.model_copy(update={"run": run, "reward": reward, "judge": judge, "candidates": candidates})


class RewardWorker:
    """What a reward actor does, as a plain class. It loads what its reward needs and nothing else.

    Args:
        config: The run's config, as ``Config.model_dump(mode="json")``.
        prompts: Training prompts.
        policy: Hugging Face folder of the reward policy.
        reference: Hugging Face folder of the reward reference, where the reward needs one.
        version: Weight version of ``policy``.
        name: For messages.
    """

    def __init__(
        self,
        config: JsonObject,
        prompts: PromptSet,
        policy: Path,
        reference: Path | None,
        version: int,
        *,
        name: str = "reward",
    ) -> None:
        # Late: the driver imports this module too, and Transformers' models would cost it seconds.
        from actors.reward.scorers import reward_scorer

        begun = time.perf_counter()
        self._config = Config.model_validate(config)
        self._prompts = prompts
        self._detector = LanguageDetector(self._config.languages.codes, self._config.gates.language_min_chars)
        # Its models are read when they are first asked: not in the first round. With a quota, ids differ by language.
        for code, prompt in {code: prompt for (_, code), prompt in prompts.rows.items()}.items():
            self._detector.detect(prompt.text[:_SHORT], code)
        self._any_language = load_untranslated(self._config)
        reward = self._config.reward
        self._models: ScoringModels | None = None
        if reward.from_logprobs:
            from actors.reward.log_ratios import scoring_models

            self._models = scoring_models(self._config, Path(policy), reference and Path(reference))
        shared = Shared(self._config, prompts, self._detector, self._models)
        self._scorer = reward_scorer(shared)
        self.health = Health(name).loaded(version)
        self._stats: defaultdict[str, float] = defaultdict(float)
        self._stats["start_seconds"] = time.perf_counter() - begun

    def version(self) -> int:
        """Weight version of the reward policy."""
        return self.health.version

    def score(self, candidates: Sequence[Candidate], by_ids: bool = True) -> ScoredCandidates:
        """Gate candidates and score those that pass.

        Args:
            candidates: All candidates of the prompts that they answer (duplicates are found among them), with
                their translations where the reward is measured on those.
            by_ids: Whether log-probabilities are those of the tokens as sampled (``rollout.sources.sampled_ids``).

        Raises:
            IllegalTransition: The actor is STALE.
        """
        self.health = self.health.begin()
        begun = time.perf_counter()
        try:
            judged = apply_gates(self._config.gates, candidates, self._detector, self._any_language)
            self._stats["gate_seconds"] += time.perf_counter() - begun
            asked = judged if by_ids else [replace(one, token_ids=TokenIds()) for one in judged]
            scored = Scored([]) if self._scorer is None else self._scorer.score(asked)
            if self._config.pairs.fluency_floor:
                scored = self._with_fluency(asked, scored)
            self._stats["scored_tokens"] += scored.tokens
        finally:
            self.health = self.health.finish()
        self._stats["judge_seconds"] += time.perf_counter() - begun
        self._stats["judge_calls"] += 1
        self._stats["candidates"] += len(candidates)
        return ScoredCandidates(judged, scored.scores, scored.skipped, scored.usage)

    def _with_fluency(self, candidates: Sequence[Candidate], scored: Scored) -> Scored:
        """The scores with each answer's own likelihood under the prompt that it answers among their parts."""
        assert self._models is not None, "the config is validated"
        answers = {candidate.key: candidate for candidate in candidates}
        keys = [score.key for score in scored.scores]
        asked = [self._prompts.get(key.prompt_id, key.language).turns for key in keys]
        values, tokens = self._models.fluency(asked, [answers[key] for key in keys])
        scores = [
            replace(score, parts={**score.parts, FLUENCY: value})
            for score, value in zip(scored.scores, values, strict=True)
        ]
        return replace(scored, scores=scores, tokens=scored.tokens + tokens)

    def sync(self, manifest: WeightsManifest, weights: list[ray.ObjectRef]) -> SyncReport:
        """Take over published weights, if the reward depends on the current policy.

        Args:
            manifest: What was published.
            weights: One reference to the arrays, in a list so that Ray does not resolve it.

        Raises:
            SyncError: Refused or not proven; the actor is STALE.
        """
        begun = time.perf_counter()
        models = self._models
        if models is None or not self._config.reward.follows_policy or self._holds(manifest.version):
            self.health = self.health.refitted(manifest.version)
            return SyncReport(manifest.version, 0.0, {"total": time.perf_counter() - begun})

        def load(known: bool) -> tuple[float, dict[str, float]]:
            arrays = ray.get(weights[0])
            fetched = time.perf_counter() - begun
            error = models.update(manifest, arrays, known)
            return error, {"fetch": fetched, "load": time.perf_counter() - begun - fetched}

        return self._refit(manifest, load)

    def receive(self, manifest: WeightsManifest, rendezvous: Rendezvous) -> SyncReport:
        """Take over weights that the learner broadcasts; for a reward that depends on the current policy.

        Args:
            manifest: What is published.
            rendezvous: Where, with this actor's seat.

        Raises:
            SyncError: Refused, or not all got them, or not proven; the actor is STALE.
        """
        begun = time.perf_counter()
        models = self._models
        if models is None or self._holds(manifest.version):
            raise SyncError(f"{self.health.name}: takes no weights of version {manifest.version}")

        def load(known: bool) -> tuple[float, dict[str, float]]:
            error = models.receive(manifest, rendezvous, known)
            return error, {"broadcast": time.perf_counter() - begun}

        return self._refit(manifest, load)

    def _holds(self, version: int) -> bool:
        return version == self.health.version and not self.health.reason

    def _refit(self, manifest: WeightsManifest, load: Callable[[bool], tuple[float, dict[str, float]]]) -> SyncReport:
        begun = time.perf_counter()
        try:
            error, seconds = load(not self.health.reason)
        except Exception as failure:
            self.health = self.health.refit_failed(f"update to version {manifest.version} failed: {failure}")
            raise
        self.health = self.health.refitted(manifest.version)
        total = time.perf_counter() - begun
        self._stats["sync_seconds"] += total
        return SyncReport(manifest.version, error, {**seconds, "total": total})

    def turn(self, mine: bool) -> None:
        """Take the GPU, or leave it to another stage (``cluster.colocate``): models then lie in main memory."""
        if self._models is not None:
            self._models.move(mine)
        from actors.reward.scorers import ModelScorer

        if isinstance(self._scorer, ModelScorer):
            self._scorer.move(mine)

    def stats(self) -> dict[str, float]:
        """Counters since the start: seconds, calls and tokens; memory (GiB); process id."""
        memory = psutil.Process().memory_info().rss / 2**30
        return {**self._stats, "process_gib": memory, "version": self.health.version, "pid": os.getpid()}


@ray.remote
class RewardActor(WorkerActor[RewardWorker]):
    """``RewardWorker`` behind Ray."""

    def __init__(
        self,
        config: JsonObject,
        prompts: PromptSet,
        policy: Path,
        reference: Path | None,
        version: int,
        *,
        name: str = "reward",
    ) -> None:
        super().__init__(name, lambda: RewardWorker(config, prompts, policy, reference, version, name=name))

    def score(self, candidates: Sequence[Candidate], by_ids: bool = True) -> tuple[float, float, ScoredCandidates]:
        """See ``RewardWorker.score``; with when it began and ended (Unix seconds)."""
        return self._start.timed(lambda worker: worker.score(candidates, by_ids))


def create_reward_actor(
    config: Config,
    prompts: PromptSet | ray.ObjectRef,
    policy: Path,
    reference: Path | None,
    version: int,
    *,
    index: int,
    group: PlacementGroup | None = None,
) -> ray.actor.ActorHandle:
    """Start a reward actor; wait for it with ``call(actor.ready.remote(), ...)``.

    Args:
        config: The run.
        prompts: Training prompts, or a reference to them.
        policy: Folder of the reward policy: ``model.policy``, or the checkpoint of ``version``.
        reference: Folder of the reward reference: ``model.reference``, or the checkpoint one version back.
        version: Weight version of ``policy``.
        index: Which of the reward actors; also its bundle in ``group``.
        group: Placement group of the reward actors.
    """
    config = anchored(config)
    reward = config.reward
    options = ActorOptions(reward.cpus_per_actor, reward.gpus_per_actor, base_env(), group, index)
    name = actor_name(config.run.name, "reward", index)
    return spawn(RewardActor, name, options, absolute_dump(config), prompts, policy, reference, version, name=name)
