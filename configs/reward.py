"""What candidates are worth, and how they become pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from configs.base import MAX_PARTS, Section
from configs.errors import UserError, shortened
from configs.json_types import Json, JsonObject
from configs.measures import (
    CustomMeasure,
    ImplicitMeasure,
    JudgeMeasure,
    LikelihoodMeasure,
    LogprobMeasure,
    Measure,
    RewardModelMeasure,
    VerifierMeasure,
    WordsMeasure,
)
from configs.plugins import PLUGIN_PATTERN, check_named
from configs.terms import Terms

MINERS = ("best_worst", "by_source", "target")
MAX_ALPHAS = 100_000  # the grid is held in memory, and every prompt's answers are ranked under each


class LengthControlConfig(Section):
    """Subtract alpha times length from the reward so that chosen and rejected are equally long."""

    enabled: bool = Field(True, description="Fit one alpha a language and round (ICR, section on length).")
    unit: Literal["characters", "tokens"] = Field("characters", description="What length is counted in.")
    alpha_min: float = Field(
        0.0, description="Lower end of the grid; below 0 a bias towards short answers can be undone too."
    )
    alpha_max: float = Field(0.999, description="Upper end of the grid, inclusive.")
    alpha_step: float = Field(0.001, gt=0, description="Step of the grid.")

    @model_validator(mode="after")
    def _ordered(self) -> LengthControlConfig:
        if self.alpha_min > self.alpha_max:
            raise ValueError("alpha_min: above alpha_max; swap them")
        steps = (self.alpha_max - self.alpha_min) / self.alpha_step
        if steps > MAX_ALPHAS:
            raise ValueError(
                f"alpha_step: {self.alpha_step:g} makes {steps:.3g} alphas from alpha_min to alpha_max, each of which "
                f"is tried; at most {MAX_ALPHAS}, raise it"
            )
        return self


class RewardSection(Section):
    """What a candidate is worth (second axis of a method). Each kind has fields of its own beside these."""

    upper_bound: float | None = Field(
        None, description="Candidates at or above this reward cannot be chosen, from `upper_bound_from_round` on."
    )
    upper_bound_from_round: int = Field(
        1,
        ge=1,
        description="First round that `upper_bound` holds in (ICR as published: 2). May change on `--resume` "
        "as long as the rounds that have pairs keep their bound.",
    )
    shuffle: bool = Field(
        False,
        description="Control: permute the scores within each prompt, so that they carry nothing; "
        "`cross_language` has none, and turns every pair round with probability 1/2.",
    )
    actors: int = Field(1, ge=1, le=MAX_PARTS, description="Number of reward actors.")
    cpus_per_actor: float = Field(1.0, gt=0, description="CPUs that Ray reserves for a reward actor.")
    gpus_per_actor: float = Field(0.0, ge=0, description="GPUs that Ray reserves for a reward actor.")
    tokens_per_micro_batch: int = Field(4096, ge=1, description="Tokens scored in one forward pass.")

    def bound(self, round_number: int) -> float | None:
        """The upper bound of a round, from 1; None where it has none."""
        return self.upper_bound if round_number >= self.upper_bound_from_round else None

    @property
    def lengths(self) -> LengthControlConfig:
        """Length control; off for a kind that has none."""
        return LengthControlConfig(enabled=False)

    @property
    def measures(self) -> Mapping[str, Measure]:
        """What is measured, by the config section that says so: one, or the terms."""
        return {"reward": self} if isinstance(self, Measure) else {}

    @property
    def logprobs(self) -> Mapping[str, LogprobMeasure]:
        """Those of ``measures`` that are made of log-probabilities of the run's own models."""
        return {
            name: one for name, one in self.measures.items() if isinstance(one, ImplicitMeasure | LikelihoodMeasure)
        }

    @property
    def from_logprobs(self) -> bool:
        """Whether the reward is made of log-probabilities of the run's own models."""
        return bool(self.logprobs)

    @property
    def follows_policy(self) -> bool:
        """Whether reward actors hold the current policy, and so take every published version."""
        return any(one.policy == "current" for one in self.logprobs.values())

    @property
    def moving_reference(self) -> bool:
        """Whether the reward's reference is the policy one round back."""
        return any(
            isinstance(one, ImplicitMeasure) and one.reference == "previous_round" for one in self.logprobs.values()
        )

    @property
    def needs_reference(self) -> bool:
        """Whether the reward is measured with ``model.reference``."""
        return any(isinstance(one, ImplicitMeasure) or one.policy == "reference" for one in self.logprobs.values())

    @property
    def translates(self) -> bool:
        """Whether answers are translated in order to be measured."""
        return any(one.prompt == "translated" for one in self.logprobs.values())

    @property
    def judged(self) -> bool:
        """Whether a judge is asked."""
        return any(isinstance(one, JudgeMeasure) for one in self.measures.values())

    @property
    def verified(self) -> bool:
        """Whether answers are compared with gold ones."""
        return any(isinstance(one, VerifierMeasure) for one in self.measures.values())

    @property
    def models(self) -> Mapping[str, RewardModelMeasure]:
        """Those of ``measures`` that are reward models."""
        return {name: one for name, one in self.measures.items() if isinstance(one, RewardModelMeasure)}

    @property
    def custom(self) -> Mapping[str, CustomMeasure]:
        """Those of ``measures`` that are functions of the user's own."""
        return {name: one for name, one in self.measures.items() if isinstance(one, CustomMeasure)}

    @property
    def words(self) -> Mapping[str, WordsMeasure]:
        """Those of ``measures`` that look words up."""
        return {name: one for name, one in self.measures.items() if isinstance(one, WordsMeasure)}


class ImplicitReward(RewardSection, ImplicitMeasure):
    """Log-ratio of policy and reference, nats (ICR, arXiv 2503.04647)."""

    kind: Literal["implicit"] = "implicit"
    length_control: LengthControlConfig = LengthControlConfig()

    @property
    def lengths(self) -> LengthControlConfig:
        """Length control."""
        return self.length_control


class LikelihoodReward(RewardSection, LikelihoodMeasure):
    """Log-probability of the answer under one model."""

    kind: Literal["likelihood"] = "likelihood"
    normalise: Literal["sum", "token"] = Field(
        "sum", description="Unit: nats an answer, or nats a token (end of turn included)."
    )

    @property
    def per(self) -> Literal["sum", "token"]:
        """Unit of the likelihood."""
        return self.normalise


class CrossLanguageReward(RewardSection):
    """The stronger language's answer, translated, beats the native one (LIDR, arXiv 2410.08964)."""

    kind: Literal["cross_language"] = "cross_language"


class VerifierReward(RewardSection, VerifierMeasure):
    """1 where the gold answer is met, else 0."""

    kind: Literal["verifier"] = "verifier"


class JudgeReward(RewardSection, JudgeMeasure):
    """Share of comparisons with other candidates that a judge lets an answer win (section `judge`)."""

    kind: Literal["judge"] = "judge"


class ModelReward(RewardSection, RewardModelMeasure):
    """Score of a sequence classifier."""

    kind: Literal["reward_model"] = "reward_model"


class CustomReward(RewardSection, CustomMeasure):
    """A function of your own (docs/extending.md)."""

    kind: Literal["custom"] = "custom"


class TermsReward(RewardSection, Terms):
    """Several rewards, each with a weight, added up; `reward.terms` names them.

    The journal's reward is the weighted sum of the terms as they are; `normalise` takes effect when a round is mined.
    """

    kind: Literal["terms"] = "terms"

    @property
    def measures(self) -> Mapping[str, Measure]:
        """What is measured: the terms."""
        return self.of_terms()


def _kind(value: Json) -> str:
    found = value.get("kind", "implicit") if isinstance(value, dict) else getattr(value, "kind", None)
    return found if isinstance(found, str) else shortened(repr(found))


RewardConfig = Annotated[
    Annotated[ImplicitReward, Tag("implicit")]
    | Annotated[LikelihoodReward, Tag("likelihood")]
    | Annotated[CrossLanguageReward, Tag("cross_language")]
    | Annotated[VerifierReward, Tag("verifier")]
    | Annotated[JudgeReward, Tag("judge")]
    | Annotated[ModelReward, Tag("reward_model")]
    | Annotated[CustomReward, Tag("custom")]
    | Annotated[TermsReward, Tag("terms")],
    Discriminator(_kind),
]


class ReplayConfig(Section):
    """Mined pairs of earlier rounds, trained on again beside the new ones."""

    rounds: int = Field(1, ge=1, description="How many rounds back pairs are drawn from.")
    share: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="Share of old pairs among old and new ones (0.5: as many old as new, where there are as many).",
    )


_SIDE = (
    "Entries are names of sources, also `name@dominant`, `name@others` or `name@de` for the answers that were first "
    "given in the dominant language, in any other, or in that one."
)


class PairsConfig(Section):
    """How scored candidates become preference pairs."""

    miner: str = Field(
        "best_worst",
        pattern=PLUGIN_PATTERN,
        description="`best_worst`: highest against lowest reward of a prompt (ICR). `by_source`: answers of the "
        "sources `chosen` against those of the sources `rejected`; with rewards the best of the former against the "
        "worst of the latter, without (`reward.kind: cross_language`, where it is the default) each against that of "
        "the same sample (LIDR). `target`: highest reward against the one nearest to the mean less `deviations` "
        "standard deviations (arXiv 2605.26293). Or a function of your own, as `package.module:function` or the name "
        "of an entry point of `isogloss.miners` (docs/extending.md).",
    )
    options: JsonObject = Field(default_factory=dict, description="Keyword arguments of a miner of your own.")
    timeout_s: float = Field(60, gt=0, description="Deadline of one call of a miner of your own: a prompt.")
    chosen: list[str] = Field(default_factory=list, description=f"Of `miner: by_source`. {_SIDE}")
    rejected: list[str] = Field(default_factory=list, description="Of `miner: by_source`, in the same form.")
    require_reward_agreement: bool = Field(
        False,
        description="Of `miner: by_source`: leave out pairs whose rejected answer has the same reward or a higher one. "
        "Their share by language is shown either way.",
    )
    deviations: float = Field(2.0, ge=0, description="Of `miner: target`.")
    per_prompt: int = Field(
        1,
        ge=1,
        description="Pairs a prompt at most, by reward: best and worst, second best and second worst, and so on.",
    )
    pool: Literal["language", "all"] = Field(
        "language",
        description="Which candidates of a prompt compete: those in one language, or those in all languages; a pair "
        "then has the chosen answer's language, and its rejected answer may be in another.",
    )
    min_margin: float = Field(
        0.0, ge=0, description="Smallest reward difference of a pair; equal scores never make one."
    )
    fluency_floor: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Of `best_worst` and `target`: candidates whose own likelihood (nats a token under the native "
        "prompt, by the reward's model) is below this quantile of the prompt's candidates cannot be chosen; 0 bars "
        "none. Needs a reward made of log-probabilities, and costs one pass more. Over the embedded world it did not "
        "help (docs/science-validation.md).",
    )
    replay: ReplayConfig = ReplayConfig()

    @property
    def is_custom(self) -> bool:
        """Whether the miner is a function of the user's own."""
        return self.miner not in MINERS

    @model_validator(mode="after")
    def _sides(self) -> PairsConfig:
        try:
            check_named(self.miner, "miner", "isogloss.miners", MINERS)
        except UserError as error:
            raise ValueError(str(error)) from None
        if self.options and not self.is_custom:
            raise ValueError("options: are for a miner of your own; remove them")
        if self.miner != "by_source":
            for name in ("chosen", "rejected"):
                if getattr(self, name):
                    raise ValueError(f"{name}: names sources for miner by_source; set miner to that, or remove it")
            if self.require_reward_agreement:
                raise ValueError("require_reward_agreement: is for miner by_source; set miner to that, or remove it")
        for name in ("chosen", "rejected"):
            entries = getattr(self, name)
            for entry in entries:
                if entries.count(entry) > 1:
                    raise ValueError(f"{name}: '{entry}' is named twice; name each once")
        if both := sorted(set(self.chosen) & set(self.rejected)):
            raise ValueError(f"rejected: '{both[0]}' is in chosen too; remove it from one of them")
        return self
