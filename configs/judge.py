"""The judge: a language model behind an OpenAI-compatible endpoint that says which of two answers is better."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from configs.base import Section
from configs.errors import shortened

REASONING_TOKENS = 64  # fewer leave no room for a reasoned verdict


class JudgeConfig(Section):
    """Which judge is asked, how, and what may go wrong with it. Every pair of answers is asked in both orders."""

    base_url: str | None = Field(
        None, description="Address of an OpenAI-compatible server up to `/v1`, e.g. `http://localhost:8000/v1`."
    )
    model: str | None = Field(None, description="The judge's name on that server.")
    revision: str = Field(
        "",
        description="Tells apart what a server serves under one name; part of the key under which verdicts are kept.",
    )
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="NAME of the environment variable that holds the API key; never the key itself. On a cluster it "
        "must be set where the reward actors run.",
    )
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
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        description="Further fields of every request, e.g. `{chat_template_kwargs: {enable_thinking: false}}`.",
    )
    timeout_s: float = Field(60, gt=0, description="One request.")
    deadline_s: float = Field(300, gt=0, description="One question, with all its retries and waits.")
    max_concurrency: int = Field(16, ge=1, description="Requests in flight, of each process that asks.")
    max_retries: int = Field(
        6,
        ge=0,
        description="Further attempts after no answer, 429 or 5xx, with exponential back-off and jitter; "
        "`Retry-After` is honoured.",
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
        self._check_url()
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
        owned = {"model", "messages", "stream", "n", "logprobs", "top_logprobs", "max_tokens", "temperature"}
        for key in sorted(owned & self.extra_body.keys()):
            cure = f"set judge.{key} instead" if key in type(self).model_fields else "remove it"
            raise ValueError(f"extra_body.{key}: {cure}")
        if self.deadline_s < self.timeout_s:
            raise ValueError(
                f"deadline_s: {self.deadline_s:g} is shorter than timeout_s {self.timeout_s:g}; raise it or lower that"
            )
        return self

    def _check_url(self) -> None:
        if self.base_url is None:
            return
        shown = shortened(self.base_url)
        try:
            parts = urlsplit(self.base_url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # half an IPv6 address, a port that is no number
            usable = False
        if not usable:
            raise ValueError(f"base_url: '{shown}' is no address; expected e.g. http://localhost:8000/v1")
        if parts.username or parts.password:
            raise ValueError(
                "base_url: holds credentials, which would be shown; name a variable with the key (api_key_env)"
            )
        if parts.path.rstrip("/").endswith("/completions"):
            raise ValueError(f"base_url: '{shown}' names a method of the API; leave out what follows /v1")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Price of so many tokens; None without prices."""
        if self.price_per_million_input is None or self.price_per_million_output is None:
            return None
        return (
            prompt_tokens * self.price_per_million_input + completion_tokens * self.price_per_million_output
        ) / 1_000_000
