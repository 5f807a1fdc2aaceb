"""The processes of a run, found by descent: a process that loses its parent is adopted by this process (Linux only)."""

from __future__ import annotations

import ctypes
import os
import time

import psutil

from benchmarks.chaos.schedule import Victim

_PR_SET_CHILD_SUBREAPER = 36

# What a process is, by its command line; Ray writes an actor's class there.
_TITLES: dict[str, Victim] = {
    "ray::RolloutActor": "rollout",
    "ray::RewardActor": "reward",
    "ray::RayTrainWorker": "learner",
    "ray::StoreActor": "store",
}


def adopt() -> None:
    """From now on a descendant whose parent dies becomes a child of this process, so that none gets out of sight."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def title(process: psutil.Process) -> str:
    """Command line of a process; empty if it has ended."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def victim_of(command: str) -> Victim | None:
    """Which part of a run a command line is; None for any other process."""
    for start, victim in _TITLES.items():
        if command.startswith(start):
            return victim
    name = os.path.basename(command.partition(" ")[0])
    return {"gcs_server": "gcs", "raylet": "raylet"}.get(name)  # type: ignore[return-value]


def descendants() -> list[psutil.Process]:
    """All living processes below this one."""
    found = psutil.Process().children(recursive=True)
    return [one for one in found if is_alive(one)]


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; what has ended and is waited for by nobody does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def find(victim: Victim, driver: int, strangers: set[int]) -> list[psutil.Process]:
    """The processes of a run that are ``victim``, the oldest first.

    Args:
        victim: Which part.
        driver: Process id of the run's command.
        strangers: Process ids that are not the run's.
    """
    if victim == "driver":
        return [one for one in descendants() if one.pid == driver]
    found = [one for one in descendants() if one.pid not in strangers and victim_of(title(one)) == victim]
    return sorted(found, key=lambda one: one.pid)


def reap(driver: int) -> None:
    """Collect adopted processes that have ended; the driver is collected by who started it."""
    for one in psutil.Process().children():
        try:
            if one.pid != driver and one.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(one.pid, os.WNOHANG)
        except (psutil.Error, ChildProcessError):
            continue


# They try for a minute (fixed in Ray) to tell the head, which is gone as well, that their raylet has died.
_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
# Before they have those titles; and workers that are still starting, which try as long.
_STARTING = (
    "ray/dashboard/agent.py",
    "ray/_private/runtime_env/agent/main.py",
    "ray/_private/workers/setup_worker.py",
    "ray/_private/workers/default_worker.py",
)


def _takes_a_minute(process: psutil.Process) -> bool:
    command = title(process)
    return command.startswith(_AGENTS) or any(script in command for script in _STARTING)


def left_over(driver: int, strangers: set[int], seconds: float, agents: bool = False) -> list[str]:
    """What is still running of a run that ended, after it got ``seconds`` to go; those are killed, by their ids.

    Args:
        driver: Process id of the run's command.
        strangers: Process ids that are not the run's.
        seconds: How long to wait.
        agents: Whether Ray's agents of the node, and its workers that never came up, count: they take a minute.
    """
    deadline = time.monotonic() + seconds
    while True:
        reap(driver)
        found = [one for one in descendants() if one.pid not in strangers and one.pid != driver]
        if not agents:
            found = [one for one in found if not _takes_a_minute(one)]
        if not found or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    names = [f"{one.pid} {title(one)[:200]}" for one in found]
    for one in found:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    return names
