"""The journal behind Ray: one actor that owns the file, and the client that its driver calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from actors.runtime.calls import call
from actors.runtime.env import base_env
from actors.runtime.signals import never
from actors.runtime.spawn import ActorOptions, Start, actor_name, spawn
from configs.json_types import JsonMapping
from rollout.identity import RunIdentity
from rollout.journal import Journal
from rollout.store import Store

_TIMEOUT_S = 120.0  # one transaction or query; far above what any takes


def _served(name: str) -> Callable[..., Any]:
    def method(self: StoreActor, *arguments: Any, **named: Any) -> Any:
        return getattr(self._start.worker, name)(*arguments, **named)

    method.__name__ = name
    method.__doc__ = getattr(Store, name).__doc__
    return method


@ray.remote
class StoreActor:
    """``rollout.store.Store`` with the same methods; one call at a time.

    Args:
        path: Journal file.
        identity: Of the run.
    """

    def __init__(self, path: Path, identity: RunIdentity) -> None:
        self._start = Start(lambda: Store.open(Path(path), *identity))
        self._name = actor_name(identity.run_name, "store", 0)

    def __repr__(self) -> str:  # what Ray's dashboard and logs call the actor
        return self._name

    def ready(self) -> str:
        """Answers once the journal is open: its path."""
        return str(self._start.worker.path)

    begin_round = _served("begin_round")
    put_chunk = _served("put_chunk")
    done_chunks = _served("done_chunks")
    candidates = _served("candidates")
    put_scores = _served("put_scores")
    scores = _served("scores")
    put_pairs = _served("put_pairs")
    pairs = _served("pairs")
    put_groups = _served("put_groups")
    groups = _served("groups")
    examples = _served("examples")
    put_reference_logprobs = _served("put_reference_logprobs")
    mark_consumed = _served("mark_consumed")
    round_state = _served("round_state")
    round_states = _served("round_states")
    set_round_state = _served("set_round_state")
    put_evaluation = _served("put_evaluation")
    evaluations = _served("evaluations")
    counts = _served("counts")
    close = _served("close")


class StoreClient(Journal):
    """The journal behind its actor; every call has a deadline.

    Attributes:
        seconds: Spent waiting for the journal since the start.
    """

    def __init__(self, handle: ray.actor.ActorHandle) -> None:
        self._handle = handle
        self.seconds = 0.0

    def ask(self, method: str, arguments: tuple[Any, ...], named: JsonMapping) -> Any:
        """See ``Journal.ask``."""
        begin = time.time()
        result = call(getattr(self._handle, method).remote(*arguments, **named), _TIMEOUT_S, f"the journal's {method}")
        self.seconds += time.time() - begin
        return result


def open_journal(
    path: Path, identity: RunIdentity, start_timeout_s: float, should_stop: Callable[[], bool] = never
) -> StoreClient:
    """Start the store actor of a run and wait until the file is open; it reserves no CPU. ``close`` it at the end.

    It runs on the driver's node: SQLite's journal must not be written from one node now and from another after a
    resume, as network file systems do not keep its locks and shared memory.
    """
    options = ActorOptions(0, 0, base_env(), here=True)
    handle = spawn(StoreActor, actor_name(identity.run_name, "store", 0), options, path, identity)
    call(handle.ready.remote(), start_timeout_s, "the journal to open", should_stop)
    return StoreClient(handle)
