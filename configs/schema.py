"""The one config of a run: every field, its default, its bounds and its meaning.

Imports neither torch nor Ray, so that ``--dry-run``, ``--help`` and the generated reference page cost nothing.
``docs/config.md`` is generated from these models (``isogloss config-reference``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

LanguageCode = Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$")]


class Section(BaseModel):
    """A config section: unknown keys are refused, values are immutable once validated."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RunConfig(Section):
    """What the run is called and where its results land."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Folder name below `dir`.")
    dir: Path = Field(Path("runs"), description="Where run folders are created.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seeds sampling, shuffling and the learner.")
    min_free_disk_gb: float = Field(
        0.5, ge=0, description="Refuse to start, or to write a checkpoint, with less than this much disk left."
    )


class ModelConfig(Section):
    """The starting policy and the reference that the implicit reward is measured against."""

    policy: Path = Field(..., description="Hugging Face folder of the starting policy (with a chat template).")
    reference: Path | None = Field(
        None,
        description="Hugging Face folder of the reward reference: the model the policy was aligned from. "
        "Needed by `reward.kind: implicit`.",
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Weights and arithmetic, all actors.")
    max_length: int = Field(512, ge=8, description="Longest prompt plus completion, in tokens.")
    add_bos: bool = Field(
        False,
        description="Put the tokenizer's BOS in front when the chat template does not. Exactly one BOS is used "
        "in sampling, scoring and training alike.",
    )


class PromptsConfig(Section):
    """Parallel prompts: one JSON-lines file a language, joined by id."""

    train: str = Field(..., description="Path with `{lang}`, e.g. `worlds/default/prompts/train/{lang}.jsonl`.")
    heldout: str | None = Field(None, description="Same form; evaluated before and after, never trained on.")
    id_field: str = Field("id", description="Field that joins the languages.")
    text_field: str = Field("prompt", description="Field that holds the instruction.")
    answer_field: str | None = Field("answer", description="Field with the gold answer, where there is one.")
    limit: int | None = Field(None, ge=1, description="Use only the first so many train prompts.")
    skip_longer_than: int | None = Field(
        None,
        ge=1,
        description="Leave out ids whose prompt has more tokens than this in any language; how many is shown. "
        "By default a prompt that does not fit is an error.",
    )
    heldout_limit: int | None = Field(None, ge=1, description="Use only the first so many held-out prompts.")


class LanguagesConfig(Section):
    """Which languages take part, and with which share."""

    dominant: LanguageCode = Field("en", description="The stronger language that teaches the others.")
    codes: list[LanguageCode] = Field(..., min_length=1, description="All languages, BCP-47.")
    names: dict[LanguageCode, str] = Field(
        default_factory=dict, description="English names used in prompts; known codes have a default."
    )
    shares: dict[LanguageCode, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict,
        description="Share of a language's mined pairs that is trained on, 0 to 1; unnamed languages have 1. "
        "0 also skips sampling where no other language needs it.",
    )

    @model_validator(mode="after")
    def _codes_agree(self) -> LanguagesConfig:
        if len(set(self.codes)) != len(self.codes):
            raise ValueError("codes: a language is named twice; name each once")
        if self.dominant not in self.codes:
            raise ValueError(f"dominant: '{self.dominant}' is not in codes; add it or choose another")
        for field, mapping in (("names", self.names), ("shares", self.shares)):
            for code in mapping:
                if code not in self.codes:
                    raise ValueError(f"{field}.{code}: not in codes; add it there or remove it here")
        if all(self.share(code) == 0 for code in self.codes):
            raise ValueError("shares: every language has share 0; leave at least one above 0")
        return self

    def share(self, code: str) -> float:
        """Share of the mined pairs of ``code`` that is trained on."""
        return self.shares.get(code, 1.0)

    @property
    def others(self) -> list[str]:
        """All languages but the dominant one."""
        return [code for code in self.codes if code != self.dominant]


class RolloutConfig(Section):
    """How candidates are sampled."""

    actors: int = Field(1, ge=1, description="Number of vLLM rollout actors.")
    cpus_per_actor: float = Field(1.0, gt=0, description="CPUs that Ray reserves for an actor.")
    gpus_per_actor: float = Field(0.0, ge=0, description="GPUs that Ray reserves for an actor.")
    tensor_parallel: int = Field(1, ge=1, description="GPUs that one engine is split over.")
    prompts_per_round: int = Field(256, ge=1, description="Prompts (ids) of a round; each in every language.")
    samples_per_prompt: int = Field(8, ge=1, description="Candidates a prompt and language.")
    temperature: float = Field(1.0, ge=0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling mass.")
    top_k: int = Field(-1, ge=-1, description="Sample among the k likeliest tokens; -1 is all.")
    max_new_tokens: int = Field(256, ge=1, description="Longest completion, in tokens, end of turn included.")
    chunk_prompts: int = Field(
        32, ge=1, description="Prompts that one call to an actor holds: the unit of streaming and of resume."
    )
    kv_cache_gb: float = Field(0.25, gt=0, description="Key-value cache of an engine, GiB.")
    max_num_seqs: int = Field(256, ge=1, description="Sequences that an engine decodes at once.")


class CandidatesConfig(Section):
    """Where candidates come from (first axis of a method)."""

    source: Literal["policy", "self_translation"] = Field(
        "policy",
        description="`policy`: n samples a prompt and language. `self_translation`: the policy's answers in each "
        "language, and the same answers translated by the policy itself (LIDR).",
    )
    translation_max_new_tokens: int = Field(256, ge=1, description="Longest self-translation, in tokens.")
    both_directions: bool = Field(
        True, description="Also translate into the dominant language, so that it gets pairs of its own."
    )
    untranslated_ids: Path | None = Field(
        None,
        description="JSON lines with the ids of prompts that are themselves about translation: there the dominant "
        "language's answer is chosen as it is (LIDR).",
    )


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
        return self


class RewardConfig(Section):
    """What a candidate is worth (second axis of a method)."""

    kind: Literal["implicit", "cross_language", "verifier"] = Field(
        "implicit",
        description="`implicit`: log-ratio of policy and reference (ICR). `cross_language`: the stronger "
        "language's answer, translated, beats the native one (LIDR). `verifier`: 1 where the gold answer is met.",
    )
    prompt: Literal["crosslingual", "native", "translated"] = Field(
        "crosslingual",
        description="Prompt side of the implicit reward: English instruction that asks for the language (R_c), "
        "the native one (R_m), or English on both sides after self-translation (R_t).",
    )
    policy: Literal["current", "initial"] = Field(
        "current", description="Numerator of the log-ratio: the policy of the round, or the one of the start."
    )
    reference: Literal["initial", "previous_round"] = Field(
        "initial",
        description="Denominator: `model.reference` in every round, or the policy one round back "
        "(`model.reference` in the first).",
    )
    length_control: LengthControlConfig = LengthControlConfig()
    upper_bound: float | None = Field(
        None, description="Candidates at or above this reward cannot be chosen (ICR, second iteration)."
    )
    shuffle: bool = Field(
        False, description="Control: permute the scores within each prompt, so that they carry nothing."
    )
    actors: int = Field(1, ge=1, description="Number of reward actors.")
    cpus_per_actor: float = Field(1.0, gt=0, description="CPUs that Ray reserves for a reward actor.")
    gpus_per_actor: float = Field(0.0, ge=0, description="GPUs that Ray reserves for a reward actor.")
    tokens_per_micro_batch: int = Field(4096, ge=1, description="Tokens scored in one forward pass.")


class GatesConfig(Section):
    """What a candidate must pass before it can enter a pair; each refusal is counted by language."""

    language: bool = Field(True, description="Refuse answers that are detected to be in another language.")
    language_min_chars: int = Field(
        8, ge=0, description="Below this length detection is unsure and the gate lets the answer pass."
    )
    truncated: bool = Field(True, description="Refuse answers that hit the token limit.")
    empty: bool = Field(True, description="Refuse answers without any text.")
    duplicates: bool = Field(True, description="Keep one of several equal answers to a prompt.")


class PairsConfig(Section):
    """How scored candidates become preference pairs."""

    miner: Literal["best_worst"] = Field(
        "best_worst", description="`best_worst`: highest against lowest reward of a prompt and language."
    )
    min_margin: float = Field(
        0.0, ge=0, description="Smallest reward difference of a pair; equal scores never make one."
    )


class AnchorConfig(Section):
    """Preference pairs replayed beside the new ones, so that the dominant language does not sink."""

    path: Path | None = Field(None, description="JSON lines: id, language, prompt, chosen, rejected.")
    pairs_per_round: int = Field(0, ge=0, description="How many are drawn (seeded, without replacement) a round.")


class LearnerConfig(Section):
    """The objective (third axis of a method) and how it is optimised."""

    workers: int = Field(1, ge=1, description="Data-parallel ranks of the learner group.")
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs that Ray reserves for a rank.")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs that Ray reserves for a rank.")
    objective: Literal["sigmoid", "ipo"] = Field(
        "sigmoid", description="Preference loss: DPO (arXiv 2305.18290) or IPO (arXiv 2310.12036)."
    )
    beta: float = Field(0.1, gt=0, description="Inverse temperature of the preference loss.")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="Conservative DPO (sigmoid only).")
    nll_weight: float = Field(1.0, ge=0, description="Weight of the per-token mean NLL of the chosen answer.")
    reference: Literal["previous_round", "initial"] = Field(
        "previous_round", description="Reference of the loss: the policy the round began with, or the start."
    )
    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate of AdamW.")
    warmup_steps: int = Field(0, ge=0, description="Linear warm-up, in optimiser steps; constant afterwards.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient clipping.")
    epochs: int = Field(1, ge=1, description="Passes over the round's pairs.")
    pairs_per_step: int = Field(32, ge=1, description="Pairs of one optimiser step, all ranks together.")
    tokens_per_micro_batch: int = Field(4096, ge=1, description="Token budget of one packed forward pass.")
    logprob_chunk: int = Field(1024, ge=1, description="Completion positions whose logits are held at once.")
    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed ZeRO stage.")
    deepspeed: dict[str, object] = Field(
        default_factory=dict, description="Further DeepSpeed options, passed on; may not repeat fields above."
    )
    keep_checkpoints: int = Field(2, ge=1, description="Newest round checkpoints kept.")
    max_failures: int = Field(2, ge=0, description="Restarts of the learner group before the run gives up.")

    @model_validator(mode="after")
    def _consistent(self) -> LearnerConfig:
        if self.label_smoothing and self.objective != "sigmoid":
            raise ValueError("label_smoothing: only for objective sigmoid; set it to 0")
        if self.pairs_per_step < self.workers:
            raise ValueError(
                f"pairs_per_step: {self.pairs_per_step} is fewer than the {self.workers} workers; raise it"
            )
        owned = {
            "train_batch_size": "pairs_per_step",
            "train_micro_batch_size_per_gpu": "tokens_per_micro_batch",
            "gradient_accumulation_steps": "pairs_per_step",
            "gradient_clipping": "max_grad_norm",
            "optimizer": "learning_rate",
            "scheduler": "warmup_steps",
            "bf16": "model.dtype",
            "fp16": "model.dtype",
        }
        for key, cure in owned.items():
            if key in self.deepspeed:
                raise ValueError(f"deepspeed.{key}: set learner.{cure} instead".replace("learner.model", "model"))
        zero = self.deepspeed.get("zero_optimization")
        if isinstance(zero, dict) and zero.get("stage", self.zero_stage) != self.zero_stage:
            raise ValueError(
                f"deepspeed.zero_optimization.stage: {zero['stage']} contradicts zero_stage "
                f"{self.zero_stage}; remove one"
            )
        return self


class ScheduleConfig(Section):
    """How many rounds, and how far sampling may run behind learning."""

    rounds: int = Field(2, ge=0, description="Rounds to run; 0 only evaluates.")
    sync_every: int = Field(1, ge=1, description="Publish weights to the rollouts every so many rounds.")
    max_staleness: int = Field(
        0,
        ge=0,
        description="Rounds that a sample's weights may be older than the learner's. 0 is strictly on-policy; "
        "1 lets the next round's sampling overlap training.",
    )

    @model_validator(mode="after")
    def _reachable(self) -> ScheduleConfig:
        if self.max_staleness < self.sync_every - 1:
            raise ValueError(
                f"max_staleness: {self.max_staleness} cannot hold with sync_every {self.sync_every}; "
                f"set max_staleness to at least {self.sync_every - 1} or sync_every to {self.max_staleness + 1}"
            )
        return self


class EvaluationConfig(Section):
    """Accuracy and language fidelity on the held-out prompts, before and after."""

    samples_per_prompt: int = Field(8, ge=1, description="Samples a prompt for the sampled accuracy.")
    temperature: float = Field(1.0, gt=0, description="Temperature of the sampled accuracy.")
    every: int = Field(0, ge=0, description="Also evaluate after every so many rounds; 0 only start and end.")
    bootstrap_samples: int = Field(2000, ge=100, description="Resamples of the paired bootstrap.")


class ClusterConfig(Section):
    """Ray: which cluster, and how long a remote call may take before it counts as failed."""

    address: str | None = Field(
        None, description="Address of a running cluster (`auto` inside a job); none starts a local one."
    )
    num_cpus: float | None = Field(
        None, gt=0, description="CPUs of the local cluster; default is what the machine has."
    )
    start_timeout_s: float = Field(300, gt=0, description="Start of any actor or of the learner group.")
    call_timeout_s: float = Field(600, gt=0, description="One generation or scoring call.")
    train_timeout_s: float = Field(3600, gt=0, description="Training of one round.")
    sync_timeout_s: float = Field(120, gt=0, description="Weights into every engine.")
    max_actor_restarts: int = Field(2, ge=0, description="Restarts of a dead rollout or reward actor.")


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
        for field, text in (("train", self.prompts.train), ("heldout", self.prompts.heldout)):
            if text is not None and "{lang}" not in text:
                raise ValueError(f"prompts.{field}: '{text}' has no {{lang}}; put it where the code goes")
        return self
