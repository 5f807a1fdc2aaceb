"""What Ray Train is given: light to import, since its controller unpickles it and needs none of torch."""

from __future__ import annotations

from typing import Any

from learners.loop_config import LoopConfig


def train_loop(settings: dict[str, Any]) -> None:
    """Entry point of every rank."""
    from learners.loop import run_rank

    run_rank(LoopConfig(**settings))
