"""Preference pairs for a reward model: split by prompt, encoded, and what is left out of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from configs.errors import UserError
from configs.reading import shown
from configs.reward_training import RewardTrainingConfig
from learners.reward_model.text import RewardText
from rollout.formats.left_out import LeftOut
from rollout.preferences import Preference
from rollout.records import Turns
from rollout.seeds import stable_seed


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """Token ids of both conversations."""

    chosen: list[int]
    rejected: list[int]


@dataclass(frozen=True)
class Split:
    """Pairs to train on and pairs to measure with; no prompt is in both."""

    train: list[Preference]
    heldout: list[Preference]


def split_by_prompt(rows: Sequence[Preference], training: RewardTrainingConfig) -> Split:
    """Set a share of each language's prompts aside, at least one prompt a language.

    Which ones depends on the seed, the language and the prompt alone, never on the order of the file.

    Raises:
        UserError: A language that is asked for has no pairs, or has a single prompt, of which none can be held out.
    """
    by_language: dict[str, dict[Turns, int]] = {}
    for row in rows:
        prompts = by_language.setdefault(row.language, {})
        prompts.setdefault(row.prompt, stable_seed("reward-heldout", training.seed, row.language, repr(row.prompt)))
    for code in training.languages:
        if code not in by_language:
            found = ", ".join(sorted(by_language)) or "none"
            raise UserError(
                f"training.languages: there are no pairs in '{code}' (found: {shown(found)}); add some, or leave it out"
            )
    aside: set[tuple[str, Turns]] = set()
    for code, prompts in by_language.items():
        if training.heldout_share == 0:
            continue
        if len(prompts) < 2:
            raise UserError(
                f"training.heldout_share: language '{code}' has pairs of one prompt only, which cannot be both trained "
                "on and held out; add prompts, leave the language out (training.languages), or set the share to 0"
            )
        count = min(max(1, round(training.heldout_share * len(prompts))), len(prompts) - 1)
        aside |= {(code, prompt) for prompt in sorted(prompts, key=lambda one: (prompts[one], repr(one)))[:count]}
    split = Split([], [])
    for row in rows:
        (split.heldout if (row.language, row.prompt) in aside else split.train).append(row)
    return split


def fitting(
    rows: Sequence[Preference], text: RewardText, longest: int, vocabulary: int, left_out: LeftOut
) -> tuple[list[Preference], list[EncodedPair]]:
    """The pairs that the model can read, with their token ids; the others are counted in ``left_out``.

    Args:
        rows: All pairs.
        text: Encodes them.
        longest: Tokens of a conversation that are read.
        vocabulary: Rows of the model's embedding.
        left_out: Gets those that are too long, or encode to the same ids.

    Raises:
        UserError: A token has no row in the embedding: tokenizer and model do not belong together.
    """
    kept: list[Preference] = []
    encoded: list[EncodedPair] = []
    for row in rows:
        pair = EncodedPair(text.encode(row.prompt, row.chosen), text.encode(row.prompt, row.rejected))
        highest = max(*pair.chosen, *pair.rejected)
        if highest >= vocabulary:
            raise UserError(
                f"{row.where}: token {highest} has no place in the model's embedding of {vocabulary}; the folder's "
                "tokenizer belongs to another model, save both together again"
            )
        if max(len(pair.chosen), len(pair.rejected)) > longest:
            left_out.add(f"longer than {longest} tokens (training.max_length, or the model's positions)", row.where)
        elif pair.chosen == pair.rejected:
            left_out.add("both answers are the same tokens", row.where)
        else:
            kept.append(row)
            encoded.append(pair)
    return kept, encoded


def counts(rows: Sequence[Preference]) -> dict[str, int]:
    """Pairs by language."""
    return dict(sorted(Counter(row.language for row in rows).items()))


def data_digest(rows: Sequence[EncodedPair]) -> str:
    """SHA-256 of what training sees, in its order, hexadecimal."""
    found = hashlib.sha256()
    for row in rows:
        found.update(repr((row.chosen, row.rejected)).encode())
    return found.hexdigest()
