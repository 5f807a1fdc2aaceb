"""What an engine is asked for, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One completion to sample.

    Attributes:
        prompt_ids: Whole prompt as token ids, with exactly one BOS where the model wants one.
        temperature: 0 is greedy.
        top_p: Nucleus mass.
        top_k: -1 is all tokens.
        max_new_tokens: Longest completion, end of turn included; cut down where the context has less room.
        seed: Below 2**63.
        stop_ids: Tokens that end the completion, besides the tokenizer's EOS.
        min_p: Tokens less likely than this times the likeliest are left out; 0 is none.
        repetition_penalty: Above 1, tokens that are there already are less likely.
        stop: Texts that end the completion, and are cut off its text.
        logprobs: Whether the tokens' log-probabilities are wanted.
    """

    prompt_ids: tuple[int, ...]
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    seed: int
    stop_ids: tuple[int, ...] = ()
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Generated:
    """One completion: tokens as sampled (the stop token included) and their text without special tokens.

    ``logprobs`` has each token's log-probability (nats) under the model itself, little-endian float32: at temperature 1
    and before anything is cut off the distribution, whatever it was sampled with. None where it was not wanted.
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: bytes | None = None


def until(text: str, stop: Sequence[str]) -> str:
    """What stands before the first of some texts; everything where none is there."""
    return text[: min((place for end in stop if (place := text.find(end)) >= 0), default=len(text))]
