"""A small run over the embedded world, for tests of whole runs and of what can be wrong with one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from configs.load import load_config
from configs.schema import Config
from rollout.store import Store

ISOGLOSS = Path(sys.executable).with_name("isogloss")

# Two rounds that take seconds: few prompts, three languages, no more samples than a pair needs.
SMALL = (
    "languages.codes=[en, es, sw]",
    "rollout.actors=1",
    "rollout.prompts_per_round=24",
    "rollout.chunk_prompts=12",
    "rollout.max_num_seqs=24",  # half a chunk: chunks are done one after the other
    "rollout.samples_per_prompt=4",
    "rollout.kv_cache_gb=0.0625",  # half a gigabyte takes a second to fill with zeros
    "prompts.heldout_limit=8",
    "evaluation.samples_per_prompt=2",
    "evaluation.bootstrap_samples=200",
    "anchor.pairs_per_round=16",
    "learner.pairs_per_step=16",
    "learner.keep_checkpoints=3",
)

TRAINED = "straight"  # the run of the fixture ``trained``
# An engine holds one chunk and others wait: answers come one after the other, so that a stop finds some missing.
CHUNKS = ("rollout.chunk_prompts=4", "rollout.max_num_seqs=16")


def arguments(run_dir: Path, name: str, *overrides: str, config: str = "icr") -> list[str]:
    """Command line of a small run."""
    return [
        str(ISOGLOSS),
        "train",
        f"configs/{config}.yaml",
        f"run.dir={run_dir}",
        f"run.name={name}",
        *SMALL,
        *overrides,
    ]


def train(
    run_dir: Path, name: str, *overrides: str, config: str = "icr", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end, from another folder if ``cwd`` says so; the exit code is the caller's to check."""
    command = arguments(run_dir, name, *overrides, config=config)
    return subprocess.run(
        command, capture_output=True, text=True, timeout=400, check=False, env=dict(os.environ), cwd=cwd
    )


def small_config(run_dir: Path, *overrides: str, config: str = "icr") -> Config:
    """The config of such a run, for tests that stay in this process."""
    return load_config(Path(f"configs/{config}.yaml"), [f"run.dir={run_dir}", *SMALL, *overrides])


def summary(run_dir: Path, name: str) -> dict[str, Any]:
    """``summary.json`` of a finished run."""
    found: dict[str, Any] = json.loads((run_dir / name / "summary.json").read_text(encoding="utf-8"))
    return found


def checksum(run_dir: Path, name: str, round: int) -> str:
    """Checksum of the weights after a round, as the learner recorded it."""
    state = json.loads((run_dir / name / "checkpoints" / f"round-{round:04d}" / "state.json").read_text())
    found: str = state["checksum"]
    return found


def journal(run_dir: Path, name: str) -> Store:
    """The journal of a run, for reading."""
    return Store.read(run_dir / name / "store.sqlite")
