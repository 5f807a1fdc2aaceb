"""An OpenAI-compatible server that is asked: its address, its key, and how patient one is with it."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, model_validator

from configs.base import Section
from configs.errors import shortened
from configs.json_types import JsonObject


class EndpointConfig(Section):
    """What every endpoint has, whatever it is asked for."""

    base_url: str | None = Field(
        None, description="Address of an OpenAI-compatible server up to `/v1`, e.g. `http://localhost:8000/v1`."
    )
    model: str | None = Field(None, description="The model's name on that server.")
    revision: str = Field(
        "",
        description="Tells apart what a server serves under one name; part of the key under which answers are kept.",
    )
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="NAME of the environment variable that holds the API key; never the key itself. On a cluster it "
        "must be set where the endpoint is asked from: a judge by the reward actors, a source by the driver.",
    )
    max_tokens: int | None = Field(None, ge=1, description="Longest answer; null leaves it to the server.")
    temperature: float | None = Field(
        None, ge=0, description="Of the server's sampling; null leaves it to the server, as some demand."
    )
    extra_body: JsonObject = Field(
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

    @model_validator(mode="after")
    def _usable(self) -> EndpointConfig:
        self._check_url()
        owned = {"model", "messages", "stream", "n", "logprobs", "top_logprobs", "max_tokens", "temperature"}
        for key in sorted(owned & self.extra_body.keys()):
            cure = f"set {key} beside extra_body instead" if key in type(self).model_fields else "remove it"
            raise ValueError(f"extra_body.{key}: {cure}")
        if self.deadline_s < self.timeout_s:
            raise ValueError(
                f"deadline_s: {self.deadline_s:g} is shorter than timeout_s {self.timeout_s:g}; raise it or lower that"
            )
        return self

    @property
    def unset(self) -> str | None:
        """The field without which no server can be asked; None where all are set."""
        return "base_url" if self.base_url is None else "model" if self.model is None else None

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


class GeneratorConfig(EndpointConfig):
    """A server that answers prompts or translates, named so that several sources can share it."""

    base_url: str = Field(
        ..., description="Address of an OpenAI-compatible server up to `/v1`, e.g. `http://localhost:8000/v1`."
    )
    model: str = Field(..., description="The model's name on that server.")
