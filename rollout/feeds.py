"""Which chunks an engine samples in one go, without a pause between them.

A sequence's logits depend in their last bits on what shares its step, unless the model is small (docs/benchmarks.md). A
feed is therefore sampled whole or not at all: its composition depends on the config and the round alone, and one that
was interrupted is sampled again from its start, so that each request sees what it saw before.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from configs.sampling import RolloutConfig
from rollout.plan import Chunk

# Requests of a feed, in multiples of what an engine decodes at once. Only at a feed's end are slots free, for as long
# as its longest answer takes: about 4 % of its time. A kill costs at most that much work an engine.
FILLS = 16


def deal(rollout: RolloutConfig, chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Feeds of a round (or of an evaluation), each with its chunks in their order.

    Neighbours go to different feeds, and not the same languages always to the same one.
    """
    streams = rollout.streams or rollout.actors
    requests = sum(len(chunk.requests) for chunk in chunks)
    feeds = streams * max(1, ceil(requests / (streams * FILLS * rollout.max_num_seqs)))
    dealt: list[list[Chunk]] = [[] for _ in range(feeds)]
    for index, chunk in enumerate(chunks):
        dealt[(index + index // feeds) % feeds].append(chunk)
    return [feed for feed in dealt if feed]
