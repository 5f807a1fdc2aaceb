"""The journal behind Ray: one actor that owns the file and measures what it costs."""

from __future__ import annotations

import pickle
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray

from actors.runtime.calls import call
from actors.runtime.env import base_env
from actors.runtime.spawn import ActorOptions, Start, actor_name, spawn
from rollout.identity import RunIdentity
from rollout.journal import Journal
from rollout.store import Store

_TIMEOUT_S = 120.0  # one transaction or query; far above what any takes


def _measured(name: str) -> Callable[..., Any]:
    def method(self: StoreActor, *arguments: Any, **named: Any) -> Any:
        return self._run(name, arguments, named)

    method.__name__ = name
    method.__doc__ = getattr(Store, name).__doc__
    return method


@ray.remote
class StoreActor:
    """``rollout.store.Store`` with the same methods, plus ``stats``; one call at a time.

    Args:
        path: Journal file.
        identity: Of the run.
    """

    def __init__(self, path: Path, identity: RunIdentity) -> None:
        self._start = Start(lambda: Store.open(Path(path), *identity))
        self._stats: defaultdict[str, float] = defaultdict(float)
        self._name = actor_name(identity.run_name, "store", 0)

    def __repr__(self) -> str:  # what Ray's dashboard and logs call the actor
        return self._name

    def _run(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        begun = time.perf_counter()
        result = getattr(self._start.worker, name)(*arguments, **named)
        self._stats["seconds"] += time.perf_counter() - begun
        self._stats["calls"] += 1
        self._stats["bytes_in"] += len(pickle.dumps((arguments, named), pickle.HIGHEST_PROTOCOL))
        self._stats["bytes_out"] += len(pickle.dumps(result, pickle.HIGHEST_PROTOCOL))
        return result

    def ready(self) -> str:
        """Answers once the journal is open: its path."""
        return str(self._start.worker.path)

    def stats(self) -> dict[str, float]:
        """Since the start: calls, seconds spent in them, and bytes received and returned (pickled)."""
        return dict(self._stats)

    begin_round = _measured("begin_round")
    put_chunk = _measured("put_chunk")
    done_chunks = _measured("done_chunks")
    candidates = _measured("candidates")
    put_scores = _measured("put_scores")
    scores = _measured("scores")
    put_pairs = _measured("put_pairs")
    pairs = _measured("pairs")
    put_groups = _measured("put_groups")
    groups = _measured("groups")
    examples = _measured("examples")
    put_reference_logprobs = _measured("put_reference_logprobs")
    mark_consumed = _measured("mark_consumed")
    round_state = _measured("round_state")
    round_states = _measured("round_states")
    set_round_state = _measured("set_round_state")
    put_evaluation = _measured("put_evaluation")
    evaluations = _measured("evaluations")
    meta = _measured("meta")
    counts = _measured("counts")
    close = _measured("close")


class StoreClient(Journal):
    """The journal behind its actor; every call has a deadline.

    Attributes:
        seconds: Spent waiting for the journal since the start.
    """

    def __init__(self, handle: ray.actor.ActorHandle) -> None:
        self._handle = handle
        self.seconds = 0.0

    def ask(self, method: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """See ``Journal.ask``."""
        begin = time.time()
        result = call(getattr(self._handle, method).remote(*arguments, **named), _TIMEOUT_S, f"the journal's {method}")
        self.seconds += time.time() - begin
        return result


def open_journal(path: Path, identity: RunIdentity, start_timeout_s: float) -> StoreClient:
    """Start the store actor of a run and wait until the file is open; it reserves no CPU. ``close`` it at the end.

    It runs on the driver's node: SQLite's journal must not be written from one node now and from another after a
    resume, as network file systems do not keep its locks and shared memory.
    """
    options = ActorOptions(0, 0, base_env(), here=True)
    handle = spawn(StoreActor, actor_name(identity.run_name, "store", 0), options, path, identity)
    call(handle.ready.remote(), start_timeout_s, "the journal to open")
    return StoreClient(handle)
