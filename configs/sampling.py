"""How candidates come to be, and what they must pass."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from configs.base import MAX_PARTS, LanguageCode, Section
from configs.engine import EngineSection
from configs.sources import SourceConfig


class RolloutConfig(EngineSection):
    """How candidates are sampled."""

    actors: int = Field(1, ge=1, le=MAX_PARTS, description="Number of vLLM rollout actors.")
    cpus_per_actor: float = Field(1.0, gt=0, description="CPUs that Ray reserves for an actor.")
    gpus_per_actor: float = Field(0.0, ge=0, description="GPUs that Ray reserves for an actor.")
    threads: int = Field(
        1,
        ge=1,
        le=MAX_PARTS,
        description="CPU threads of an engine.",
    )
    tensor_parallel: int = Field(1, ge=1, le=MAX_PARTS, description="GPUs that one engine is split over.")
    prompts_per_round: int = Field(256, ge=1, description="Prompts (ids) of a round; each in every language.")
    samples_per_prompt: int = Field(8, ge=1, description="Candidates a prompt and language.")
    temperature: float = Field(1.0, ge=0, description="Sampling temperature; 0 is greedy.")
    temperatures: list[Annotated[float, Field(ge=0)]] = Field(
        default_factory=list,
        max_length=64,
        description="Temperatures of a prompt's samples, in turn, instead of `temperature`: with [1.0, 0.5, 0.0] the "
        "third is the greedy answer. Faults of likely answers, such as loops, seldom show at temperature 1.",
    )
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling mass.")
    top_k: int = Field(-1, ge=-1, description="Sample among the k likeliest tokens; -1 is all.")
    min_p: float = Field(
        0.0, ge=0, le=1, description="Leave out tokens less likely than this times the likeliest; 0 is none."
    )
    repetition_penalty: float = Field(
        1.0,
        gt=0,
        le=10,
        description="Above 1, tokens of the prompt and of the answer so far are less likely; 1 is off.",
    )
    stop: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        default_factory=list,
        max_length=16,
        description="Texts that end an answer, and are cut off it; besides the end of turn and all of "
        "`eos_token_id` in the model's `generation_config.json`.",
    )
    max_new_tokens: int = Field(256, ge=1, description="Longest completion, in tokens, end of turn included.")
    max_new_tokens_by_language: dict[LanguageCode, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        description="The same for single languages. A tokenizer may need four times the tokens for Thai that it needs "
        "for English: a dry run shows how many, and what to write here.",
    )
    chunk_prompts: int = Field(
        32, ge=1, description="Prompts of a chunk, all of one language: the unit of streaming, scoring and the journal."
    )
    streams: int | None = Field(
        None,
        ge=1,
        le=MAX_PARTS,
        description="Streams that a round's chunks are dealt to, each sampled by one engine without a pause; the "
        "default is one for each actor that the run begins with. A stream that was interrupted is sampled again from "
        "its last boundary; there is one every 16 x `max_num_seqs` requests.",
    )
    kv_cache_gb: float = Field(0.25, gt=0, description="Key-value cache of an engine, GiB.")
    max_num_seqs: int = Field(256, ge=1, description="Sequences that an engine decodes at once.")

    @property
    def on_gpu(self) -> bool:
        """Whether the engines have GPUs."""
        return self.gpus_per_actor > 0

    @property
    def unused(self) -> tuple[str, ...]:
        """A line on each field that is set and that another one replaces."""
        if self.temperatures and self.temperature != RolloutConfig.model_fields["temperature"].default:
            return (f"rollout.temperature: {self.temperature:g} is not used, rollout.temperatures go before it",)
        return ()

    def temperature_of(self, sample: int) -> float:
        """What a prompt's sample of this number, from 0, is drawn at."""
        return self.temperatures[sample % len(self.temperatures)] if self.temperatures else self.temperature

    def longest(self, code: str) -> int:
        """Tokens of the longest answer in a language."""
        return self.max_new_tokens_by_language.get(code, self.max_new_tokens)


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
    sources: list[SourceConfig] = Field(
        default_factory=list,
        max_length=100,
        description="Named sources of candidates, each of a `kind` (docs/training.md): `policy`, `endpoint`, "
        "`translation`, `file`, `custom`. Instead of `source`. One pool: the miner (`pairs`) goes by their names.",
    )
    cache: Path | None = Field(
        None,
        description="SQLite file that keeps what endpoints and commands answered, so that nothing is asked twice; "
        "default `answers.sqlite` in the run folder.",
    )
    untranslated_ids: Path | None = Field(
        None,
        description="JSON lines with the ids of prompts that are themselves about translation: there the dominant "
        "language's answer is chosen as it is (LIDR).",
    )


class GatesConfig(Section):
    """What a candidate must pass before it can enter a pair; each refusal is counted by language."""

    language: bool = Field(True, description="Refuse answers that are detected to be in another language.")
    language_min_chars: int = Field(
        8, ge=0, description="Below this length detection is unsure and the gate lets the answer pass."
    )
    truncated: bool = Field(True, description="Refuse answers that hit the token limit.")
    empty: bool = Field(True, description="Refuse answers without visible text, and `garbled` ones (U+FFFD).")
    duplicates: bool = Field(True, description="Keep one of several equal answers to a prompt.")
