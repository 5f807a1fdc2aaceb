"""What a learner rank does under Ray Train: wait for a command, do it with the others, answer, repeat."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train

from configs.errors import UserError
from configs.gc_tuning import started
from configs.schema import LearnerConfig, ModelConfig
from learners import distributed
from learners.broadcast import send
from learners.checkpoint_layout import latest_checkpoint
from learners.errors import BroadcastFailed
from learners.loop_config import LoopConfig
from learners.mailbox import Command, Outcome
from learners.objectives.registry import FIELD, pair_objective
from learners.rendezvous import Rendezvous
from learners.sampler_reference import Referenced
from learners.session import LearnerSession
from learners.snapshot import Snapshot, republish, restore, save_round
from learners.weights import to_numpy
from rollout.model_folder import verify_checkpoint
from rollout.records import Example
from rollout.run_layout import checkpoint_folder

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
    rank = ray.train.get_context().get_world_rank()
    threading.Thread(target=_leave_when_closed, args=(mailbox, rank, done), daemon=True).start()
    try:
        try:
            session = _begin(config)
        except UserError as error:
            ray.get(mailbox.refuse.remote(error))
            return
        started()
        assert session.rank == rank
        ray.get(mailbox.arrive.remote(rank, ray.get_runtime_context().get_node_id(), os.getpid()))
        runner = _CommandRunner(session, config)
        while (command := _agree(mailbox, rank)) != "closed":
            if command == "idle":
                continue
            try:
                result, references = runner.run(command, ray.get(mailbox.payload.remote(command.number)))
            except BroadcastFailed as failure:  # seen by rank 0 alone, and the ranks are as they were
                ray.get(mailbox.finish.remote(command.number, Outcome(error=failure)))
                continue
            except UserError as error:
                # Bad input or numbers: the same again after a restart. Each rank may be the one that saw it.
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
    mine = _checked(Path(config.run_dir)) if distributed.world()[0] == 0 else (None, None)
    found, problem = distributed.gather_objects(mine)[0]
    if problem is not None:
        raise problem
    learner = LearnerConfig.model_validate(config.learner)
    if FIELD in config.plugins:
        pair_objective(learner.objective, config.plugins[FIELD])  # that it is the same on every node
    session = LearnerSession(
        learner,
        ModelConfig.model_validate(config.model),
        config.seed,
        found or Path(config.start),
    )
    session.round = config.start_round
    if found is not None:
        restore(session, found)
    return session


def _checked(run_dir: Path) -> tuple[Path | None, UserError | None]:
    """The newest checkpoint, and what is wrong with it: nothing is trained from a damaged one."""
    found = latest_checkpoint(run_dir)
    try:
        if found is not None:
            verify_checkpoint(found)
    except UserError as error:
        return found, error
    return found, None


def _agree(mailbox: ray.actor.ActorHandle, rank: int) -> Any:
    """The next command, the same on every rank: rank 0 asks and tells the others."""
    command: Any = ray.get(mailbox.next.remote(_IDLE_S)) if rank == 0 else None
    return distributed.gather_objects(command)[0]


class _CommandRunner:
    """Does commands, the same on every rank."""

    def __init__(self, session: LearnerSession, config: LoopConfig) -> None:
        self._session = session
        self._config = config
        self._published: Snapshot | None = None  # with the weights, on rank 0, to be broadcast

    def run(self, command: Command, payload: Any) -> tuple[Any, tuple[ray.ObjectRef, ...]]:
        """The result on rank 0 (of ``train``: a snapshot without weights), and the reference to the weights."""
        if command.kind == "reference":
            return self._reference(command.round, payload), ()
        if command.kind == "broadcast":
            self._broadcast(command.round, payload)
            return None, ()
        return self._train(command.round, payload)

    def _reference(self, round_number: int, examples: Sequence[Example]) -> Referenced:
        if self._session.round >= round_number:
            raise UserError(
                f"round {round_number}: its reference was asked for, but the learner is past it (at round "
                f"{self._session.round}); remove the newer checkpoints to train that round again"
            )
        return self._session.referenced(round_number, examples)

    def _train(
        self, round_number: int, examples: Sequence[Example]
    ) -> tuple[Snapshot | None, tuple[ray.ObjectRef, ...]]:
        session, run_dir = self._session, Path(self._config.run_dir)
        self._published = None  # not beside those that are gathered now
        if session.round == round_number:
            # Trained and saved by a group that died before it could say so.
            snapshot = republish(session, checkpoint_folder(run_dir, round_number))
        elif session.round > round_number:
            raise UserError(
                f"round {round_number}: cannot be trained, the learner is at round {session.round}; "
                "remove the newer checkpoints to train it again"
            )
        else:
            metrics = session.train_round(round_number, examples)
            keep, spare = session.learner.keep_checkpoints, self._config.min_free_disk_gb
            snapshot = save_round(session, run_dir, metrics, keep, spare)
        if session.rank != 0:
            return None, ()
        told = replace(snapshot, weights={})
        if self._config.broadcasts:
            self._published = snapshot
            return told, ()
        return told, (ray.put(to_numpy(snapshot.weights)),)

    def _broadcast(self, round_number: int, rendezvous: Rendezvous) -> None:
        if self._session.rank != 0:
            return
        if self._published is None or self._published.manifest.version != round_number:
            raise BroadcastFailed(
                f"the learner was restarted and does not hold the weights of round {round_number} any more"
            )
        send(rendezvous, self._published.manifest, self._published.weights, distributed.device())


def _leave_when_closed(mailbox: ray.actor.ActorHandle, rank: int, done: threading.Event) -> None:
    """End a rank that hangs in a collective after the driver closed the group, or whose driver is gone; by the same
    question the mailbox hears that the rank is alive.
    """
    while not done.wait(_WATCH_S):
        try:
            leave = bool(ray.get(mailbox.closed.remote(rank), timeout=30))
        except ray.exceptions.RayError:
            leave = True
        if leave:
            if not done.wait(_LEAVE_S):
                os._exit(1)
            return
