"""SQLite files that several processes open at once."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Literal

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

# Write-ahead logging needs memory that all processes of the file share, which two machines have not. `fuse.` is
# mostly somebody's network; fuse-overlayfs is a container's own disk.
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|lustre|gpfs|mmfs|beegfs|ceph|glusterfs|wekafs|pvfs2|orangefs|panfs|afs|gfs2|ocfs2|9p|virtiofs"
    r"|fuse\.(?!fuse-overlayfs).*"
)


def write_ahead(db: sqlite3.Connection, wait_s: float, mounts: str | None = None) -> Literal["WAL", "DELETE"]:
    """Switch a file to write-ahead logging, or on a network file system to a journal that machines can share.

    Two connections that do so to a fresh file lock each other out at once, whatever SQLite's own time-out says, so it
    is tried again for ``wait_s`` seconds.

    Args:
        db: Connection to the file.
        wait_s: How long to try.
        mounts: The mounted file systems as ``/proc/self/mountinfo`` lists them; by default those of this process.

    Returns:
        The journal mode that the file now has.
    """

    def locked(error: BaseException) -> bool:
        return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)

    again = Retrying(
        retry=retry_if_exception(locked), wait=wait_random(0.01, 0.1), stop=stop_after_delay(wait_s), reraise=True
    )
    name = db.execute("PRAGMA database_list").fetchone()[2]
    kind = file_system(Path(name), mounts) if name else None
    mode: Literal["WAL", "DELETE"] = "DELETE" if kind is not None and is_network(kind) else "WAL"
    again(db.execute, f"PRAGMA journal_mode={mode}")
    return mode


def is_network(kind: str) -> bool:
    """Whether a file system of this kind may be mounted by several machines."""
    return _NETWORK.fullmatch(kind) is not None


def file_system(path: Path, mounts: str | None = None) -> str | None:
    """Kind of the file system that a path is on, e.g. ``ext4``; None where the system does not say.

    Args:
        path: Need not exist.
        mounts: As in :func:`write_ahead`.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None
    place = path.resolve()
    found: tuple[int, str | None] = (-1, None)
    for line in mounts.splitlines():
        head, dash, tail = line.partition(" - ")
        fields = head.split(" ")
        if not dash or len(fields) < 5:
            continue
        # Spaces and the like are written as octal escapes.
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), fields[4]))
        if place.is_relative_to(point) and len(point.parts) >= found[0]:  # a later mount covers an earlier one
            found = (len(point.parts), tail.split(" ")[0])
    return found[1]
