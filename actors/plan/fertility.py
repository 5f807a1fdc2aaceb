"""How many tokens each language needs: a limit in tokens is no equal limit (Petrov et al., arXiv 2305.15425)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from configs.schema import RolloutConfig
from rollout.prompts import PromptSet

_COUNTED = 200  # prompts of each language
_NOTABLE = 1.5  # times the dominant language's tokens from which on it is said


@dataclass(frozen=True, slots=True)
class Fertility:
    """Of one language: tokens a character, and times the dominant language's tokens for the same prompts."""

    per_character: float
    times_dominant: float


def fertility(prompts: PromptSet, count: Callable[[str], int]) -> dict[str, Fertility]:
    """By language, the dominant one first, over the first prompts that are there in all; nothing where none is.

    Args:
        prompts: Parallel, as far as they are.
        count: Tokens of a text by itself, at least 1.
    """
    everywhere = (i for i in prompts.ids if all((i, code) in prompts.rows for code in prompts.languages))
    ids = list(itertools.islice(everywhere, _COUNTED))
    if not ids:
        return {}
    tokens: dict[str, int] = {}
    characters: dict[str, int] = {}
    for code in prompts.languages:
        texts = [prompts.get(key, code).text for key in ids]
        tokens[code], characters[code] = sum(map(count, texts)), sum(map(len, texts))
    dominant = tokens[prompts.languages[0]]
    return {code: Fertility(tokens[code] / characters[code], tokens[code] / dominant) for code in prompts.languages}


def fertility_line(found: Mapping[str, Fertility]) -> str:
    """E.g. ``tokens a character: en 0.24, th 1.03 (4.1 times the tokens of en)``."""
    dominant = next(iter(found), "")
    cells = [
        f"{code} {one.per_character:.2f}"
        + ("" if code == dominant else f" ({one.times_dominant:.1f} times {dominant})")
        for code, one in found.items()
    ]
    return f"tokens a character, and tokens for the same prompts: {', '.join(cells)}"


def fertility_cure(found: Mapping[str, Fertility], rollout: RolloutConfig) -> str | None:
    """What to set where answers of some language have much less room than the dominant one's; None where none has."""
    if not found:
        return None
    dominant = next(iter(found))
    wanted = {code: math.ceil(rollout.longest(dominant) * one.times_dominant) for code, one in found.items()}
    short = {
        code: tokens
        for code, tokens in wanted.items()
        if found[code].times_dominant >= _NOTABLE and rollout.longest(code) * _NOTABLE <= tokens
    }
    if not short:
        return None
    values = ", ".join(f"{code}: {tokens}" for code, tokens in short.items())
    return (
        f"answers in {', '.join(short)} are cut off earlier than in {dominant}: rollout.max_new_tokens_by_language: "
        f"{{{values}}} gives them the same room"
    )
