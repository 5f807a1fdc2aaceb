"""What an actor may do when: a pure state machine, so that no stale engine ever gets work.

STARTING --loaded--> READY(version)            first start, weights read from a folder of known version
STARTING --loaded(restarted)--> STALE(0)       Ray restarted the process: it holds the base weights
READY --begin--> BUSY --finish--> READY
READY | STALE --refitted--> READY(version)     verified weights are in
READY | STALE --refit_failed--> STALE          what the engine computes with is unknown
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Any


class State(enum.Enum):
    """Where an actor is in its life."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    STALE = "stale"


class IllegalTransition(Exception):
    """A step that the state machine does not have: a bug, or work sent to an actor that must not get any."""


class SyncError(Exception):
    """Weights were refused, or could not be shown to be in use."""


@dataclass(frozen=True, slots=True)
class Health:
    """State of one actor; every method returns the next state or raises ``IllegalTransition``.

    Attributes:
        name: The actor, for messages.
        state: Where it is.
        version: Weight version that it computes with; 0 is the start, and what a restart falls back to.
        reason: Why it is stale.
    """

    name: str
    state: State = State.STARTING
    version: int = 0
    reason: str = ""

    def _step(self, what: str, allowed: tuple[State, ...], target: State, **changes: Any) -> Health:
        if self.state not in allowed:
            why = f" ({self.reason})" if self.reason else ""
            raise IllegalTransition(f"{self.name}: cannot {what} while {self.state.value}{why}")
        return replace(self, state=target, **changes)

    def loaded(self, version: int, restarted: bool = False) -> Health:
        """The weights of the constructor's folder are in; after a restart they count as base weights."""
        if restarted:
            reason = "restarted with the weights it began with; needs a refit"
            return self._step("load", (State.STARTING,), State.STALE, version=0, reason=reason)
        if version < 0:
            raise IllegalTransition(f"{self.name}: weight version {version} is negative")
        return self._step("load", (State.STARTING,), State.READY, version=version, reason="")

    def begin(self) -> Health:
        """Start a piece of work."""
        return self._step("work", (State.READY,), State.BUSY)

    def finish(self) -> Health:
        """End a piece of work, well or badly: weights are untouched either way."""
        return self._step("finish work", (State.BUSY,), State.READY)

    def refitted(self, version: int) -> Health:
        """Verified weights of ``version`` are in. Going back is allowed only from STALE."""
        if self.state is State.READY and version < self.version:
            raise IllegalTransition(f"{self.name}: cannot go back from version {self.version} to {version}")
        return self._step("refit", (State.READY, State.STALE), State.READY, version=version, reason="")

    def refit_failed(self, reason: str) -> Health:
        """A refit was refused or could not be verified."""
        return self._step("refit", (State.READY, State.STALE), State.STALE, reason=reason)
