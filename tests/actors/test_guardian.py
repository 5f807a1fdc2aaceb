"""The process beside a driver: the command ends as its driver does, and Ray's way of ending it has our words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from actors.runtime.last_words import Notes, verdict

# A driver that tells its process id, its stop and what is passed on to it, and does what it is told on standard input.
DRIVER = """
import os, signal, sys, time
from actors.runtime.guardian import guard
guard()
from actors.runtime.last_words import tell
from actors.runtime.signals import PASSED, StopFlag, stop_on_signals
from actors.runtime.watch import leave_now
flag = StopFlag()
def told():
    while not flag():
        time.sleep(0.01)
    os.write(1, flag.asked_by.encode() + b"\\n")  # at once, since what is passed on may come in between
def heard(number):
    handle = signal.getsignal(number)
    def handle_and_tell(*given):
        handle(*given)
        os.write(1, b"passed on\\n")
    signal.signal(number, handle_and_tell)
try:
    with stop_on_signals(flag):
        for number in PASSED.values():
            heard(number)
        tell(raylet="Ray's raylet at 127.0.0.1:1", advice="continue with --resume")
        print(os.getpid(), os.getppid(), flush=True)
        for line in sys.stdin:
            exec(line)
except KeyboardInterrupt:
    os._exit(77)
"""
LOST = "isogloss: Ray's raylet at 127.0.0.1:1 has died or cannot be reached any more; continue with --resume\n"


class Command:
    """A command whose driver does what it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self._input, self._output = process, process.stdin, process.stdout
        self.driver, guardian = (int(number) for number in self.line().split())
        assert guardian == process.pid
        self._process = psutil.Process(self.driver)

    def do(self, code: str) -> None:
        self._input.write(f"{code}\n")
        self._input.flush()

    def line(self) -> str:
        return self._output.readline().strip()

    def end(self) -> tuple[int, str]:
        """Exit code and standard error; nothing of it is left."""
        _, errors = self.process.communicate(timeout=60)
        assert self._process.wait(60) is None
        return self.process.returncode, errors


@contextmanager
def command(code: str = DRIVER) -> Iterator[Command]:
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=dict(os.environ),
    )
    try:
        yield Command(process)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("os._exit(1)", (2, LOST)),  # Ray's client
        ("sys.stderr.write('ours\\n'); sys.exit(1)", (2, "ours\n" + LOST)),
        ("tell(over=True); os._exit(1)", (1, "")),  # a failure that was told
        ("tell(finished='runs/x is finished'); os._exit(1)",
         (0, "isogloss: runs/x is finished (Ray's raylet at 127.0.0.1:1 has died or cannot be reached any more)\n")),
        ("tell(raylet=None); os._exit(1)", (1, "")),  # before Ray is up
        ("os._exit(130)", (130, "")),
        ("tell(over=True); sys.exit()", (0, "")),
        ("leave_now('its head has died', 2)", (2, "isogloss: its head has died\n")),
        ("os.kill(os.getpid(), 11)", (-11, "isogloss: the driver was ended by SIGSEGV; continue with --resume\n")),
    ],
)  # fmt: skip
def test_the_command_ends_as_its_driver(code: str, ended: tuple[int, str]) -> None:
    with command() as one:
        one.do(code)
        assert one.end() == ended


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to", ["command", "driver", "group", "both"])
def test_a_signal_is_one_stop_whichever_processes_get_it(to: str, number: signal.Signals) -> None:
    with command() as one:
        one.do("told()")
        if to == "group":
            os.killpg(one.process.pid, number)
        if to in ("command", "both"):
            one.process.send_signal(number)
        if to in ("driver", "both"):
            os.kill(one.driver, number)
        lines = {one.line() for _ in range(1 if to == "driver" else 2)}
        assert lines == {number.name} | (set() if to == "driver" else {"passed on"})
        one.do("os._exit(1)")
        assert one.end() == (130, f"isogloss: stopped by {number.name}; continue with --resume\n")


def test_a_second_signal_ends_at_once() -> None:
    with command() as one:
        one.do("told()")
        one.process.send_signal(signal.SIGTERM)
        assert {one.line(), one.line()} == {"SIGTERM", "passed on"}
        one.process.send_signal(signal.SIGTERM)
        assert one.end() == (77, "")


def test_a_killed_command_takes_its_driver_with_it() -> None:
    with command() as one:
        one.process.kill()
        assert one.end()[0] == -signal.SIGKILL


def test_a_stop_before_ray_is_up_ends_as_it_does_without_a_guardian() -> None:
    code = """
import os, time
from actors.runtime.guardian import guard
guard()
print(os.getpid(), os.getppid(), flush=True)
time.sleep(600)
"""
    with command(code) as one:
        one.process.send_signal(signal.SIGTERM)
        assert one.end() == (-signal.SIGTERM, "")
    with command(code) as one:
        os.killpg(one.process.pid, signal.SIGINT)
        status, errors = one.end()
        assert (status, errors.count("Traceback")) == (-signal.SIGINT, 1)


def test_what_was_asked_for_goes_before_what_was_lost() -> None:
    notes = Notes(raylet="Ray's raylet at x", advice="continue")
    assert verdict(notes, 1, "SIGINT") == ("stopped by SIGINT; continue", 130)
    assert verdict(notes, 3, None) == (None, 3)
    notes.last = ("said", 2)
    assert verdict(notes, 1, "SIGINT") == ("said", 2)


RAYLESS = """
import os, signal, sys
from pathlib import Path
from actors.runtime.guardian import guard
guard()
from actors.runtime.env import apply_driver_env
apply_driver_env()
import psutil, ray
from actors.runtime import cluster
from configs.running import ClusterConfig
cluster.LOCAL_PATIENCE_S = 600.0  # Ray's client is the first to meet the dead raylet
with cluster.start_cluster(ClusterConfig(num_cpus=1), Path(sys.argv[1])) as started:
    started.watch.advise("continue with --resume")
    print("up", flush=True)
    for one in psutil.Process().children():
        if one.name() == "raylet":
            one.kill()
            one.wait()
    while True:
        ray.put(bytes(1 << 20))
"""


@pytest.mark.ray
def test_rays_own_end_of_a_driver_has_our_words_and_exit_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RAYLESS, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=dict(os.environ),
    )
    assert (done.returncode, done.stdout) == (2, "up\n"), done.stderr
    assert done.stderr.startswith("isogloss: Ray's raylet on this node at 127.0.0.1:")
    assert done.stderr.endswith(" has died or cannot be reached any more; continue with --resume\n")
    assert done.stderr.count("\n") == 1
