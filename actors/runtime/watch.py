"""Ray's own servers under watch: where one of them dies, the run ends with one line of ours instead of Ray's.

Ray's library ends the process a minute after its head's death, from within and without a word that helps; until then
calls hang. A local head is never started again, so that waiting for it is of no use.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from actors.runtime.last_words import Notes, lost, say_last, tell

PERIOD_S = 1.0
LOCAL_PATIENCE_S = 1.5
# Below Ray's own minute (gcs_rpc_server_reconnect_timeout_s): a head with fault tolerance comes back within it.
JOINED_PATIENCE_S = 45.0
RAYLET = "Ray's raylet on this node"


def reachable(address: str, timeout: float = 5.0) -> bool:
    """Whether somebody listens at ``host:port``; a server that is merely busy counts, as the kernel answers for it."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout):
            return True
    except OSError:
        return False


class Watch:
    """Looks after Ray's servers and ends this process once one of them is gone.

    Args:
        servers: What they are, with host:port of each.
        patience: Seconds without an answer after which one counts as gone.
        advice: What a user is to do then.
        leave: Ends the process with a message and an exit code; it must not return.
        period: Seconds between looks.
    """

    def __init__(
        self,
        servers: Mapping[str, str],
        patience: float,
        advice: str = "start the command again",
        leave: Callable[[str, int], None] | None = None,
        period: float = PERIOD_S,
    ) -> None:
        self._servers = servers
        self._patience = patience
        self._notes = Notes(advice=advice)
        self._leave = leave or leave_now
        self._period = period
        self._asked_by: Callable[[], str | None] = lambda: None
        self._ended = threading.Event()
        self._seen = dict.fromkeys(servers, time.monotonic())
        self._looking = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="ray-watch", daemon=True)

    def advise(self, advice: str) -> None:
        """What a user is to do after a loss, now that more is known."""
        self._notes.advice = advice
        tell(advice=advice)

    def excuse(self, asked_by: Callable[[], str | None]) -> None:
        """What asked for a stop, if anything did: a signal to the whole process group ends Ray's servers as well."""
        self._asked_by = asked_by

    def finished(self, notice: str) -> None:
        """All work is done and kept: from now on a loss is told, and is no failure."""
        self._notes.finished = notice
        tell(finished=notice)

    def confirm(self) -> None:
        """Call where a remote call failed: does not return if that is so because a server is gone."""
        while not self._look():
            time.sleep(min(self._period, self._patience / 4))

    def _run(self) -> None:
        self._seen = dict.fromkeys(self._servers, time.monotonic())
        while not self._ended.wait(self._period):
            self._look()

    def _look(self) -> bool:
        """Whether all answer; leaves where one has not for too long."""
        with self._looking:
            silent = [name for name, address in self._servers.items() if not self._answers(name, address)]
            for name in silent:
                if time.monotonic() - self._seen[name] >= self._patience and not self._ended.is_set():
                    self._ended.set()
                    self._lost(f"{name} at {self._servers[name]} has died or cannot be reached any more")
            return not silent or self._ended.is_set()

    def _answers(self, name: str, address: str) -> bool:
        if reachable(address):
            self._seen[name] = time.monotonic()
            return True
        return False

    def _lost(self, what: str) -> None:
        self._leave(*lost(what, self._notes, self._asked_by()))

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """Look for the length of the block; Ray may be shut down after it."""
        if RAYLET in self._servers:
            tell(raylet=f"{RAYLET} at {self._servers[RAYLET]}", advice=self._notes.advice)
        self._thread.start()
        try:
            yield self
        finally:
            self._ended.set()


def leave_now(message: str, code: int) -> None:
    """End this process. Its main thread may wait for an answer that never comes, and leaving Ray in order would hang;
    Ray's servers and workers end with their driver.
    """
    if not tell(last=[message, code]):
        say_last(message)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
