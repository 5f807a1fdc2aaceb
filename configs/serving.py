"""How the current policy is served, to whom, and what a new version must pass first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from configs.base import MAX_PARTS, Section
from configs.engine import EngineSection

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9.-]+(:[0-9]{1,5})?|[a-z]+://\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?")
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")


class GateConfig(Section):
    """What a new version must pass before it is served."""

    kind: Literal["none", "heldout", "win_rate"] = Field(
        "none",
        description="`none`: every published version is served. `heldout`: refused where the mean sampled accuracy of "
        "the other languages is below the served version's, the whole 95 % interval of the difference under 0. "
        "`win_rate`: refused where it wins fewer held-out prompts against the served version than `min_win_rate`.",
    )
    min_win_rate: float = Field(
        0.5, ge=0, le=1, description="For `win_rate`: share of (prompt, language) won, ties counted half."
    )
    min_right_language: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Also refuse a version that answers in the right language less often than this in any language.",
    )

    @property
    def needs_evaluation(self) -> bool:
        """Whether the gate reads held-out results."""
        return self.kind != "none" or self.min_right_language is not None


class ServeConfig(EngineSection):
    """An OpenAI-compatible endpoint of the current policy (Ray Serve and vLLM)."""

    enabled: bool = Field(False, description="Serve during training; `isogloss serve` serves without it.")
    host: str = Field("127.0.0.1", description="Address to listen on; others than loopback need API keys.")
    port: int = Field(8001, ge=1, le=65535, description="Port to listen on.")
    model_name: str | None = Field(None, description="Name of the model in requests; default is the run's name.")
    min_replicas: int = Field(1, ge=1, le=MAX_PARTS, description="Replicas (one vLLM engine each) that are always up.")
    max_replicas: int = Field(
        1, ge=1, le=MAX_PARTS, description="Replicas under load; their CPUs are kept free for them."
    )
    target_ongoing_requests: float = Field(
        32, gt=0, description="Requests that a replica may have before Ray Serve adds another."
    )
    upscale_delay_s: float = Field(10, gt=0, description="How long they have more before one is added.")
    downscale_delay_s: float = Field(300, gt=0, description="How long they have less before one goes.")
    cpus_per_replica: float = Field(1.0, gt=0, description="CPUs that Ray reserves for a replica.")
    gpus_per_replica: float = Field(0.0, ge=0, description="GPUs that Ray reserves for a replica.")
    kv_cache_gb: float = Field(0.25, gt=0, description="Key-value cache of a replica, GiB.")
    max_num_seqs: int = Field(64, ge=1, description="Sequences that a replica decodes at once.")
    stream_interval: int = Field(
        1, ge=1, description="Least tokens of a streamed chunk (the first token comes alone); more cost less CPU."
    )
    chunk_ms: float = Field(
        40,
        ge=0,
        description="Under load (8 requests or more at a replica), tokens of a stream that come within that many "
        "milliseconds share a chunk, unless the request names its own `stream_interval`. 0: never.",
    )
    max_length: int | None = Field(
        None,
        ge=2,
        description="Longest prompt plus completion, tokens; default is the run's `model.max_length`, or of a model "
        "folder all positions that the model has. A lower one needs less key-value cache.",
    )
    max_tokens: int = Field(
        512,
        ge=1,
        description="Longest completion that a request may ask for. A request without `max_tokens` gets what its "
        "prompt leaves of the length, and no more than this.",
    )
    max_sequences: int = Field(16, ge=1, description="Completions of one request: prompts times `n`.")
    max_body_kb: int = Field(256, ge=1, description="Largest request body, KiB; beyond it 413.")
    max_concurrent: int = Field(256, ge=1, description="Requests at a replica; beyond it 429 and Retry-After.")
    request_timeout_s: float = Field(120, gt=0, description="Longest that a request may take; then 504.")
    drain_s: float = Field(
        5.0,
        ge=0,
        description="At a swap, how long running requests may finish on the old weights; what still runs then "
        "continues with the new ones, and its reply names both versions.",
    )
    spare_engine: bool = Field(
        False,
        description="Keep a second engine in each replica (twice the memory), which takes new weights while the first "
        "one answers, so that no request waits for a swap. On CPUs.",
    )
    api_keys_file: Path | None = Field(None, description="File with one API key a line.")
    api_keys_env: str | None = Field(None, description="Environment variable with API keys, separated by commas.")
    cors_origins: list[str] = Field(
        [],
        description="Origins whose pages may call the endpoint from a browser, such as `https://chat.example.org`, or "
        "`*` for any. Empty: none.",
    )
    canary_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the replicas, rounded up to whole ones, that serve a new version first; it becomes the "
        "current one by `isogloss promote`. 0: a version that passes the gate is served by all at once.",
    )
    gate: GateConfig = GateConfig()

    @model_validator(mode="after")
    def _consistent(self) -> ServeConfig:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas: {self.min_replicas} is above max_replicas {self.max_replicas}; swap them")
        if self.host not in LOOPBACK_HOSTS and self.api_keys_file is None and self.api_keys_env is None:
            raise ValueError(
                f"host: {self.host} can be reached from other machines, so callers need API keys; set "
                "serve.api_keys_file or serve.api_keys_env, or host to 127.0.0.1"
            )
        for origin in self.cors_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"cors_origins: {origin[:100]!r} is no origin; write scheme and host, and the port where there is "
                    "one, such as https://chat.example.org or http://localhost:3000, without a path"
                )
        if self.spare_engine and self.gpus_per_replica > 0:
            raise ValueError(
                "spare_engine: two engines cannot share a GPU's memory as vLLM counts it; set it to false, or "
                "gpus_per_replica to 0"
            )
        if self.canary_share > 0 and self.min_replicas < 2:
            raise ValueError(
                "canary_share: a canary is a replica of its own; set min_replicas to at least 2 or canary_share to 0"
            )
        return self

    @property
    def on_gpu(self) -> bool:
        """Whether the engines have GPUs."""
        return self.gpus_per_replica > 0

    def canary_replicas(self, replicas: int) -> int:
        """How many of ``replicas`` serve a canary: the share rounded up, but never all of them."""
        if self.canary_share <= 0 or replicas < 2:
            return 0
        return min(replicas - 1, -int(-(self.canary_share * replicas) // 1))
