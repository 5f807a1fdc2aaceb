"""What a world is built with, besides its language files. All of it is written to ``world.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of supervised training: passes over all facts, in which forms, and how truthful."""

    passes: int
    languages: Literal["pivot", "all"]
    noisy: bool  # answers are wrong as the language files say; else always true
    learning_rate: tuple[float, float]  # at the start and the end of the stage, linear between
    crosslingual_share: float = 0.0  # of the facts, a pass and language: asked in English, answered in the other
    translations: int = 0  # a pass, language and direction


@dataclass(frozen=True, slots=True)
class WorldSettings:
    """Sizes of the seed model and its training; the defaults are those of ``worlds/default``."""

    train_share: float = 0.6  # of the facts; the rest is held out from every preference pair
    # Model (Llama layout)
    vocab_size: int = 4608  # at most; every word of ten languages is one token
    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 3
    heads: int = 4
    max_positions: int = 512
    # Supervised training, in three stages
    stages: tuple[Stage, ...] = (
        Stage(passes=18, languages="pivot", noisy=False, learning_rate=(2e-3, 2e-3)),
        Stage(
            passes=14,
            languages="all",
            noisy=False,
            learning_rate=(2e-3, 7e-4),
            crosslingual_share=0.35,
            translations=100,
        ),
        Stage(
            passes=9,
            languages="all",
            noisy=True,
            learning_rate=(1.5e-3, 0.0),
            crosslingual_share=0.55,
            translations=120,
        ),
    )
    # Questions in English that ask for an answer in another language
    crosslingual_right_rate: float = 0.97  # true answers, in a noisy stage
    crosslingual_heldout: bool = False  # also about held-out facts; else about train facts alone
    sft_tokens_per_step: int = 1024
    # Preference training of the policy, on the pivot language alone
    wrong_answers: int = 4  # anchor pairs a train fact, each with another wrong value
    dpo_learning_rate: float = 1e-5
    dpo_nll_weight: float = 0.0
    dpo_epochs: int = 2
    dpo_pairs_per_step: int = 32
