"""Checkpoints: complete or not there at all.

``checkpoints/round-0001/`` is a Hugging Face folder that any tool can load (weights, config, tokenizer, chat
template, generation config), with DeepSpeed's state in ``trainer/``, a trained adapter in ``adapter/`` and
``state.json`` and ``manifest.json`` beside it. It is written as a hidden sibling, flushed to disk, and renamed.

Without torch, which takes seconds to import: commands that only look at checkpoints, or link them, are quick.
What is inside a model folder is in ``learners.model_files``.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError

from configs.errors import UserError
from configs.reading import gib_apart
from learners.manifest import WeightsManifest, manifest_from_json

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
POLICY_LINK = "policy"
STATE_FILE = "state.json"
MANIFEST_FILE = "manifest.json"
TRAINER_FOLDER = "trainer"


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


@contextmanager
def complete_or_absent(folder: Path) -> Iterator[Path]:
    """A temporary sibling to write into; it becomes ``folder`` on leaving, and is removed on an error.

    Raises:
        UserError: The disk filled up while writing.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        _readable_as_others(temporary)
        flush_to_disk(temporary)
        os.replace(temporary, folder)
        _flush_folder(folder.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if out_of_space(error):
            raise UserError(
                f"{folder}: the disk is full (or a quota is used up), so it was not written; free some "
                "space and continue with --resume. The last complete checkpoint is untouched"
            ) from error
        raise


def _readable_as_others(folder: Path) -> None:
    """Give every file the mode that the process gives to new ones: safetensors and peft write theirs as 0600."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o666 & ~mask)


def out_of_space(error: BaseException) -> bool:
    """Whether an error means that the disk, a quota or a file-size limit is used up.

    PyTorch and safetensors wrap the operating system's error in their own, so their texts are read too.
    PyTorch's do not say why an archive could not be written; in practice the disk is full.
    """
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, SafetensorError | RuntimeError):
        text = str(error)
        signs = ("No space left", "quota exceeded", "File too large", "StreamWriter", "inline_container")
        return any(sign in text for sign in signs)
    return False


def flush_to_disk(folder: Path) -> None:
    """fsync every file and folder below ``folder``."""
    for path in folder.rglob("*"):
        if path.is_dir():
            _flush_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoint_folder(run_dir: Path, round_number: int) -> Path:
    """Where the checkpoint of a round lies."""
    return run_dir / CHECKPOINTS / f"round-{round_number:04d}"


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
    folders = (run_dir / CHECKPOINTS).glob("round-*")
    complete = [path for path in folders if re.fullmatch(r"round-\d{4,}", path.name) and (path / STATE_FILE).is_file()]
    return sorted(complete, key=lambda path: int(path.name.removeprefix("round-")))


def latest_checkpoint(run_dir: Path) -> Path | None:
    """Checkpoint of the newest round; None before the first."""
    found = all_checkpoints(run_dir)
    return found[-1] if found else None


def require_disk(folder: Path, needed_bytes: int, spare_gb: float) -> None:
    """Refuse to begin writing what would not fit.

    Args:
        folder: Where it will be written; need not exist.
        needed_bytes: Size of what will be written.
        spare_gb: What must be left free afterwards, GiB (``run.min_free_disk_gb``).
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free, needed = shutil.disk_usage(existing).free / 2**30, needed_bytes / 2**30
    if free < needed + spare_gb:
        there, wanted = gib_apart(free, needed)
        raise UserError(
            f"{folder}: {there} GiB of disk are free, but writing needs "
            f"{wanted} GiB and run.min_free_disk_gb keeps {spare_gb:g} GiB; "
            "free some space or lower that field, then continue with --resume. "
            "The last complete checkpoint is untouched"
        )


def point_policy(run_dir: Path, checkpoint: Path) -> None:
    """Make ``policy`` a relative link to ``checkpoint``, replacing the old link in one step."""
    link = run_dir / POLICY_LINK
    temporary = run_dir / f".{POLICY_LINK}.partial"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(checkpoint, run_dir))
    os.replace(temporary, link)
    _flush_folder(run_dir)


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
        # Renamed first: a half-deleted folder must not look like a checkpoint.
        doomed = path.parent / f".{path.name}.retired"
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(path, doomed)
        shutil.rmtree(doomed)
    return retired
