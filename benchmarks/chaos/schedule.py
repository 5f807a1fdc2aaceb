"""What is killed when: a seeded plan, made before anything runs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

Victim = Literal["driver", "rollout", "reward", "learner", "store", "raylet", "gcs"]
VICTIMS: tuple[Victim, ...] = get_args(Victim)

# These are replaced while the run continues; with any other the run ends, and is resumed.
REPLACED: tuple[Victim, ...] = ("rollout", "reward", "learner")

Damage = Literal["checkpoint flipped", "checkpoint cut", "journal flipped", "journal cut", "disk full", "read-only"]
DAMAGES: tuple[Damage, ...] = get_args(Damage)


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL.

    Attributes:
        victim: Which process.
        starting: Whether the moment lies in the start of a run, before all of its actors are up.
        at: The moment: a share (0 to 1) of the start's length in the undisturbed run, or of the work that is left.
    """

    victim: Victim
    starting: bool
    at: float


def kills(seed: int, count: int, starting_share: float = 0.25) -> Iterator[Kill]:
    """The first ``count`` kills of a seed. Victims come in shuffled rows of all seven, so that none is left out.

    Args:
        seed: Of the plan; the plan of a larger count begins with that of a smaller one.
        count: How many.
        starting_share: How many of them hit a run that is still starting.
    """
    draw = random.Random(f"kills {seed}")
    row: list[Victim] = []
    for _ in range(count):
        if not row:
            row = list(VICTIMS)
            draw.shuffle(row)
        yield Kill(row.pop(), draw.random() < starting_share, draw.random())
