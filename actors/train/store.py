"""The journal behind Ray: one actor that owns the file and measures what it costs."""

from __future__ import annotations

import pickle
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray

from actors.runtime.env import base_env
from actors.runtime.spawn import ActorOptions, Start, actor_name, spawn
from rollout.store import Store


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
        digest: Digest of the run's config.
        config: The comparable config.
        run_name: Name of the run.
    """

    def __init__(self, path: Path, digest: str, config: Mapping[str, object], run_name: str) -> None:
        self._start = Start(lambda: Store.open(Path(path), digest, config, run_name))
        self._stats: defaultdict[str, float] = defaultdict(float)
        self._name = actor_name(run_name, "store", 0)

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


def create_store_actor(path: Path, digest: str, config: Mapping[str, object], run_name: str) -> ray.actor.ActorHandle:
    """Start the store actor of a run; it reserves no CPU. Wait for ``ready``, and ``close`` it at the end.

    It runs on the driver's node: SQLite's journal must not be written from one node now and from another after a
    resume, as network file systems do not keep its locks and shared memory.
    """
    options = ActorOptions(0, 0, base_env(), here=True)
    return spawn(StoreActor, actor_name(run_name, "store", 0), options, path, digest, config, run_name)
