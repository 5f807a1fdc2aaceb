"""What a run on one machine listens on, from its first process to its last: the loopback and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.kits.run import arguments
from tests.kits.sockets import family, is_loopback, listening


def test_sockets_are_seen_with_their_addresses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as near, socket.create_server(("0.0.0.0", 0)) as far:
        found = {(address, port) for address, port, _ in listening([os.getpid()])}
        assert {near.getsockname(), far.getsockname()} <= found
    assert [is_loopback(one) for one in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::")] == [True] * 3 + [
        False,
        False,
    ]


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_whole_run_listens_on_the_loopback_alone(tmp_path: Path) -> None:
    command = arguments(
        tmp_path, "listens", "schedule.rounds=1", "learner.workers=2", "cluster.weight_transfer=broadcast"
    )
    output = tmp_path / "output"
    seen: set[tuple[str, int, str]] = set()
    with output.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as run:
        while run.poll() is None:
            seen |= listening(family(run.pid))
            try:
                run.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
    assert run.returncode == 0, output.read_text()
    assert len(seen) > 5
    assert {one for one in seen if not is_loopback(one[0])} == set()
