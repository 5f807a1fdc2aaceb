"""Waiting for remote calls: every wait has a deadline and says what it waited for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from actors.health import IllegalTransition, SyncError
from configs.errors import UserError
from learners.errors import reason_of


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
        raise ActorDied(f"{what}: the process died ({reason_of(error)})") from error
    except RayTaskError as error:
        if isinstance(error.cause, (UserError, SyncError, IllegalTransition)):
            raise error.cause from None  # ours: the message says it all, without Ray's copy of the traceback
        raise
