"""The one config of a run: every field, its default, its bounds and its meaning.

Imports neither torch nor Ray, so that ``--dry-run``, ``--help`` and the generated reference page cost nothing.
``docs/config.md`` is generated from these models (``isogloss config-reference``). The sections lie in modules of their
own beside this one; what concerns several of them is checked here.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from configs.base import LanguageCode, Section
from configs.deepspeed import check_dtype
from configs.endpoint import GeneratorConfig
from configs.errors import shortened
from configs.frames import check_frames
from configs.inputs import AnchorConfig, LanguagesConfig, ModelConfig, OfflineConfig, PromptsConfig, RunConfig
from configs.judge import JudgeConfig
from configs.learner import OBJECTIVES, LearnerConfig, LoraConfig
from configs.model_config import AUTO
from configs.plugins import Group
from configs.reward import ImplicitReward, LengthControlConfig, PairsConfig, RewardConfig
from configs.running import COLLECTIVE_TIMEOUT_S, ClusterConfig, EvaluationConfig, ScheduleConfig
from configs.sampling import CandidatesConfig, GatesConfig, RolloutConfig
from configs.serving import ServeConfig
from configs.source_checks import check_sources
from configs.sources import CustomSource

__all__ = [
    "AnchorConfig",
    "CandidatesConfig",
    "ClusterConfig",
    "Config",
    "EvaluationConfig",
    "GatesConfig",
    "JudgeConfig",
    "LanguageCode",
    "LanguagesConfig",
    "LearnerConfig",
    "LengthControlConfig",
    "LoraConfig",
    "ModelConfig",
    "OfflineConfig",
    "PairsConfig",
    "PromptsConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "ScheduleConfig",
    "Section",
    "ServeConfig",
]


class Config(Section):
    """A whole run."""

    run: RunConfig = RunConfig()
    model: ModelConfig
    languages: LanguagesConfig = LanguagesConfig()
    prompts: PromptsConfig = PromptsConfig()
    offline: OfflineConfig = OfflineConfig()
    rollout: RolloutConfig = RolloutConfig()
    endpoints: dict[str, GeneratorConfig] = Field(
        default_factory=dict, description="Servers that sources ask, by a name of your own."
    )
    candidates: CandidatesConfig = CandidatesConfig()
    reward: RewardConfig = ImplicitReward()
    judge: JudgeConfig = JudgeConfig()
    gates: GatesConfig = GatesConfig()
    pairs: PairsConfig = PairsConfig()
    anchor: AnchorConfig = AnchorConfig()
    learner: LearnerConfig = LearnerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    cluster: ClusterConfig = ClusterConfig()
    serve: ServeConfig = ServeConfig()

    @model_validator(mode="after")
    def _offline_or_online(self) -> Config:
        if self.offline.path is None:
            if not self.languages.codes:
                raise ValueError("languages.codes: missing; name the run's languages (or train on offline.path)")
            if self.prompts.train is None:
                raise ValueError("prompts.train: missing; name the prompts to sample for (or train on offline.path)")
            return self
        if self.prompts.train is not None:
            raise ValueError("prompts.train: offline training samples no answers; set it to null, or offline.path")
        if self.prompts.heldout is not None and not self.languages.codes:
            raise ValueError("languages.codes: missing; name the languages of prompts.heldout")
        if self.anchor.pairs_per_round:
            raise ValueError("anchor.pairs_per_round: offline training takes its pairs from offline.path; set it to 0")
        if self.learner.on_groups:
            raise ValueError(
                f"learner.objective: {self.learner.objective} needs sampled groups, and offline.path holds pairs; "
                "choose sigmoid, say"
            )
        moves = self.learner.reference == "previous_round" and self.offline.pairs_per_round is not None
        if moves and not self.offline.moving_reference:
            raise ValueError(
                "learner.reference: previous_round would move the reference after every slice of "
                "offline.pairs_per_round; set it to initial for plain DPO, or offline.moving_reference to true"
            )
        return self

    @model_validator(mode="after")
    def _scorer_has_what_it_needs(self) -> Config:
        reward, judge = self.reward, self.judge
        if reward.judged:
            if judge.unset:
                raise ValueError(f"judge.{judge.unset}: reward.kind judge needs it; name the judge that is to be asked")
            if judge.deadline_s >= self.cluster.call_timeout_s:
                raise ValueError(
                    f"judge.deadline_s: {judge.deadline_s:g} must be below cluster.call_timeout_s "
                    f"{self.cluster.call_timeout_s:g}, which ends a whole chunk; lower it or raise that"
                )
        return self

    @model_validator(mode="after")
    def _evaluation_has_what_it_needs(self) -> Config:
        judge = self.evaluation.judge
        if judge is None:
            return self
        if judge.unset:
            raise ValueError(f"evaluation.judge.{judge.unset}: missing; name the judge that is to be asked")
        if self.prompts.heldout is None:
            raise ValueError("evaluation.judge: compares held-out answers; set prompts.heldout, or remove it")
        return self

    @model_validator(mode="after")
    def _ranks_wait_for_the_sender(self) -> Config:
        cluster, workers = self.cluster, self.learner.workers
        late = cluster.weight_transfer == "broadcast" and workers > 1
        if late and cluster.sync_timeout_s >= COLLECTIVE_TIMEOUT_S:
            raise ValueError(
                f"cluster.sync_timeout_s: {cluster.sync_timeout_s:g} must be below {COLLECTIVE_TIMEOUT_S}, since the "
                f"other {workers - 1} learner ranks wait no longer for the one that broadcasts; lower it, or set "
                "cluster.weight_transfer to objects"
            )
        return self

    @model_validator(mode="after")
    def _broadcast_is_of_full_weights(self) -> Config:
        lora = self.learner.lora
        if self.cluster.weight_transfer == "broadcast" and lora is not None and lora.publish == "adapter":
            raise ValueError(
                "cluster.weight_transfer: broadcast is for full weights, and learner.lora.publish adapter publishes "
                "the adapter alone; set it to objects"
            )
        return self

    @model_validator(mode="after")
    def _stages_take_turns(self) -> Config:
        if self.cluster.colocate is True and self.schedule.max_staleness > 0:
            raise ValueError(
                f"cluster.colocate: true lets one stage have everything, and schedule.max_staleness "
                f"{self.schedule.max_staleness} lets two work at the same time; set that to 0, or colocate to auto"
            )
        return self

    @property
    def colocated(self) -> bool:
        """Whether rollout, reward and learner take turns on the same cores and GPUs."""
        if self.cluster.colocate != "auto":
            return self.cluster.colocate
        return self.schedule.max_staleness == 0 and not self.serve.enabled and self.cluster.address is None

    @model_validator(mode="after")
    def _sampler_has_the_reference(self) -> Config:
        if self.learner.reference_logprobs != "sampler":
            return self
        if self.offline.path is not None:
            raise ValueError("learner.reference_logprobs: offline training samples nothing; set it to learner")
        if self.rollout.stop:
            raise ValueError(
                "learner.reference_logprobs: answers that rollout.stop ends are trained on by their texts, of whose "
                "tokens the sampler knows nothing; set it to learner"
            )
        if self.schedule.max_staleness > 0 or self.schedule.sync_every > 1:
            raise ValueError(
                "learner.reference_logprobs: sampler needs answers of the weights that the round trains; set "
                "schedule.max_staleness to 0 and schedule.sync_every to 1, or reference_logprobs to auto"
            )
        return self

    @model_validator(mode="after")
    def _agree(self) -> Config:
        online = self.offline.path is None
        if online and self.reward.needs_reference and self.model.reference is None:
            raise ValueError(
                f"model.reference: reward.kind {self.reward.kind} needs the model that the policy came from"
            )
        crosslingual = online and any(one.prompt == "crosslingual" for one in self.reward.logprobs.values())
        check_frames(self.prompts.frame, self.prompts.system, self.evaluated, crosslingual)
        check_sources(self)
        named = bool(self.candidates.sources)
        if not named and (self.reward.kind == "cross_language") != (self.candidates.source == "self_translation"):
            raise ValueError(
                "candidates.source: reward.kind cross_language and candidates.source self_translation go "
                "together; set both or neither"
            )
        if self.model.dtype != AUTO:  # else the model is elsewhere, and the learner judges
            check_dtype(self.learner.deepspeed, self.model.dtype)
        if self.reward.verified and self.prompts.answer_field is None:
            raise ValueError("prompts.answer_field: reward.kind verifier needs gold answers; name their field")
        if not named and self.candidates.source == "policy" and self.rollout.samples_per_prompt < 2:
            raise ValueError("rollout.samples_per_prompt: a pair needs at least 2 candidates")
        if len(self.languages.codes) < 2 and self.reward.kind == "cross_language":
            raise ValueError("languages.codes: cross_language needs a second language")
        for code, tokens in self.rollout.max_new_tokens_by_language.items() if online else ():
            if code not in self.evaluated:
                raise ValueError(
                    f"rollout.max_new_tokens_by_language.{code}: is no language of the run; remove it, or add it to "
                    "languages.codes"
                )
            if tokens >= self.model.max_length:
                raise ValueError(
                    f"rollout.max_new_tokens_by_language.{code}: {tokens} leaves no room for a prompt in "
                    f"model.max_length {self.model.max_length}; lower it"
                )
        if (online or self.prompts.heldout is not None) and self.rollout.max_new_tokens >= self.model.max_length:
            raise ValueError(
                f"rollout.max_new_tokens: {self.rollout.max_new_tokens} leaves no room for a prompt in "
                f"model.max_length {self.model.max_length}; lower it"
            )
        if self.anchor.pairs_per_round and self.anchor.path is None:
            raise ValueError("anchor.path: pairs_per_round is above 0 but no file is named")
        self._check_fluency_floor()
        self._check_rloo()
        self._check_miner()
        # A resume restarts the rollouts from the version that they sampled with, and `previous_round` from the one
        # published before that: those checkpoints must still be there.
        back = self.schedule.sync_every if self.reward.moving_reference else 0
        needed = self.schedule.max_staleness + back + 1
        if self.learner.keep_checkpoints < needed:
            raise ValueError(
                f"learner.keep_checkpoints: {self.learner.keep_checkpoints} is too few to resume with "
                f"max_staleness {self.schedule.max_staleness}, sync_every {self.schedule.sync_every} and "
                f"reward.reference {'previous_round' if back else 'initial'}; "
                f"set it to at least {needed}"
            )
        self._check_unseen()
        self._check_serve()
        return self

    def _check_fluency_floor(self) -> None:
        if not self.pairs.fluency_floor or self.offline.path is not None:
            return
        if not self.reward.from_logprobs:
            raise ValueError(
                f"pairs.fluency_floor: reward.kind {self.reward.kind} has no model to measure it with; set it to 0, or "
                "use a reward made of log-probabilities (implicit, likelihood)"
            )
        if self.pairs_miner == "by_source" or self.learner.on_groups:
            raise ValueError("pairs.fluency_floor: is for the miners best_worst and target; set it to 0")

    def _check_rloo(self) -> None:
        """RLOO takes every scored answer of a prompt, where the other objectives take pairs."""
        if not self.learner.on_groups:
            return
        for field, is_set, why in (
            ("candidates.source", self.candidates.source != "policy", "needs answers with rewards of their own"),
            (
                "anchor.pairs_per_round",
                self.anchor.pairs_per_round > 0,
                "cannot train on preference pairs; set it to 0",
            ),
            ("reward.upper_bound", self.reward.upper_bound is not None, "uses every reward; remove it"),
            ("rollout.temperatures", bool(self.rollout.temperatures), "needs samples of one policy; set `temperature`"),
        ):
            if is_set:
                raise ValueError(f"{field}: learner.objective {self.learner.objective} {why}")

    def _check_miner(self) -> None:
        """The sources that the miner names are there, and it has the rewards that it needs."""
        pairs = self.pairs
        if not self.scores:
            for field, is_set in (("miner", pairs.miner == "target" or pairs.is_custom), ("pool", pairs.pool == "all"),
                                  ("require_reward_agreement", pairs.require_reward_agreement)):  # fmt: skip
                if is_set:
                    raise ValueError(f"pairs.{field}: reward.kind cross_language computes no rewards; remove it")
        if self.languages.quota is not None and pairs.pool == "all":
            raise ValueError(
                "pairs.pool: all lets the answers decide in which language a prompt's pair is, which a quota has "
                "decided before; set it to language, or remove languages.quota"
            )
        if self.pairs_miner != "by_source":
            return
        for field, entries in zip(("chosen", "rejected"), self.pairs_sides, strict=True):
            if not entries:
                raise ValueError(f"pairs.{field}: miner by_source needs at least one source; name it")
            for entry in entries:
                name, _, origin = entry.partition("@")
                if name not in self.source_names:
                    raise ValueError(
                        f"pairs.{field}: '{shortened(name)}' is no source of this run; it has "
                        f"{', '.join(self.source_names)}"
                    )
                if origin not in ("", "dominant", "others", *self.languages.codes):
                    raise ValueError(
                        f"pairs.{field}: '{shortened(entry)}' names no language of the run; write @dominant, @others "
                        "or a code of languages.codes"
                    )

    def _check_serve(self) -> None:
        """What an endpoint that follows the run needs."""
        if not self.serve.enabled:
            return
        if self.offline.path is not None:
            raise ValueError("serve.enabled: an offline run publishes nothing; serve its folder with isogloss serve")
        if self.serve.gate.needs_evaluation:
            if self.prompts.heldout is None:
                raise ValueError(
                    "serve.gate: it judges by held-out results; set prompts.heldout or serve.gate.kind none"
                )
            if self.evaluation.every != 1:
                raise ValueError(
                    "evaluation.every: serve.gate judges each version by its held-out results; set it to 1, or "
                    "serve.gate.kind to none and serve.gate.min_right_language to null"
                )

    def _check_unseen(self) -> None:
        """What evaluation.languages needs."""
        if self.evaluation.languages and self.prompts.heldout is None:
            raise ValueError("prompts.heldout: evaluation.languages needs held-out prompts; name their path")
        for code in self.evaluation.languages:
            if code in self.languages.codes:
                raise ValueError(
                    f"evaluation.languages: '{code}' is in languages.codes and evaluated anyhow; remove it here (with "
                    "share 0 there a language is not trained on)"
                )

        for code in self.evaluation.markers:
            if self.evaluated and code not in self.evaluated:
                raise ValueError(
                    f"evaluation.markers.{code}: is no evaluated language ({', '.join(self.evaluated)}); add it to "
                    "evaluation.languages, or remove its markers"
                )

    @property
    def source_names(self) -> list[str]:
        """Names of the sources of candidates."""
        if self.candidates.sources:
            return [source.name for source in self.candidates.sources]
        return ["policy", "translation"] if self.candidates.source == "self_translation" else ["policy"]

    @property
    def samples_policy(self) -> bool:
        """Whether any candidate is the policy's, an answer or a translation."""
        named = self.candidates.sources
        return not named or any(one.kind == "policy" or getattr(one, "by", None) == "policy" for one in named)

    @property
    def scores(self) -> bool:
        """Whether candidates get rewards; else their sources alone say which is better."""
        return self.reward.kind != "cross_language"

    @property
    def pairs_miner(self) -> str:
        """The miner, where no scores are computed that which needs none."""
        return self.pairs.miner if self.scores else "by_source"

    @property
    def pairs_sides(self) -> tuple[list[str], list[str]]:
        """Sources of chosen and of rejected answers; LIDR's where none are named and nothing is scored."""
        if self.scores or self.pairs.chosen or self.pairs.rejected:
            return self.pairs.chosen, self.pairs.rejected
        return ["policy@dominant", "translation@dominant"], ["policy@others", "translation@others"]

    @property
    def reads_reference(self) -> bool:
        """Whether the run reads ``model.reference``, which it may name in vain."""
        return self.offline.path is None and self.reward.needs_reference

    @property
    def plugin_names(self) -> dict[str, tuple[str, Group]]:
        """The user's own functions that the run calls: field -> (name, entry points among which it is sought)."""
        rewards = {f"{section}.function": one.function for section, one in self.reward.custom.items()}
        found: dict[str, tuple[str, Group]] = {field: (name, "isogloss.rewards") for field, name in rewards.items()}
        if self.learner.objective not in OBJECTIVES:
            found["learner.objective"] = (self.learner.objective, "isogloss.objectives")
        if self.pairs.is_custom and self.scores:
            found["pairs.miner"] = (self.pairs.miner, "isogloss.miners")
        for place, source in enumerate(self.candidates.sources):
            if isinstance(source, CustomSource):
                found[f"candidates.sources.{place}.function"] = (source.function, "isogloss.sources")
        return found

    @property
    def evaluated(self) -> list[str]:
        """All languages of the held-out prompts: those of the run, then those of the evaluation alone."""
        return [*self.languages.codes, *self.evaluation.languages]
