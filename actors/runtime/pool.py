"""A pool of equal actors that work off a queue of calls, each under a deadline.

An actor that dies is replaced by a fresh one, made from the checkpoint of the version that is wanted now, so that
it never holds base weights by accident; the call it held is put back at the head of the queue. Which actor does
which call is left to chance: results must not depend on it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from actors.runtime.calls import ActorDied, DeadlineExceeded
from actors.runtime.calls import call as remote_call
from actors.runtime.signals import LOOK_S, StopRequested, never

logger = logging.getLogger(__name__)

T = TypeVar("T")  # what a call gives

# How long a replacement starts before it is looked whether it has a place at all.
_PLACE_S = 10.0

_BESIDE_S = 0.02  # how long what is beside the pools is waited for, before they are looked at again

Watch = Callable[[str, str, float, float], None]  # actor, method, begin and end (Unix seconds, in the actor)


@dataclass
class Call(Generic[T]):
    """One method call, with a result of the type ``T``, that any actor of the pool may do."""

    what: str  # for messages, e.g. "generate r0001/answer/es/003"
    method: str
    arguments: tuple[object, ...]
    done: Callable[[float, float, T], None]  # begin and end (Unix seconds, in the actor), result; in the driver
    # The method yields such triples, for each of which ``done`` is called at once. A call that is done again, as its
    # actor died, yields all of them again.
    streams: bool = False


@dataclass
class _Worker:
    handle: ActorHandle
    ready: ObjectRef | None = None  # reference of a replacement's ``ready()``; None once it is up
    begun: float = field(default_factory=time.monotonic)  # when it was made
    waits: bool = False  # it was told that it waits for a place
    call: Call[Any] | None = None
    reference: Any = None
    deadline: float = 0.0
    restarts: int = 0


@dataclass
class Pool:
    """Keeps ``size`` actors busy.

    Args:
        name: What the actors are, for messages.
        create: Makes actor number i; called again when it has died. Its methods that take work return a tuple of
            begin and end (Unix seconds) and the result.
        call_timeout_s: Longest that one call may take, or one that streams until its next part.
        max_restarts: Replacements of one actor before the run gives up.
        watch: Told of every finished call.
        start_timeout_s: Longest that a replacement may take to start, the wait for a place included.
        say: Told in one line when an actor dies, waits for a place, and is back.
        lacks_place: Whether there is no node for some actor of the pool; asked while a replacement does not come up.
    """

    name: str
    create: Callable[[int], ActorHandle]
    size: int
    call_timeout_s: float
    max_restarts: int
    workers: list[_Worker] = field(default_factory=list)
    queue: deque[Call[Any]] = field(default_factory=deque)
    restarts: int = 0
    watch: Watch | None = None
    start_timeout_s: float = 300.0
    say: Callable[[str], None] = logger.warning
    lacks_place: Callable[[], bool] = lambda: False

    def start(self) -> list[ObjectRef]:
        """Create all actors; returns the references of their ``ready()``, for a shared wait."""
        self.workers = [_Worker(self.create(index)) for index in range(self.size)]
        return [worker.handle.ready.remote() for worker in self.workers]

    @property
    def handles(self) -> list[ActorHandle]:
        """The live actors."""
        return [worker.handle for worker in self.workers]

    def submit(self, call: Call[Any]) -> None:
        """Queue a call; it starts as soon as an actor is free."""
        self.queue.append(call)
        self._dispatch()

    @property
    def in_flight(self) -> dict[Any, _Worker]:
        """Reference of each running call, with the worker that runs it."""
        return {worker.reference: worker for worker in self.workers if worker.call is not None}

    @property
    def starting(self) -> dict[ObjectRef, _Worker]:
        """Replacements that are not up yet, by the reference of their ``ready()``."""
        return {worker.ready: worker for worker in self.workers if worker.ready is not None}

    @property
    def idle(self) -> bool:
        """Nothing queued, nothing running."""
        return not self.queue and not self.in_flight

    def collect(self, reference: Any) -> None:
        """Take the finished call behind ``reference``, run its callback, start the next one; or take a replacement that
        is up.
        """
        if reference in self.starting:
            self._arrived(self.starting[reference])
            return
        worker = self.in_flight[reference]
        call = worker.call
        assert call is not None
        try:
            part = next(reference, None) if call.streams else reference
            what = f"{call.what} on {self.name}"
            found = None if part is None else remote_call(part, self.call_timeout_s, what)
        except ActorDied as died:
            self.replace(self.workers.index(worker), died)
            return
        worker.deadline = time.monotonic() + self.call_timeout_s
        if found is None or not call.streams:
            worker.call = worker.reference = None
            self._dispatch()
        if found is not None:
            begin, end, result = found
            if self.watch is not None:
                self.watch(f"{self.name} {self.workers.index(worker)}", call.method, begin, end)
            call.done(begin, end, result)

    def _arrived(self, worker: _Worker) -> None:
        index, reference = self.workers.index(worker), worker.ready
        assert reference is not None, "it is starting"
        try:
            remote_call(reference, self.start_timeout_s, f"{self.name} {index} to start")
        except ActorDied as died:
            self.replace(index, died)
            return
        worker.ready = None
        self.say(f"{self.name} {index} is back after {time.monotonic() - worker.begun:.0f} s")
        self._dispatch()

    def await_starts(self, should_stop: Callable[[], bool] = never) -> None:
        """Wait until every replacement is up.

        Raises:
            ActorDied: One was not within its time, or died too often.
            StopRequested: ``should_stop`` became true.
        """
        while starting := self.starting:
            if should_stop():
                raise StopRequested
            for reference in ray.wait(list(starting), num_returns=1, timeout=LOOK_S)[0]:
                self._arrived(starting[reference])
            self.check_deadlines()

    def _check_start(self, index: int, worker: _Worker) -> None:
        took = time.monotonic() - worker.begun
        if took > _PLACE_S and not worker.waits and self.lacks_place():
            worker.waits = True
            self.say(
                f"{self.name} {index} waits for a place: no node has room for it now; at most "
                f"{self.start_timeout_s:g} s (cluster.start_timeout_s)"
            )
        if took > self.start_timeout_s:
            why = "no node had room for it" if worker.waits else "it did not start"
            raise ActorDied(
                f"{self.name} {index}: {why} within {self.start_timeout_s:g} s (cluster.start_timeout_s); bring "
                f"its node back, add one, or lower the number of {self.name}s"
            )

    def check_deadlines(self) -> None:
        """Replace every actor whose call is over its time.

        Raises:
            ActorDied: A replacement did not start within its time, or an actor failed too often.
        """
        for index, worker in enumerate(self.workers):
            if worker.ready is not None:
                self._check_start(index, worker)
            if worker.call is not None and time.monotonic() > worker.deadline:
                self.replace(
                    index,
                    DeadlineExceeded(
                        f"no answer within {self.call_timeout_s:g} s (cluster.call_timeout_s): "
                        f"{worker.call.what} on {self.name}"
                    ),
                )

    def replace(self, index: int, reason: Exception) -> None:
        """Put a fresh actor in the place of one that died or hangs; the call that it held is the next to be done.

        Args:
            index: Which.
            reason: What became of it.

        Raises:
            ActorDied: It failed too often.
        """
        worker = self.workers[index]
        ray.kill(worker.handle)
        if worker.restarts >= self.max_restarts:
            raise ActorDied(
                f"{self.name} {index} failed {worker.restarts + 1} times, the last time with: {reason}. "
                "Remove the cause and continue with --resume; the run folder keeps all that was done."
            ) from reason
        number = worker.restarts + 1
        self.say(f"{self.name} {index} is replaced ({number} of {self.max_restarts}): {reason}")
        self.workers[index] = fresh = _Worker(self.create(index), restarts=number)
        fresh.ready = fresh.handle.ready.remote()
        self.restarts += 1
        if worker.call is not None:
            self.queue.appendleft(worker.call)
        self._dispatch()

    def clear(self) -> None:
        """Forget what is queued (a stop was asked for); running calls are left to end with their actors."""
        self.queue.clear()

    def _dispatch(self) -> None:
        for worker in self.workers:
            if worker.call is None and worker.ready is None and self.queue:
                call = self.queue.popleft()
                worker.call = call
                # The name is what Ray's dashboard and state API show of the call.
                options = {"name": call.what, **({"num_returns": "streaming"} if call.streams else {})}
                worker.reference = getattr(worker.handle, call.method).options(**options).remote(*call.arguments)
                worker.deadline = time.monotonic() + self.call_timeout_s


class Beside(Protocol):
    """What is worked off beside the pools, in this process."""

    @property
    def idle(self) -> bool:
        """Nothing left."""

    def collect(self, wait_s: float) -> None:
        """Run the callbacks of what is finished; wait for it where there is nothing."""


def drain(
    pools: list[Pool], should_stop: Callable[[], bool], poll_s: float = 0.2, beside: Beside | None = None
) -> None:
    """Work off all queues, running callbacks (which may submit more) until every pool, and what is beside, is idle.

    Raises:
        StopRequested: ``should_stop`` became true; what was finished until then has had its callback.
        ActorDied: an actor failed more often than it may.
    """
    while not (all(pool.idle for pool in pools) and (beside is None or beside.idle)):
        if should_stop():
            for pool in pools:
                pool.clear()
            raise StopRequested
        owners = {reference: pool for pool in pools for reference in (*pool.in_flight, *pool.starting)}
        waits = beside is None or beside.idle
        if beside is not None and not waits:
            beside.collect(_BESIDE_S)
        ready = ray.wait(list(owners), num_returns=1, timeout=poll_s if waits else 0)[0] if owners else []
        for reference in ready:
            owners[reference].collect(reference)
        for pool in pools:
            pool.check_deadlines()
