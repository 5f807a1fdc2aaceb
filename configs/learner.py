"""The objective and the optimiser."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from configs.base import Section


class LearnerConfig(Section):
    """The objective (third axis of a method) and how it is optimised."""

    workers: int = Field(1, ge=1, description="Data-parallel ranks of the learner group.")
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs that Ray reserves for a rank.")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs that Ray reserves for a rank.")
    objective: Literal["sigmoid", "ipo", "rloo"] = Field(
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
