"""Which sockets processes listen on, read from the kernel."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

import psutil

_LISTEN = "0A"


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    try:
        one = psutil.Process(pid)
        return [pid, *(child.pid for child in one.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def listening(pids: list[int]) -> set[tuple[str, int, str]]:
    """(address, port, command) of each TCP socket on which one of the processes listens."""
    sockets = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN:
                address, port = fields[1].split(":")
                sockets[fields[9]] = (_address(address), int(port, 16))
    found = set()
    for pid in pids:
        try:
            opened = list(Path(f"/proc/{pid}/fd").iterdir())
            command = " ".join(psutil.Process(pid).cmdline())[:100]
        except (OSError, psutil.Error):  # it ended meanwhile
            continue
        for one in opened:
            try:
                link = os.readlink(one)
            except OSError:  # closed meanwhile, as the one through which the folder was read
                continue
            inode = link.removeprefix("socket:[").removesuffix("]")
            if link.startswith("socket:") and inode in sockets:
                found.add((*sockets[inode], command))
    return found


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach it."""
    one = ipaddress.ip_address(address)
    mapped = getattr(one, "ipv4_mapped", None)
    return (mapped or one).is_loopback


def _address(text: str) -> str:
    raw = b"".join(bytes.fromhex(text[k : k + 8])[::-1] for k in range(0, len(text), 8))
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)
