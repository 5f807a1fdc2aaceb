"""Which model folder holds a run's policy, and whether it is still there."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from configs.errors import UserError
from configs.model_config import is_model_folder
from rollout.run_layout import POLICY_LINK, checkpoint_folders


def run_policy(run: Path, start: Path) -> Path:
    """The newest policy of a run: what its ``policy`` points to, or its start where no round was trained.

    Args:
        run: Run folder.
        start: Model folder that the run starts from.

    Raises:
        UserError: Rounds were trained, but the newest policy is gone: the start would be taken for it.
    """
    link = run / POLICY_LINK
    if is_model_folder(link):
        return link
    trained = _trained(run)
    if not link.is_symlink() and not link.exists() and not trained:
        return start
    left = [path for path in checkpoint_folders(run) if is_model_folder(path)]
    there = f"name one that is left, such as {left[-1]}" if left else "no checkpoint is left"
    what = f"its newest policy ({link}) is gone" if trained else f"{link} does not lead to a model folder"
    rounds = f"trained {trained} rounds, but " if trained > 1 else f"trained {trained} round, but " if trained else ""
    raise UserError(f"{run}: {rounds}{what}; {there}, restore it, or name the model that the run starts from: {start}")


def _trained(run: Path) -> int:
    """Rounds that the run's own records name as trained."""
    found = [0]
    unreadable = (OSError, ValueError, TypeError, KeyError, AttributeError)
    with contextlib.suppress(*unreadable):  # written at the end of a run only
        found.append(int(json.loads((run / "summary.json").read_text(encoding="utf-8"))["weight_version"]))
    with contextlib.suppress(*unreadable):  # its last line may be cut
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            found.append(int(json.loads(line)["round"]))
    return max(found)
