"""What a learner rank does under Ray Train: wait for a command, do it with the others, answer, repeat."""

from __future__ import annotations

import os
import pickle
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train

from configs.collector import started
from configs.errors import UserError
from configs.schema import LearnerConfig, ModelConfig
from learners import distributed
from learners.checkpoint import checkpoint_folder, latest_checkpoint
from learners.entry import LoopConfig
from learners.mailbox import Command, Outcome
from learners.session import LearnerSession
from learners.snapshot import republish, restore, save_round
from learners.weights import to_numpy

# How long rank 0 waits for a command before it tells the others that there is none: far below the
# collectives' time limit, which would otherwise end a group that idles while candidates are sampled.
_IDLE_S = 2.0

# How often a rank looks whether it should leave even though it hangs in a collective, and how long a rank
# that can leave by itself gets for it.
_WATCH_S = 0.5
_LEAVE_S = 5.0


def run_rank(config: LoopConfig) -> None:
    """What a rank does; returns when the driver closes the group."""
    mailbox = ray.get_actor(config.mailbox, namespace=config.namespace)
    if ray.get(mailbox.closed.remote()):
        return
    done = threading.Event()
    threading.Thread(target=_leave_when_closed, args=(mailbox, done), daemon=True).start()
    try:
        try:
            session = _begin(config)
        except UserError as error:
            ray.get(mailbox.refuse.remote(error))
            return
        started()
        rank = session.rank
        ray.get(mailbox.arrive.remote(rank, ray.get_runtime_context().get_node_id(), os.getpid()))
        while (command := _agree(mailbox, rank)) != "closed":
            if command == "idle":
                continue
            try:
                result, references = _obey(session, config, command, ray.get(mailbox.payload.remote(command.number)))
            except UserError as error:
                # Bad input or numbers: the same again after a restart. Any rank may be the one that saw it.
                ray.get(mailbox.finish.remote(command.number, Outcome(error=error)))
                return
            if rank == 0:
                outcome = Outcome(pickle.dumps(result), references)
                ray.get(mailbox.finish.remote(command.number, outcome))
    finally:
        done.set()


def _begin(config: LoopConfig) -> LearnerSession:
    """Start from the newest checkpoint of the run, or from the starting policy before there is one."""
    deepspeed = distributed.load_deepspeed()
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    found = distributed.gather_objects(latest_checkpoint(Path(config.run_dir)))[0]
    session = LearnerSession(
        LearnerConfig.model_validate(config.learner),
        ModelConfig.model_validate(config.model),
        config.seed,
        found or Path(config.start),
    )
    session.round = config.start_round
    if found is not None:
        restore(session, found)
    return session


def _agree(mailbox: ray.actor.ActorHandle, rank: int) -> Any:
    """The next command, the same on every rank: rank 0 asks and tells the others."""
    command: Any = ray.get(mailbox.next.remote(_IDLE_S)) if rank == 0 else None
    return distributed.gather_objects(command)[0]


def _obey(
    session: LearnerSession, config: LoopConfig, command: Command, pairs: Any
) -> tuple[Any, tuple[ray.ObjectRef, ...]]:
    """The result on rank 0 (of ``train``: a snapshot without weights), and the reference to the weights."""
    if command.kind == "reference":
        if session.round >= command.round:
            raise UserError(
                f"round {command.round}: its reference was asked for, but the learner is past it (at round "
                f"{session.round}); remove the newer checkpoints to train that round again"
            )
        return session.reference_logprobs(command.round, pairs), ()
    if session.round == command.round:
        # Trained and saved by a group that died before it could say so.
        snapshot = republish(session, checkpoint_folder(Path(config.run_dir), command.round))
    elif session.round > command.round:
        raise UserError(
            f"round {command.round}: cannot be trained, the learner is at round {session.round}; "
            "remove the newer checkpoints to train it again"
        )
    else:
        metrics = session.train_round(command.round, pairs)
        snapshot = save_round(
            session, Path(config.run_dir), metrics, session.learner.keep_checkpoints, config.min_free_disk_gb
        )
    if session.rank != 0:
        return None, ()
    weights = ray.put(to_numpy(snapshot.weights))
    return replace(snapshot, weights={}), (weights,)


def _leave_when_closed(mailbox: ray.actor.ActorHandle, done: threading.Event) -> None:
    """End a rank that hangs in a collective after the driver closed the group, or whose driver is gone."""
    while not done.wait(_WATCH_S):
        try:
            leave = bool(ray.get(mailbox.closed.remote(), timeout=30))
        except ray.exceptions.RayError:
            leave = True
        if leave:
            if not done.wait(_LEAVE_S):
                os._exit(1)
            return
