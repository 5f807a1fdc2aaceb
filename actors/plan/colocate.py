"""Stages that take turns (``cluster.colocate``): which of them has what when."""

from __future__ import annotations

import math
import os

from configs.schema import Config
from rollout.model_folder import weight_bytes


def usable_cores(num_cpus: float | None) -> int:
    """Cores of this machine that a run may use, whatever it told Ray: more processes than cores share them."""
    here = len(os.sched_getaffinity(0))
    return here if num_cpus is None else max(1, min(here, math.floor(num_cpus)))


# Bytes of weights below which a second thread costs more than it gives: its share of a matrix product is done before
# it wakes up. Measured: 1 M parameters train 17 % longer with two threads; at 135 M two are faster.
_SMALL = 64 * 2**20


def learner_threads(config: Config, cores: int) -> int:
    """CPU threads of a rank, where the config names none: its share of the cores, or one for a small model.

    Args:
        config: The run.
        cores: Of this machine. On a cluster that is joined a rank has what Ray reserves for it.
    """
    learner = config.learner
    if not config.colocated or learner.gpus_per_worker > 0:
        return 1
    if config.cluster.address is not None:
        return max(1, math.floor(learner.cpus_per_worker))
    size = weight_bytes(config.model.policy)  # that there are none is said when the model is read
    return 1 if size is not None and size < _SMALL else max(1, cores // learner.workers)


def turns(config: Config, cores: int) -> list[tuple[str, str, str]]:
    """For ``--dry-run``: stage, who works with what, and what the others do meanwhile.

    Args:
        config: The run.
        cores: Of this machine.
    """
    rollout, reward, learner = config.rollout, config.reward, config.learner
    threads = learner.threads or learner_threads(config, cores)
    online = config.offline.path is None
    gpus = learner.gpus_per_worker > 0
    trains = f"learner: {learner.workers} x " + (
        f"{learner.gpus_per_worker:g} GPUs" if gpus else f"{threads} thread{'s' * (threads > 1)}"
    )
    if not online:
        return [("training", trains, "")]
    waits = "engines and reward idle"
    if config.colocated and rollout.gpus_per_actor > 0:
        waits = "engines asleep (weights in main memory, no key-value cache)"
        waits += ", reward models in main memory" if reward.gpus_per_actor > 0 else ", reward idle"
    samples = f"rollout: {rollout.actors} x {_has(rollout.gpus_per_actor, rollout.threads)}, reward: {reward.actors} x "
    samples += _has(reward.gpus_per_actor, 1)
    if config.schedule.max_staleness > 0:
        return [("sampling and scoring", samples, "may overlap training"), ("training", trains, "")]
    return [("sampling and scoring", samples, "learner idle"), ("training", trains, waits)]


def _has(gpus: float, threads: int) -> str:
    return f"{gpus:g} GPUs" if gpus else f"{threads} thread{'s' * (threads > 1)}"
