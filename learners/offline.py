"""Preference training in this very process: one rank, no Ray, a folder in and a folder out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.schema import LearnerConfig, ModelConfig
from learners.distributed import single_process
from learners.metrics import StepMetrics
from learners.model_files import write_model_folder
from learners.session import LearnerSession
from rollout.records import Example


def train_offline(
    policy: Path, pairs: Sequence[Example], out: Path, learner: LearnerConfig, model: ModelConfig, *, seed: int
) -> list[StepMetrics]:
    """Train ``policy`` on fixed pairs and write the result as a Hugging Face folder.

    The reference is ``policy`` itself: ``learner.reference`` makes no difference in a single round. Of
    ``model`` only ``dtype``, ``max_length`` and ``add_bos`` are used; of ``learner`` all but the fields on
    workers.

    Args:
        policy: Folder to begin with.
        pairs: Preference pairs, or groups for ``rloo``; their ids must be unique.
        out: Folder to write; it must not exist, and appears only when it is complete.
        learner: Objective and optimiser.
        model: Number format and longest sequence.
        seed: Orders the pairs.

    Returns:
        Metrics of every optimiser step.
    """
    alone = model.model_copy(update={"policy": policy})
    with single_process():
        session = LearnerSession(learner, alone, seed, policy)
        try:
            metrics = session.train_round(1, pairs)
            write_model_folder(
                out,
                session.full_weights(),
                start=policy,
                dtype=model.dtype,
                chat_template=session.encoder.template.text,
            )
        finally:
            session.close()
    return metrics.steps
