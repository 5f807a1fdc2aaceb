"""How ``isogloss train-reward`` trains a reward model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from configs.base import LanguageCode, Section


class RewardTrainingConfig(Section):
    """Training of a reward model from preference pairs, `training.field=value` on the command line."""

    learning_rate: float = Field(1e-5, gt=0, le=1, description="Peak; linear warm-up, then linear to 0.")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which it rises.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Of AdamW.")
    epochs: int = Field(1, ge=1, le=1000, description="Passes over the pairs.")
    pairs_per_step: int = Field(64, ge=1, le=100_000, description="Pairs of an optimiser step.")
    pairs_per_micro_batch: int = Field(16, ge=1, le=100_000, description="Pairs of one forward pass, on each process.")
    max_length: int = Field(
        2048, ge=8, description="Longest conversation, tokens. Longer pairs are left out and counted, never cut."
    )
    heldout_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of each language's prompts whose pairs are kept for measuring accuracy; 0 trains on all and "
        "measures nothing.",
    )
    languages: list[LanguageCode] = Field(
        default_factory=list,
        max_length=1000,
        description="Languages that must have pairs, and whose pairs are used; by default all that are found.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Arithmetic; weights are kept and written in float32."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Of the new head, of which prompts are held out, and of order.")
    threads: int = Field(
        1, ge=1, le=1024, description="CPU threads; with another number results may differ in their last bits."
    )
    saves: int = Field(4, ge=0, le=1000, description="Checkpoints on the way, from which a stopped training continues.")

    @model_validator(mode="after")
    def _steps_divide(self) -> RewardTrainingConfig:
        if self.pairs_per_step % min(self.pairs_per_micro_batch, self.pairs_per_step):
            raise ValueError(
                f"pairs_per_micro_batch: {self.pairs_per_micro_batch} does not divide pairs_per_step "
                f"{self.pairs_per_step}; choose a divisor"
            )
        if len(set(self.languages)) != len(self.languages):
            raise ValueError("languages: a language is named twice; name each once")
        return self

    @property
    def micro_batch(self) -> int:
        """Pairs of one forward pass."""
        return min(self.pairs_per_micro_batch, self.pairs_per_step)
