"""How many cores the learner's process computes on, for a stage: more while the other stages are idle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute on ``count`` threads within the block, and on as many as before after it, however it ends.

    Sums over several threads are in another order: results of different counts differ in their last digits, those of
    one count are equal.

    Args:
        count: Threads, at least 1.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
