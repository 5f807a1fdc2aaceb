"""Weights & Biases as a tracker: ``run.trackers: [wandb]``, with the extra ``isogloss[wandb]``.

Loaded when a run starts, so that what would fail at the first row is refused then. Its own environment variables hold:
``WANDB_PROJECT`` (by default isogloss), ``WANDB_ENTITY``, ``WANDB_MODE=offline``, ``WANDB_API_KEY``.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from actors.observe.metrics import START, scalars_of
from configs.errors import UserError
from configs.json_types import JsonMapping
from configs.yaml12 import read_yaml

try:
    import wandb
except ModuleNotFoundError:
    raise UserError(
        "run.trackers: wandb is not installed; install isogloss[wandb], or take it out of run.trackers"
    ) from None

_LOCAL = ("offline", "disabled", "dryrun")  # modes that send nothing
_sent: dict[str, dict[str, float]] = {}  # of the run that is logged to: what each row has said


def _check_login() -> None:
    mode = os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
    if mode not in _LOCAL and not wandb.login(verify=False, prompt=False):
        raise UserError("run.trackers: wandb has no key; run `wandb login`, set WANDB_API_KEY, or WANDB_MODE=offline")


_check_login()


def track(row: JsonMapping, folder: Path) -> None:
    """Log a round's numbers, by round; of a row that comes again only those that are new.

    A run that is resumed continues in the same run of Weights & Biases.

    Args:
        row: Of ``metrics.jsonl``.
        folder: The run's.
    """
    run = _run(folder)
    steps: list[tuple[int, JsonMapping]] = [(row["round"], {k: v for k, v in row.items() if k != START})]
    if START in row:
        steps.insert(0, (0, {"heldout": row[START]}))
    for step, values in steps:
        known = _sent.setdefault(f"{run.id}/{step}", {})
        fresh = {name: value for name, value in scalars_of(values) if known.get(name) != value}
        if fresh:
            run.log({"round": step, **fresh})
            known.update(fresh)


def _run(folder: Path) -> Any:
    name = folder.resolve()
    key = hashlib.sha256(str(name).encode()).hexdigest()[:16]
    if wandb.run is not None and wandb.run.id == key:
        return wandb.run
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "isogloss"),
        name=name.name,
        id=key,
        resume="allow",
        dir=str(name),
        config=read_yaml(name / "config.yaml", "config of a run"),
        settings=wandb.Settings(console="off", silent=True),
    )
    run.define_metric("round")
    run.define_metric("*", step_metric="round")
    return run
