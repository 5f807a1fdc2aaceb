"""What a checkpoint's folder holds besides the model, and which folders of a run are checkpoints.

``checkpoints/round-0001/`` is a Hugging Face folder that any tool can load (weights, config, tokenizer, chat
template, generation config), with DeepSpeed's state in ``trainer/``, a trained adapter in ``adapter/`` and
``state.json`` and ``manifest.json`` beside it.

Without torch, which takes seconds to import: commands that only look at checkpoints, or link them, are quick.
What is inside a model folder is in ``learners.model_files``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import UserError
from learners.manifest import WeightsManifest, manifest_from_json
from rollout.run_layout import checkpoint_folders

if TYPE_CHECKING:
    from configs.learner import LearnerConfig

STATE_FILE = "state.json"
MANIFEST_FILE = "manifest.json"
TRAINER_FOLDER = "trainer"
ADAPTER_FOLDER = "adapter"
ADAPTER_FILE = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """What a checkpoint is of. ``world_size`` and ``zero_stage`` say how ``trainer/`` is split.

    ``checksum`` is that of the folder's weights, adapters merged; ``adapter_checksum`` that of the tensors in
    ``adapter/``, where a run publishes those alone. Checkpoints written before there was that field have the adapter's
    in ``checksum``: ``weights_as_saved`` reads both. ``files`` has an xxh3 checksum of every other file of the folder
    (``rollout.model_folder.file_digests``); it is empty in older checkpoints.
    """

    round: int
    step: int
    pairs: int
    checksum: str
    world_size: int
    zero_stage: int
    adapter_checksum: str | None = None
    files: dict[str, str] = field(default_factory=dict)


def read_state(folder: Path) -> CheckpointState:
    """What ``state.json`` of a checkpoint says."""
    try:
        return CheckpointState(**json.loads((folder / STATE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / STATE_FILE}: cannot be read ({error}); remove this checkpoint") from error


def write_state(folder: Path, state: CheckpointState) -> None:
    """Write ``state.json``."""
    (folder / STATE_FILE).write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")


def write_manifest(folder: Path, manifest: WeightsManifest) -> None:
    """Write ``manifest.json``: how an endpoint proves the folder's weights, without loading them first."""
    (folder / MANIFEST_FILE).write_text(json.dumps(asdict(manifest)) + "\n", encoding="utf-8")


def read_manifest(folder: Path, version: int) -> WeightsManifest | None:
    """Manifest of a checkpoint's weights; None where there is none, or not of this version and of ``state.json``."""
    try:
        manifest = manifest_from_json(json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8")))
        state = read_state(folder)
    except (OSError, ValueError, TypeError, KeyError, UserError):
        return None
    return manifest if (manifest.version, manifest.checksum) == (version, state.checksum) else None


def all_checkpoints(run_dir: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest round first."""
    return [path for path in checkpoint_folders(run_dir) if (path / STATE_FILE).is_file()]


def latest_checkpoint(run_dir: Path) -> Path | None:
    """Checkpoint of the newest round; None before the first."""
    found = all_checkpoints(run_dir)
    return found[-1] if found else None


def publishes_adapter(learner: LearnerConfig) -> bool:
    """Whether the adapter alone is published, instead of full weights."""
    return learner.lora is not None and learner.lora.publish == "adapter"


def published_file(checkpoint: Path, learner: LearnerConfig) -> Path:
    """The file of a checkpoint that holds what was published with it."""
    return checkpoint / (f"{ADAPTER_FOLDER}/{ADAPTER_FILE}" if publishes_adapter(learner) else "model.safetensors")
