"""Where things lie in a run's folder: names that the driver, the learner, evaluation and serving share."""

from __future__ import annotations

import re
from pathlib import Path

JOURNAL = "store.sqlite"
CHECKPOINTS = "checkpoints"
POLICY_LINK = "policy"
RUN_LOCK = ".lock"


def checkpoint_folder(run_dir: Path, round_number: int) -> Path:
    """Where the checkpoint of a round lies."""
    return run_dir / CHECKPOINTS / f"round-{round_number:04d}"


def round_of(checkpoint: Path) -> int:
    """The round of a checkpoint's folder."""
    return int(checkpoint.name.removeprefix("round-"))


def checkpoint_folders(run_dir: Path) -> list[Path]:
    """Folders named like checkpoints, oldest round first; whether they are complete is not looked at."""
    found = (run_dir / CHECKPOINTS).glob("round-*")
    return sorted((path for path in found if re.fullmatch(r"round-\d{4,}", path.name)), key=round_of)
