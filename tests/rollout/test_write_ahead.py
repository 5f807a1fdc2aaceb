"""Files of verdicts on storage that machines share: no write-ahead log there, and nothing lost by several writers."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from rollout.write_ahead import file_system, is_network, write_ahead

MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /proc rw - proc proc rw
30 21 0:40 / /shared rw shared:5 master:1 - nfs4 server:/export rw,vers=4.2
31 30 8:2 / /shared/local rw - xfs /dev/sdb1 rw
32 21 0:41 / /my\\040disk rw - fuse.sshfs user@host:/ rw
33 21 0:42 / /twice rw - ext4 /dev/sdc1 rw
34 21 0:43 / /twice rw - lustre mgs:/fs rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind", "network"),
    [
        ("/home/me/runs/a", "ext4", False),
        ("/shared/runs/a/judge.sqlite", "nfs4", True),
        ("/shared/local/runs", "xfs", False),
        ("/sharedx/runs", "ext4", False),
        ("/my disk/runs", "fuse.sshfs", True),
        ("/twice/a", "lustre", True),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str, network: bool) -> None:
    assert file_system(Path(path), MOUNTS) == kind
    assert is_network(kind) is network


def test_kinds_that_machines_share() -> None:
    assert all(
        map(is_network, ["nfs", "nfs4", "cifs", "smb3", "ceph", "beegfs", "gpfs", "fuse.s3fs", "fuse.glusterfs"])
    )
    assert not any(map(is_network, ["ext4", "xfs", "btrfs", "overlay", "tmpfs", "zfs", "fuse.fuse-overlayfs", "f2fs"]))
    assert file_system(Path("/"), "") is None


def test_this_machine_says_what_it_has(tmp_path: Path) -> None:
    assert file_system(tmp_path / "not" / "there")


@pytest.mark.parametrize(
    ("mounts", "mode"), [("1 1 8:1 / / rw - ext4 x rw", "wal"), ("1 1 0:1 / / rw - nfs x rw", "delete")]
)
def test_the_journal_fits_the_file_system(tmp_path: Path, mounts: str, mode: str) -> None:
    with sqlite3.connect(tmp_path / "a.sqlite", isolation_level=None) as db:
        db.execute("CREATE TABLE t (n)")
        db.execute("PRAGMA journal_mode=WAL")  # as an earlier version left it
        assert write_ahead(db, 5, mounts).lower() == mode
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == mode


WRITER = """
import sqlite3, sys
from rollout.write_ahead import write_ahead
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
assert write_ahead(db, 30, "1 1 0:1 / / rw - nfs x rw") == "DELETE"
db.execute("CREATE TABLE IF NOT EXISTS t (n)")
for n in range(100):
    db.execute("INSERT INTO t VALUES (?)", (n,))
"""


def test_nothing_is_lost_without_a_write_ahead_log(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path)]) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT COUNT(*) FROM t").fetchone()[0] == 300
