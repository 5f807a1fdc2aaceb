"""The one config of a run: every field, its default, its bounds and its meaning.

Imports neither torch nor Ray, so that ``--dry-run``, ``--help`` and the generated reference page cost nothing.
``docs/config.md`` is generated from these models (``isogloss config-reference``). The sections lie in modules of their
own beside this one; what concerns several of them is checked here.
"""

from __future__ import annotations

from pydantic import model_validator

from configs.base import LanguageCode, Section
from configs.inputs import AnchorConfig, LanguagesConfig, ModelConfig, PromptsConfig, RunConfig
from configs.learner import LearnerConfig
from configs.reward import LengthControlConfig, PairsConfig, RewardConfig
from configs.running import ClusterConfig, EvaluationConfig, ScheduleConfig
from configs.sampling import CandidatesConfig, GatesConfig, RolloutConfig
from configs.serving import ServeConfig

__all__ = [
    "AnchorConfig",
    "CandidatesConfig",
    "ClusterConfig",
    "Config",
    "EvaluationConfig",
    "GatesConfig",
    "LanguageCode",
    "LanguagesConfig",
    "LearnerConfig",
    "LengthControlConfig",
    "ModelConfig",
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
    languages: LanguagesConfig
    prompts: PromptsConfig
    rollout: RolloutConfig = RolloutConfig()
    candidates: CandidatesConfig = CandidatesConfig()
    reward: RewardConfig = RewardConfig()
    gates: GatesConfig = GatesConfig()
    pairs: PairsConfig = PairsConfig()
    anchor: AnchorConfig = AnchorConfig()
    learner: LearnerConfig = LearnerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    cluster: ClusterConfig = ClusterConfig()
    serve: ServeConfig = ServeConfig()

    @model_validator(mode="after")
    def _agree(self) -> Config:
        if self.reward.kind == "implicit" and self.model.reference is None:
            raise ValueError("model.reference: reward.kind implicit needs the model that the policy came from")
        if (self.reward.kind == "cross_language") != (self.candidates.source == "self_translation"):
            raise ValueError(
                "candidates.source: reward.kind cross_language and candidates.source self_translation go "
                "together; set both or neither"
            )
        if self.reward.policy == "initial" and self.reward.reference == "previous_round":
            raise ValueError(
                "reward.policy: initial with reward.reference previous_round would compare an older policy with a "
                "newer one; set policy to current or reference to initial"
            )
        if self.reward.kind == "verifier" and self.prompts.answer_field is None:
            raise ValueError("prompts.answer_field: reward.kind verifier needs gold answers; name their field")
        if self.candidates.source == "policy" and self.rollout.samples_per_prompt < 2:
            raise ValueError("rollout.samples_per_prompt: a pair needs at least 2 candidates")
        if len(self.languages.codes) < 2 and self.reward.kind == "cross_language":
            raise ValueError("languages.codes: cross_language needs a second language")
        if self.rollout.max_new_tokens >= self.model.max_length:
            raise ValueError(
                f"rollout.max_new_tokens: {self.rollout.max_new_tokens} leaves no room for a prompt in "
                f"model.max_length {self.model.max_length}; lower it"
            )
        if self.anchor.pairs_per_round and self.anchor.path is None:
            raise ValueError("anchor.path: pairs_per_round is above 0 but no file is named")
        # A resume restarts the rollouts from the version that they sampled with, and `previous_round` from the one
        # published before that: those checkpoints must still be there.
        back = self.schedule.sync_every if self.reward.reference == "previous_round" else 0
        needed = self.schedule.max_staleness + back + 1
        if self.learner.keep_checkpoints < needed:
            raise ValueError(
                f"learner.keep_checkpoints: {self.learner.keep_checkpoints} is too few to resume with "
                f"max_staleness {self.schedule.max_staleness}, sync_every {self.schedule.sync_every} and "
                f"reward.reference {self.reward.reference}; "
                f"set it to at least {needed}"
            )
        if self.serve.enabled and self.serve.gate.needs_evaluation:
            if self.prompts.heldout is None:
                raise ValueError(
                    "serve.gate: it judges by held-out results; set prompts.heldout or serve.gate.kind none"
                )
            if self.evaluation.every != 1:
                raise ValueError(
                    "evaluation.every: serve.gate judges each version by its held-out results; set it to 1, or "
                    "serve.gate.kind to none and serve.gate.min_right_language to null"
                )
        for field, text in (("train", self.prompts.train), ("heldout", self.prompts.heldout)):
            if text is not None and "{lang}" not in text:
                raise ValueError(f"prompts.{field}: '{text}' has no {{lang}}; put it where the code goes")
        return self
