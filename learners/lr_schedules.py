"""Learning rates: the factor on the peak rate at each optimiser step. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable


def rate_factor(schedule: str, warmup_steps: int, total_steps: int | None) -> Callable[[int], float]:
    """The factor at a step (the first is step 0), between 0 and 1.

    Warm-up rises by ``1 / (warmup_steps + 1)`` a step, so that no step is spent at rate 0 (as the first one of
    Transformers' warm-ups is) and the first step after it is at the peak. Then ``constant`` stays, ``linear`` falls in
    equal parts and ``cosine`` along half a cosine; both reach 0 at ``total_steps`` and stay there.

    Args:
        schedule: ``constant``, ``linear`` or ``cosine``.
        warmup_steps: Steps before the peak.
        total_steps: First step at rate 0; not needed by ``constant``.
    """

    def factor(step: int) -> float:
        if total_steps is None or step < warmup_steps:
            return min(1.0, (step + 1) / (warmup_steps + 1))
        done = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
        return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))

    return factor
