"""Waiting for remote calls: every wait has a deadline and says what it waited for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from actors.runtime.health import IllegalTransition, SyncError
from configs.errors import UserError
from learners.errors import reason_of

# A line that only says where to read more.
_ADDRESS = re.compile(r"\s*(For (further|more) information|See)?[\s:,a-z]*https?://\S+\s*$", re.IGNORECASE)
# The line with which an exception's text begins.
_EXCEPTION = re.compile(r"(?:\S+\.)*\w*(?:Error|Exception|Exit|Interrupt|Failed|Failure)\b(?::|$)")
_LONGEST = 1000  # characters that a message has room for


class DeadlineExceeded(Exception):
    """A remote call did not answer in time."""


class ActorDied(Exception):
    """The process behind a call is gone (or its result is): the work may be given to another or repeated."""


def call(refs: ray.ObjectRef | Sequence[ray.ObjectRef], timeout: float, what: str) -> Any:
    """Wait for one reference, or for a list of them, and return the value(s).

    Args:
        refs: What to wait for.
        timeout: Deadline for all of them together, in seconds.
        what: What is waited for, for the message, e.g. ``"isogloss-demo-rollout-0: generate chunk 3"``.

    Raises:
        DeadlineExceeded: Nothing in time; the call may still be running.
        ActorDied: The actor died or its result was lost; retryable.
        UserError, SyncError, IllegalTransition: Raised by the actor.
        RayTaskError: Whatever else the call raised; also an instance of its type.
    """
    try:
        return ray.get(refs if isinstance(refs, ray.ObjectRef) else list(refs), timeout=timeout)
    except GetTimeoutError:
        raise DeadlineExceeded(f"no answer within {timeout:g} s: {what}") from None
    except (RayActorError, ObjectLostError) as error:
        raise ActorDied(f"{what}: the process died ({_why(error)})") from error
    except RayTaskError as error:
        if isinstance(error.cause, (UserError, SyncError, IllegalTransition)):
            raise error.cause from None  # ours: the message says it all, without Ray's copy of the traceback
        raise


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
