"""Which pairs make which step, and which rank and micro-batch each falls to. Pure, the same on every rank."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from configs.errors import UserError
from learners.encode import ChatEncoder
from learners.packing import Segment
from rollout.records import Pair


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A pair and its tokens."""

    pair: Pair
    segment: Segment  # completions are (chosen, rejected)


def encode_pairs(encoder: ChatEncoder, pairs: Sequence[Pair], max_length: int) -> list[EncodedPair]:
    """Tokens of each pair, sorted by pair id, so that nothing depends on the order of arrival.

    Raises:
        UserError: Two pairs share an id, or a pair is longer than ``max_length`` tokens.
    """
    encoded: list[EncodedPair] = []
    for pair in sorted(pairs, key=lambda pair: pair.id):
        if encoded and encoded[-1].pair.id == pair.id:
            raise UserError(f"pair {pair.id}: is there twice; pair ids must be unique")
        prompt = tuple(encoder.prompt_ids(pair.prompt))
        chosen = tuple(encoder.completion_ids(pair.chosen))
        rejected = tuple(encoder.completion_ids(pair.rejected))
        segment = Segment(prompt, (chosen, rejected))
        if segment.longest > max_length:
            raise UserError(
                f"pair {pair.id}: prompt and answer are {segment.longest} tokens, more than model.max_length "
                f"{max_length}; raise it or leave the pair out"
            )
        encoded.append(EncodedPair(pair, segment))
    return encoded


def steps_of_epoch(
    pairs: Sequence[EncodedPair], pairs_per_step: int, seed: int, round_number: int, epoch: int
) -> list[list[EncodedPair]]:
    """Split a round's pairs (sorted by id) into steps, in an order fixed by run seed, round and epoch."""
    order = list(pairs)
    random.Random(f"{seed}/{round_number}/{epoch}").shuffle(order)
    return [order[start : start + pairs_per_step] for start in range(0, len(order), pairs_per_step)]


def split_over_ranks(pairs: Sequence[EncodedPair], world_size: int) -> list[list[EncodedPair]]:
    """Balance tokens over ranks: longest first, each to the rank with the fewest tokens so far."""
    shares: list[list[EncodedPair]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    for pair in sorted(pairs, key=lambda pair: (-pair.segment.tokens, pair.pair.id)):
        rank = min(range(world_size), key=lambda rank: (loads[rank], rank))
        shares[rank].append(pair)
        loads[rank] += pair.segment.tokens
    return shares
