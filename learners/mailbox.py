"""The actor between driver and learner ranks: one pending command at a time, and its outcome.

It holds no arrays: weights go through the object store, by reference. It outlives the ranks, so that a group
which was restarted finds the command that its predecessor did not finish.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

CommandKind = Literal["reference", "train", "broadcast"]


@dataclass(frozen=True, slots=True)
class Command:
    """What the ranks are to do; what it is done with (pairs, or a rendezvous) is fetched apart."""

    number: int
    kind: CommandKind
    round: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a command: a result, or an error that a restart would not fix.

    ``result`` is pickled, so that the mailbox need not import what it only hands on (torch alone takes seconds);
    object references, which must not be hidden in bytes, travel beside it.
    """

    result: bytes = b""
    references: tuple[Any, ...] = ()
    error: Exception | None = None


class Mailbox:
    """Async Ray actor; every method returns within the time that it is given."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._command: Command | None = None
        self._payloads: dict[int, Any] = {}
        self._outcomes: dict[int, Outcome] = {}
        self._given = 0  # number of the last command that was handed out
        self._closed = False
        self._ranks: dict[int, tuple[str, int]] = {}
        self._heard: dict[int, float] = {}
        self._starts = 0
        self._startup_error: Exception | None = None

    async def post(self, kind: CommandKind, round_number: int, payload: Any) -> int:
        """Make a command the pending one; outcomes of earlier ones are let go. Returns its number."""
        number = (self._command.number if self._command else 0) + 1
        self._command = Command(number, kind, round_number)
        self._payloads[number] = payload
        self._outcomes.clear()
        await self._notify()
        return number

    async def next(self, wait_s: float) -> Command | Literal["idle", "closed"]:
        """The pending command that has no outcome yet; ``idle`` after ``wait_s`` seconds without one.

        The one rank that asks is done with the command it got before, but a slower rank may not have fetched yet what
        was posted with that one. All ranks agreed on it, so all have left those before it: these are let go.
        """
        self._payloads = {number: payload for number, payload in self._payloads.items() if number >= self._given}
        await self._wait_for(lambda: self._closed or self._pending() is not None, wait_s)
        if self._closed:
            return "closed"
        pending = self._pending()
        if pending is None:
            return "idle"
        self._given = pending.number
        return pending

    async def payload(self, number: int) -> Any:
        """What was posted with a command."""
        return self._payloads[number]

    async def finish(self, number: int, outcome: Outcome) -> None:
        """Record the outcome of a command; the first outcome counts."""
        self._outcomes.setdefault(number, outcome)
        await self._notify()

    async def outcome(self, number: int, wait_s: float) -> Outcome | None:
        """The outcome of a command; None if it takes longer than ``wait_s`` seconds."""
        await self._wait_for(lambda: number in self._outcomes, wait_s)
        return self._outcomes.get(number)

    async def arrive(self, rank: int, node: str, pid: int) -> None:
        """A rank is ready for commands."""
        self._ranks[rank] = (node, pid)
        self._heard[rank] = time.monotonic()
        self._starts += rank == 0
        await self._notify()

    async def refuse(self, error: Exception) -> None:
        """A rank cannot start, and another attempt would not help."""
        self._startup_error = error
        await self._notify()

    async def started(self, ranks: int, wait_s: float) -> Exception | bool:
        """Whether that many ranks have arrived by now, or the error that keeps them from it."""
        await self._wait_for(lambda: len(self._ranks) >= ranks or self._startup_error is not None, wait_s)
        return self._startup_error or len(self._ranks) >= ranks

    async def ranks(self) -> dict[int, tuple[str, int]]:
        """Node id and process id of each rank, of the latest attempt."""
        return dict(self._ranks)

    async def starts(self) -> int:
        """How often the group has started."""
        return self._starts

    async def close(self) -> None:
        """Tell every rank to leave."""
        self._closed = True
        await self._notify()

    async def closed(self, rank: int | None = None) -> bool:
        """Whether ranks are to leave; a rank that asks is alive."""
        if rank is not None:
            self._heard[rank] = time.monotonic()
        return self._closed

    async def life(self) -> tuple[int, float]:
        """How often the group has started, and the seconds since the quietest of its ranks was heard of."""
        return self._starts, max((time.monotonic() - when for when in self._heard.values()), default=0.0)

    def _pending(self) -> Command | None:
        if self._command is None or self._command.number in self._outcomes:
            return None
        return self._command

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait_for(self, condition: Callable[[], bool], wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        async with self._changed:
            while not condition() and (left := deadline - time.monotonic()) > 0:
                try:
                    await asyncio.wait_for(self._changed.wait(), left)
                except TimeoutError:
                    return
