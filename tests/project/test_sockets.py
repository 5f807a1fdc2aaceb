"""The kit that reads a process's sockets sees them, with their addresses."""

from __future__ import annotations

import os
import socket

from tests.kits.sockets import is_loopback, listening


def test_sockets_are_seen_with_their_addresses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as near, socket.create_server(("0.0.0.0", 0)) as far:
        found = {(address, port) for address, port, _ in listening([os.getpid()])}
        assert {near.getsockname(), far.getsockname()} <= found
    assert [is_loopback(one) for one in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::")] == [True] * 3 + [
        False,
        False,
    ]
