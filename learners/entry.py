"""What Ray Train is given: light to import, since its controller unpickles it and needs none of torch."""

from __future__ import annotations

from configs.json_types import JsonObject
from learners.loop_config import LoopConfig


def train_loop(settings: JsonObject) -> None:
    """Entry point of every rank."""
    from learners.loop import run_rank

    run_rank(LoopConfig(**settings))
