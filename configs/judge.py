"""The judge: a language model behind an OpenAI-compatible endpoint that says which of two answers is better."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from configs.endpoint import EndpointConfig

REASONING_TOKENS = 64  # fewer leave no room for a reasoned verdict


class JudgeConfig(EndpointConfig):
    """Which judge is asked, how, and what may go wrong with it. Every pair of answers is asked in both orders."""

    template: Literal["label", "reasoned"] = Field(
        "label",
        description="`label`: the judge answers with the label alone. `reasoned`: it reasons first; ties are allowed.",
    )
    logprobs: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Read the preference off the label's log-probability (template `label`). `auto`: where the server "
        "gives it, else off the words. `always`: a server without is refused.",
    )
    max_tokens: int | None = Field(
        16, ge=1, description="Longest answer of the judge; null leaves it to the server. A reasoned one needs more."
    )
    temperature: float | None = Field(
        0.0, ge=0, description="Of the judge's sampling; null leaves it to the server, as some demand."
    )
    max_failed_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Comparisons that may end without a verdict, as a share of those asked for at once (a chunk of a "
        "round, or an evaluation). They are counted and left out; with more of them the run stops and can be resumed.",
    )
    comparisons_per_candidate: int = Field(
        4,
        ge=2,
        description="With `reward.kind: judge`, how many others a candidate is compared with, at most. A prompt with "
        "n candidates costs n times this many questions.",
    )
    price_per_million_input: float | None = Field(None, ge=0, description="Price of a million tokens read.")
    price_per_million_output: float | None = Field(None, ge=0, description="Price of a million tokens written.")
    cache: Path | None = Field(
        None,
        description="SQLite file that keeps verdicts, so that none is asked for twice; default `judge.sqlite` in the "
        "run folder. Processes may share it; those of several machines only on a network file system with locks.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> JudgeConfig:
        if self.template == "reasoned":
            if self.logprobs == "always":
                raise ValueError(
                    "logprobs: always needs template label (a reasoned verdict has no single token); set it to auto"
                )
            if self.max_tokens is not None and self.max_tokens < REASONING_TOKENS:
                raise ValueError(
                    f"max_tokens: {self.max_tokens} leaves no room to reason; set it to {REASONING_TOKENS} or more, "
                    "e.g. 1024, or template to label"
                )
        if (self.price_per_million_input is None) != (self.price_per_million_output is None):
            raise ValueError("price_per_million_output: give both prices or neither")
        return self

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Price of these tokens; None without prices."""
        if self.price_per_million_input is None or self.price_per_million_output is None:
            return None
        return (
            prompt_tokens * self.price_per_million_input + completion_tokens * self.price_per_million_output
        ) / 1_000_000
