"""All forms, the most particular first: the first whose columns a table has is taken."""

from __future__ import annotations

from rollout.formats import (
    alpaca,
    arena,
    arena_hard,
    aya,
    helpsteer3,
    language_confusion,
    messages,
    orca,
    reward_bench,
    ultrafeedback,
)

PREFERENCES = (helpsteer3.FORM, arena.FORM, orca.FORM, ultrafeedback.FORM, reward_bench.FORM)
PROMPTS = (arena_hard.FORM, language_confusion.FORM, aya.FORM, messages.FORM, alpaca.FORM)
