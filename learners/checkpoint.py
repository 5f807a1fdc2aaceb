"""The checkpoints of a run as a whole: room for the next one, the newest policy, and which ones stay.

Each is complete or not there at all (``configs.atomic``); what it holds is in ``learners.checkpoint_layout``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from configs.atomic import point_link, remove_folder
from configs.errors import UserError
from configs.reading import gib_apart
from learners.checkpoint_layout import all_checkpoints
from rollout.run_layout import POLICY_LINK


def require_disk(folder: Path, needed_bytes: int, spare_gib: float) -> None:
    """Refuse to begin writing what would not fit.

    Args:
        folder: Where it will be written; need not exist.
        needed_bytes: Size of what will be written.
        spare_gib: What must be left free afterwards, GiB (``run.min_free_disk_gb``).
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free, needed = shutil.disk_usage(existing).free / 2**30, needed_bytes / 2**30
    if free < needed + spare_gib:
        there, wanted = gib_apart(free, needed)
        raise UserError(
            f"{folder}: {there} GiB of disk are free, but writing needs "
            f"{wanted} GiB and run.min_free_disk_gb keeps {spare_gib:g} GiB; "
            "free some space or lower that field, then continue with --resume. "
            "The last complete checkpoint is untouched"
        )


def point_policy(run_dir: Path, checkpoint: Path) -> None:
    """Make ``policy`` a relative link to ``checkpoint``, replacing the old link in one step."""
    point_link(run_dir / POLICY_LINK, checkpoint)


def retire_checkpoints(run_dir: Path, keep: int) -> list[Path]:
    """Delete all but the newest ``keep`` checkpoints, sparing the one that ``policy`` points to.

    Returns:
        What was deleted.
    """
    found = all_checkpoints(run_dir)
    link = run_dir / POLICY_LINK
    served = link.resolve() if link.is_symlink() else None
    retired = [path for path in found[: -max(1, keep)] if path.resolve() != served]
    for path in retired:
        remove_folder(path)
    return retired
