"""A session to and from a round's checkpoint; every function here is called by all ranks together."""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from configs.atomic import complete_or_absent
from configs.errors import UserError
from learners import distributed
from learners.checkpoint import point_policy, require_disk, retire_checkpoints
from learners.checkpoint_layout import (
    ADAPTER_FOLDER,
    TRAINER_FOLDER,
    CheckpointState,
    publishes_adapter,
    read_state,
    write_manifest,
    write_state,
)
from learners.lora import write_adapter
from learners.manifest import WeightsManifest
from learners.metrics import RoundMetrics, StepMetrics
from learners.model_files import fill_model_folder
from learners.published import Snapshot as Snapshot
from learners.session import LearnerSession
from rollout.model_folder import file_digests
from rollout.run_layout import checkpoint_folder

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"

# AdamW: master weight and two moments in float32.
_OPTIMISER_BYTES = 12


def save_round(session: LearnerSession, run_dir: Path, metrics: RoundMetrics, keep: int, spare_gib: float) -> Snapshot:
    """Write the checkpoint of the round just trained, point ``policy`` to it, retire old ones.

    With several nodes ``run_dir`` must be on storage that all of them share.

    Raises:
        UserError: The disk is too full; on every rank, where it was seen before writing began.
    """
    weights = session.full_weights()
    adapter = session.adapter_weights()
    published = adapter if publishes_adapter(session.learner) else weights
    merged = session.manifest(metrics.round, weights)
    manifest = session.manifest(metrics.round, published) if published is not weights else merged
    folder = checkpoint_folder(run_dir, metrics.round)
    with ExitStack() as stack:
        problem: UserError | None = None
        temporary = folder
        if session.rank == 0:
            try:
                size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
                size += sum(
                    tensor.numel() * (tensor.element_size() + _OPTIMISER_BYTES)
                    for tensor in (adapter or weights).values()
                )
                require_disk(folder, size, spare_gib)
                shutil.rmtree(folder, ignore_errors=True)
                temporary = stack.enter_context(complete_or_absent(folder))
            except UserError as error:
                problem = error
        problem, temporary = distributed.gather_objects((problem, temporary))[0]
        if problem is not None:
            raise problem
        session.engine.save(temporary / TRAINER_FOLDER)
        distributed.gather_objects(None)  # every rank's part is written
        if session.rank == 0:
            # Not from session.start: that may be a checkpoint which was retired since.
            fill_model_folder(
                temporary, weights, session.model.policy, session.model.dtype, session.encoder.template.text
            )
            if session.learner.lora is not None:
                write_adapter(temporary / ADAPTER_FOLDER, adapter, session.learner.lora, session.model.policy)
            (temporary / METRICS_FILE).write_text(json.dumps(metrics.as_dict()), encoding="utf-8")
            write_manifest(temporary, merged)
            write_state(temporary, replace(_state(session, metrics, merged, manifest), files=file_digests(temporary)))
    if session.rank == 0:
        point_policy(run_dir, folder)
        retire_checkpoints(run_dir, keep)
    distributed.gather_objects(None)  # nobody continues before the checkpoint is complete
    return Snapshot(folder, metrics, published, manifest, merged)


def _state(
    session: LearnerSession, metrics: RoundMetrics, merged: WeightsManifest, manifest: WeightsManifest
) -> CheckpointState:
    return CheckpointState(
        round=metrics.round,
        step=session.step,
        pairs=metrics.pairs,
        checksum=merged.checksum,
        adapter_checksum=manifest.checksum if publishes_adapter(session.learner) else None,
        world_size=session.world_size,
        zero_stage=session.zero_stage,
    )


def restore(session: LearnerSession, folder: Path) -> bool:
    """Take round, step, optimiser and schedule from a checkpoint whose weights the session started with.

    Returns:
        Whether the optimiser state was taken. It is split over ranks, so it cannot be if the number of
        workers or the ZeRO stage changed: training then continues from the weights with a fresh optimiser.
    """
    state = read_state(folder)
    session.round = state.round
    session.step = state.step
    layout = (session.world_size, session.zero_stage)
    if layout != (state.world_size, state.zero_stage):
        logger.warning(
            "%s was written by %d workers at ZeRO stage %d, now there are %d at stage %d: "
            "the optimiser starts afresh from its weights",
            folder,
            state.world_size,
            state.zero_stage,
            *layout,
        )
        return False
    session.engine.load(folder / TRAINER_FOLDER)
    return True


def republish(session: LearnerSession, folder: Path) -> Snapshot:
    """The snapshot of a round that was complete before the process that trained it could say so."""
    weights = session.full_weights()
    merged = manifest = session.manifest(session.round, weights)
    if publishes_adapter(session.learner):
        weights = session.adapter_weights()
        manifest = session.manifest(session.round, weights)
    return Snapshot(folder, read_metrics(folder), weights, manifest, merged)


def read_metrics(folder: Path) -> RoundMetrics:
    """Metrics of the round that a checkpoint is of."""
    found = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    steps = [StepMetrics(**step) for step in found.pop("steps")]
    return RoundMetrics(**found, steps=steps)
