"""Waiting for remote calls: every wait has a deadline and says what it waited for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from actors.runtime.health import IllegalTransition, SyncError
from actors.runtime.signals import LOOK_S, StopRequested, never
from configs.errors import UserError
from learners.errors import reason_of

T = TypeVar("T")

# A line that only says where to read more.
_ADDRESS = re.compile(r"\s*(For (further|more) information|See)?[\s:,a-z]*https?://\S+\s*$", re.IGNORECASE)
# The line with which an exception's text begins.
_EXCEPTION = re.compile(r"(?:\S+\.)*\w*(?:Error|Exception|Exit|Interrupt|Failed|Failure)\b(?::|$)")
_LONGEST = 1000  # characters that a message has room for


class DeadlineExceeded(Exception):
    """A remote call did not answer in time."""


class ActorDied(Exception):
    """The process behind a call is gone (or its result is): the work may be given to another or repeated."""


def call(
    refs: ray.ObjectRef | Sequence[ray.ObjectRef],
    timeout: float,
    what: str,
    should_stop: Callable[[], bool] = never,
) -> Any:
    """Wait for one reference, or for a list of them, and return the value(s).

    Args:
        refs: What to wait for.
        timeout: Deadline for all of them together, in seconds.
        what: What is waited for, for the message, e.g. ``"isogloss-demo-rollout-0: generate chunk 3"``.
        should_stop: Ends the wait where it becomes true.

    Raises:
        DeadlineExceeded: Nothing in time; the call may still be running.
        ActorDied: The actor died or its result was lost; retryable.
        StopRequested: ``should_stop`` became true; the call may still be running.
        UserError, SyncError, IllegalTransition: Raised by the actor.
        RayTaskError: Whatever else the call raised; also an instance of its type.
    """
    try:
        return _get(refs if isinstance(refs, ray.ObjectRef) else list(refs), timeout, should_stop)
    except GetTimeoutError:
        raise DeadlineExceeded(f"no answer within {timeout:g} s: {what}") from None
    except (RayActorError, ObjectLostError) as error:
        raise ActorDied(f"{what}: the process died ({_why(error)})") from error
    except RayTaskError as error:
        if isinstance(error.cause, (UserError, SyncError, IllegalTransition)):
            raise error.cause from None  # ours: the message says it all, without Ray's copy of the traceback
        raise


def _get(refs: ray.ObjectRef | list[ray.ObjectRef], timeout: float, should_stop: Callable[[], bool]) -> Any:
    if should_stop is never:
        return ray.get(refs, timeout=timeout)
    deadline = time.monotonic() + timeout
    while True:
        if should_stop():
            raise StopRequested
        left = max(deadline - time.monotonic(), 0.0)
        try:
            return ray.get(refs, timeout=min(left, LOOK_S))
        except GetTimeoutError:
            if left <= LOOK_S:
                raise


def result_of(future: Future[T], should_stop: Callable[[], bool]) -> T:
    """What a thread of this process gives, or raises.

    Raises:
        StopRequested: ``should_stop`` became true before it was done.
    """
    while not wait([future], LOOK_S).done:
        if should_stop():
            raise StopRequested
    return future.result()


def _why(error: BaseException) -> str:
    """What the process raised itself, in its own words; else how it ended, as far as Ray's report tells."""
    text = str(error)
    raised = any(_EXCEPTION.match(line) for line in text.splitlines()[1:])
    return last_words(text) if raised else reason_of(error)


def last_words(text: str) -> str:
    """The first line of Ray's text about a dead actor (what happened) and what the exception in it says itself.

    In between is a traceback; its exception's text may have several lines, of which the last may be an address where
    one reads more.
    """
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not _ADDRESS.match(line)]
    if not lines:
        return ""
    starts = [number for number, line in enumerate(lines) if number and _EXCEPTION.match(line)]
    said = lines[starts[-1] :] if starts else lines[-1:]
    detail = " ... ".join(dict.fromkeys((lines[0].strip(), " ".join(line.strip() for line in said))))
    return detail if len(detail) <= _LONGEST else f"{detail[:_LONGEST]} ..."
