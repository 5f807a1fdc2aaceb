"""Which prompts a round takes: a pure function, so that a resume needs no state."""

from __future__ import annotations

import random
from collections.abc import Sequence

from rollout.seeds import stable_seed


def round_prompt_ids(ids: Sequence[str], round_number: int, per_round: int, seed: int) -> tuple[str, ...]:
    """The ids of one round.

    The ids form an endless sequence of epochs, each a seeded permutation of all ids; round ``r`` takes positions
    ``[(r - 1) * n, r * n)``. Where a round runs over the end of an epoch, the ids it has already taken are moved
    behind its share of the next epoch, so that no id comes twice in a round and each comes once an epoch.

    Args:
        ids: All ids, each once.
        round_number: From 1.
        per_round: ``n``; with ``n >= len(ids)`` every round takes all ids once.
        seed: Run seed.
    """
    if round_number < 1 or per_round < 1:
        raise ValueError(f"round {round_number} and per_round {per_round} must be at least 1")
    size = len(ids)
    if per_round >= size:
        return tuple(permutation(ids, round_number - 1, seed))
    start = (round_number - 1) * per_round
    taken: list[str] = []
    order: list[str] = []
    for epoch in range((start + per_round - 1) // size + 1):
        before = epoch * size % per_round  # how much of the round in progress lies in the previous epoch
        tail = set(order[size - before :])
        fresh = permutation(ids, epoch, seed)
        if tail:
            head = [i for i in fresh if i not in tail][: per_round - before]
            chosen = set(head)
            fresh = head + [i for i in fresh if i not in chosen]
        order = fresh
        low, high = max(start - epoch * size, 0), min(start + per_round - epoch * size, size)
        taken.extend(order[low:high])
    return tuple(taken)


def permutation(ids: Sequence[str], epoch: int, seed: int) -> list[str]:
    """The order of the ids in an epoch, from 0."""
    order = list(ids)
    random.Random(stable_seed("epoch", seed, epoch)).shuffle(order)
    return order
