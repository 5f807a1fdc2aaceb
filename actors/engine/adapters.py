"""Adapters in vLLM: what an engine is told that is to apply them, and what a user is told whose model takes none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from configs.errors import UserError
from configs.json_types import JsonObject
from configs.schema import LoraConfig

# Ranks that vLLM makes room for.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def lora_settings(lora: LoraConfig) -> JsonObject:
    """Settings of an engine that computes with one adapter of this kind."""
    rank = next(rank for rank in _RANKS if rank >= lora.rank)
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}


@contextmanager
def merged_is_the_cure() -> Iterator[None]:
    """Say what to do where vLLM cannot apply adapters: to a model of this kind, or to layers of this kind.

    Raises:
        UserError: It cannot.
    """
    try:
        yield
    except ValueError as error:
        if "lora" not in str(error).lower():
            raise
        raise UserError(f"learner.lora.publish: vLLM cannot apply the adapter ({error}); set it to merged") from error
