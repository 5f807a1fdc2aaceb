"""Ray's servers under watch, and Ray's long texts in our short words."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from actors.runtime.last_words import LOST_EXIT, STOPPED_EXIT
from actors.runtime.watch import Watch, reachable
from learners.errors import reason_of


class Server:
    """Listens and never accepts, as a server that is busy."""

    def __init__(self, port: int = 0) -> None:
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port = int(self._socket.getsockname()[1])
        self.address = f"127.0.0.1:{self.port}"

    def die(self) -> None:
        self._socket.close()


class Left:
    """Records how the process would have been left."""

    def __init__(self) -> None:
        self.how: list[tuple[str, int]] = []
        self.told = threading.Event()

    def __call__(self, message: str, code: int) -> None:
        self.how.append((message, code))
        self.told.set()


def watch(left: Left, patience: float, **servers: Server) -> Watch:
    return Watch({name: one.address for name, one in servers.items()}, patience, "continue", left, period=0.02)


def test_a_death_is_told_once_with_its_cure() -> None:
    head, raylet, left = Server(), Server(), Left()
    with watch(left, 0.1, head=head, raylet=raylet).watching() as one:
        one.advise("the folder keeps all; continue with --resume")
        head.die()
        assert left.told.wait(30)
    message = (
        f"head at {head.address} has died or cannot be reached any more; the folder keeps all; continue with --resume"
    )
    assert left.how == [(message, LOST_EXIT)]
    raylet.die()


def test_after_the_work_is_done_a_death_is_no_failure() -> None:
    head, left = Server(), Left()
    with watch(left, 0.1, head=head).watching() as one:
        one.finished("runs/x is finished")
        head.die()
        assert left.told.wait(30)
    ((message, code),) = left.how
    assert (code, message.startswith("runs/x is finished (head at")) == (0, True)


def test_a_signal_to_all_is_a_stop_and_no_loss() -> None:
    head, left = Server(), Left()
    with watch(left, 0.1, head=head).watching() as one:
        one.excuse(lambda: "SIGTERM")
        head.die()
        assert left.told.wait(30)
    assert left.how == [("stopped by SIGTERM; continue", STOPPED_EXIT)]


def test_a_server_that_comes_back_in_time_is_not_lost() -> None:
    head, left = Server(), Left()
    one = watch(left, 60.0, head=head)
    head.die()
    waiting = threading.Thread(target=one.confirm)
    waiting.start()
    assert not left.told.wait(0.2)
    assert waiting.is_alive(), "a failure is judged before the server had its time"
    again = Server(head.port)
    waiting.join(30)
    assert not waiting.is_alive()
    assert left.how == []
    again.die()


def test_an_end_in_order_is_not_a_loss() -> None:
    head, left = Server(), Left()
    with watch(left, 0.05, head=head).watching():
        pass
    head.die()
    assert not left.told.wait(0.3)
    assert not reachable(head.address)


def test_a_main_thread_that_hangs_is_left_with_one_line() -> None:
    code = """
import socket, sys, time
from actors.runtime.watch import Watch
server = socket.create_server(("127.0.0.1", 0))
head = {"Ray's head": f"127.0.0.1:{server.getsockname()[1]}"}
with Watch(head, 0.1, "continue with --resume", period=0.05).watching():
    print("working", flush=True)
    server.close()
    time.sleep(600)
"""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, env=dict(os.environ)
    )
    assert time.monotonic() - begun < 100
    assert done.returncode == LOST_EXIT
    assert done.stdout == "working\n"
    assert done.stderr.startswith("isogloss: Ray's head at 127.0.0.1:")
    assert done.stderr.endswith("; continue with --resume\n")
    assert done.stderr.count("\n") == 1


RAY_KILLED = """The actor died unexpectedly before finishing this task.
	class_name: RolloutActor
	actor_id: 5f2a
	pid: 4711
	name: isogloss-demo-rollout-0
	namespace: f2c1
	ip: 127.0.0.1
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed \
by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed unexpectedly \
due to SIGSEGV or another unexpected error."""
RAY_NODE = """The actor died because its node has died. Node Id: 77ab
	the actor's node was terminated unexpectedly: health check failed due to missing too many heartbeats"""
RAY_RAISED = """The actor died because of an error raised in its creation task, \x1b[36mray::Rollout.__init__()\x1b[39m
  File "/x/engine.py", line 3, in __init__
    raise ValueError("max_model_len is 4096")
ValueError: User-specified max_model_len (4096) is greater than the derived max_model_len (256)

For further information visit https://errors.pydantic.dev/2/v/value_error"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (RAY_KILLED, "it was killed or crashed"),
        (RAY_NODE, "its node died or was cut off from the network"),
        (RAY_RAISED, "ValueError: User-specified max_model_len (4096) is greater than the derived max_model_len (256)"),
        ("Worker exit type: INTENDED_USER_EXIT exit code 1", "it ended with exit code 1"),
        (
            "Task was killed due to the node running low on memory.\nMemory on the node...",
            "killed, as its node ran out",
        ),
        ("short", "short"),
        ("", "RuntimeError"),
        ("x" * 5000, "x" * 50),
    ],
)
def test_rays_texts_in_short(text: str, reason: str) -> None:
    found = reason_of(RuntimeError(text))
    assert found.startswith(reason)
    assert len(found) <= 200
    assert "\n" not in found
    assert "http" not in found
