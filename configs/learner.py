"""The objective and the optimiser."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from configs.base import MAX_PARTS, Section
from configs.deepspeed import deepspeed_options
from configs.errors import UserError
from configs.plugins import PLUGIN_PATTERN, check_named
from configs.reading import shown


class LoraConfig(Section):
    """Train low-rank adapters (arXiv 2106.09685), W + alpha / rank * B A; without this section, all weights."""

    rank: int = Field(8, ge=1, le=512, description="Rank of B A.")
    alpha: float = Field(16.0, gt=0, description="The product is scaled by alpha / rank.")
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = Field(
        "all-linear",
        description="Ends of the names of the linear layers that get an adapter; `all-linear` is every one but the "
        "output layer.",
    )
    publish: Literal["merged", "adapter"] = Field(
        "merged",
        description="What travels to the engines: full weights with the adapter added, or the adapter alone, which "
        "vLLM then applies itself (less to send, somewhat slower sampling).",
    )


Objective = Literal[
    "sigmoid",
    "robust",
    "ipo",
    "ipo_mean",
    "hinge",
    "simpo",
    "cpo",
    "kto",
    "dpop",
    "apo_zero",
    "apo_down",
    "sigmoid_norm",
    "rloo",
    "group",
]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
GROUP_OBJECTIVES: tuple[Objective, ...] = ("rloo", "group")  # all others take pairs


def _known_objective(name: str) -> str:
    try:
        check_named(name, "objective", "isogloss.objectives", OBJECTIVES)
    except UserError as error:
        raise PydanticCustomError("named", "{problem}", {"problem": str(error).removeprefix("objective: ")}) from None
    if name not in OBJECTIVES and not re.match(PLUGIN_PATTERN, name):
        raise PydanticCustomError(
            "named", "{problem}", {"problem": f"'{shown(name, 80)}' is no package.module:function"}
        )
    return name


ObjectiveName = Annotated[
    str,
    AfterValidator(_known_objective),
    WithJsonSchema({"anyOf": [{"enum": list(OBJECTIVES)}, {"type": "string", "pattern": PLUGIN_PATTERN}]}),
]


class GroupConfig(Section):
    """The switches of `objective: group`; `configs/methods/` has GRPO, Dr. GRPO, DAPO's loss and GSPO by name."""

    advantage: Literal["loo", "group_mean", "group_z", "batch_z"] = Field(
        "group_z",
        description="Reward less the mean of the others (`loo`), or of the group (`group_mean`), that by the group's "
        "standard deviation (`group_z`) or by that of all answers of a step (`batch_z`).",
    )
    ratio: Literal["sequence", "sequence_mean", "token"] = Field(
        "token",
        description="Importance ratio to the round's start: of whole answers, its geometric mean over their tokens "
        "(GSPO, arXiv 2507.18071), or of each token.",
    )
    aggregate: Literal["sequence", "token", "constant"] = Field(
        "sequence",
        description="Mean over an answer's tokens, then over answers (`sequence`); over all tokens of a step "
        "(`token`); or sum over tokens by `length`, mean over answers (`constant`).",
    )
    length: int | None = Field(
        None, ge=1, description="Tokens that `aggregate: constant` divides by, e.g. `rollout.max_new_tokens`."
    )
    clip_low: float = Field(0.2, gt=0, lt=1, description="The ratio is clipped at 1 - `clip_low`.")
    clip_high: float = Field(0.2, gt=0, lt=100, description="The ratio is clipped at 1 + `clip_high`.")
    kl: Literal["reward", "k3", "off"] = Field(
        "off",
        description="Divergence from `learner.reference`: log-ratio of whole answers off the reward, Schulman's k3 of "
        "each token in the loss, or none (and no reference is computed).",
    )
    kl_weight: float = Field(0.04, ge=0, description="Weight of that.")

    @model_validator(mode="after")
    def _consistent(self) -> GroupConfig:
        if (self.aggregate == "constant") != (self.length is not None):
            raise ValueError("length: is for aggregate constant, which needs it; set both or neither")
        if self.advantage == "batch_z" and self.kl == "reward":
            raise ValueError("kl: reward changes with every token trained on, and batch_z needs fixed ones; set k3")
        return self


_PAIRS = tuple(name for name in OBJECTIVES if name not in GROUP_OBJECTIVES)
# Fields that only some objectives use.
_USED_BY: dict[str, tuple[Objective, ...]] = {
    "group": ("group",),
    "beta": _PAIRS,
    "nll_weight": _PAIRS,
    "reference": tuple(name for name in OBJECTIVES if name not in ("simpo", "cpo")),
    "reference_logprobs": tuple(name for name in OBJECTIVES if name not in ("simpo", "cpo")),
    "label_smoothing": ("sigmoid", "sigmoid_norm", "robust", "simpo", "cpo"),
    "simpo_gamma": ("simpo",),
    "dpop_lambda": ("dpop",),
    "kto_desirable_weight": ("kto",),
    "kto_undesirable_weight": ("kto",),
    "rloo_kl_weight": ("rloo",),
    "rloo_clip": ("rloo",),
}


class LearnerConfig(Section):
    """The objective (third axis of a method) and how it is optimised."""

    workers: int = Field(1, ge=1, le=MAX_PARTS, description="Data-parallel ranks of the learner group.")
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs that Ray reserves for a rank.")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs that Ray reserves for a rank.")
    threads: int | None = Field(
        None,
        ge=1,
        le=MAX_PARTS,
        description="CPU threads of a rank: the order of its sums depends on them. The default is 1, with "
        "`cluster.colocate` a rank's share of the cores that the run's first start finds, unless the model's weights "
        "are below 64 MiB.",
    )
    objective: ObjectiveName = Field(
        "sigmoid",
        description="Loss. On pairs: DPO (`sigmoid`, arXiv 2305.18290), `robust` (2403.00409), `ipo` (2310.12036) "
        "and `ipo_mean` (length-normalised), `hinge` (2309.06657), `simpo` (2405.14734), `cpo` (2401.08417), `kto` "
        "(2402.01306), `dpop` (2402.13228), `apo_zero` and `apo_down` (2408.06266). `sigmoid_norm` "
        "is DPO of means over tokens. On groups: `rloo` (2402.14740), or the switches of `group`. A function of your "
        "own over pairs: `package.module:function`, or an entry point of `isogloss.objectives` (docs/extending.md).",
    )
    objective_options: dict[str, object] = Field(
        default_factory=dict,
        description="Keyword arguments of an objective of your own.",
    )
    beta: float = Field(0.1, gt=0, description="Inverse temperature of the preference loss (`simpo`: 2 to 10).")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of flipped preferences assumed: conservative DPO, robust; `simpo`, `cpo`."
    )
    nll_weight: float = Field(
        1.0, ge=0, description="Weight of the per-token mean NLL of the chosen answer (all but `rloo`)."
    )
    simpo_gamma: float = Field(0.5, ge=0, description="Target margin of the rewards (`simpo`).")
    dpop_lambda: float = Field(50.0, ge=0, description="Penalty on a chosen answer below its reference (`dpop`).")
    kto_desirable_weight: float = Field(1.0, gt=0, description="Weight of chosen answers (`kto`).")
    kto_undesirable_weight: float = Field(1.0, gt=0, description="Weight of rejected answers (`kto`).")
    rloo_kl_weight: float = Field(0.05, ge=0, description="Weight of the log-ratio to the reference in the reward.")
    rloo_clip: float = Field(0.2, gt=0, lt=1, description="Clip range of the ratio to the round's start (`rloo`).")
    group: GroupConfig = GroupConfig()
    reference: Literal["previous_round", "initial"] = Field(
        "previous_round",
        description="Reference of the loss: the policy the round began with, or the start (not `simpo`, `cpo`).",
    )
    reference_logprobs: Literal["learner", "sampler", "auto"] = Field(
        "learner",
        description="Who computes the log-probabilities under the reference. `sampler`: those of answers that the "
        "round's own start sampled come from the rollouts, the others from the learner. `auto`: likewise, unless the "
        "two engines differ by more than 0.02 nats a token or 1e-3 in the first loss.",
    )
    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate of AdamW.")
    warmup_steps: int = Field(0, ge=0, description="Linear warm-up, in optimiser steps.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="After the warm-up: constant, or falling to 0 at `total_steps`, straight or as a cosine.",
    )
    total_steps: int | None = Field(
        None, ge=1, description="Optimiser steps of the whole run, warm-up included; needed by linear and cosine."
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient clipping.")
    epochs: int = Field(1, ge=1, description="Passes over the round's pairs.")
    pairs_per_step: int = Field(32, ge=1, description="Pairs (`rloo`: groups) of one optimiser step, all ranks.")
    tokens_per_micro_batch: int = Field(4096, ge=1, description="Token budget of one packed forward pass.")
    logprob_chunk: int = Field(1024, ge=1, description="Completion positions whose logits are held at once.")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        1,
        description="DeepSpeed ZeRO stage. One rank has nothing to partition: without options in "
        "`deepspeed` it runs stages 1 and 2 as 0.",
    )
    activation_checkpointing: bool = Field(
        False, description="Keep only the layers' inputs and compute the rest again in the backward pass."
    )
    lora: LoraConfig | None = Field(None, description="Train low-rank adapters; all weights by default.")
    deepspeed: dict[str, object] = Field(
        default_factory=dict,
        description="Further DeepSpeed options in its own form, `optimizer`, `scheduler` and CPU offload included. "
        "May not contradict fields above; `auto` takes their value.",
    )
    keep_checkpoints: int = Field(2, ge=1, description="Newest round checkpoints kept.")
    max_failures: int = Field(2, ge=0, description="Restarts of the learner group before the run gives up.")

    @property
    def on_groups(self) -> bool:
        """Whether it trains on groups of scored answers instead of pairs."""
        return self.objective in GROUP_OBJECTIVES

    @model_validator(mode="after")
    def _consistent(self) -> LearnerConfig:
        for name, users in _USED_BY.items():
            default = type(self).model_fields[name].default
            if self.objective not in OBJECTIVES or self.objective in users:
                continue
            if getattr(self, name) not in (default, 0.0):
                raise ValueError(
                    f"{name}: not used by objective {self.objective}; remove it (it is for {', '.join(users)})"
                )
        if self.reference_logprobs == "sampler" and self.reference != "previous_round":
            raise ValueError(
                "reference_logprobs: the sampler has the policy that a round begins with; set reference to "
                "previous_round, or reference_logprobs to learner"
            )
        if self.objective in OBJECTIVES and self.objective_options:
            raise ValueError(f"objective_options: are for an objective of your own, not {self.objective}; remove them")
        if self.pairs_per_step < self.workers:
            raise ValueError(
                f"pairs_per_step: {self.pairs_per_step} is fewer than the {self.workers} workers; raise it"
            )
        if self.schedule == "constant" and self.total_steps is not None:
            raise ValueError("total_steps: has no effect with schedule constant; remove it or set linear or cosine")
        if self.schedule != "constant" and self.total_steps is None:
            raise ValueError(f"total_steps: schedule {self.schedule} needs it; set it to the run's optimiser steps")
        if self.total_steps is not None and self.total_steps <= self.warmup_steps:
            raise ValueError(f"total_steps: {self.total_steps} ends within warmup_steps {self.warmup_steps}; raise it")
        deepspeed_options(self)
        return self
