"""Files that one process at a time holds: waiting for them, and who holds them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from configs.locks import freed, holder, is_held, take


def never() -> None:
    raise AssertionError("nobody waited long enough to hear of it")


def test_a_held_file_is_waited_for_and_its_holder_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert freed(path, 0, never), "a file that is not there is held by nobody"
    assert holder(path) == ""
    lock = take(path)
    assert lock is not None
    assert holder(path) == f" (process id {os.getpid()})"
    assert take(path) is None
    assert not freed(path, 0, never)
    assert not freed(path, 0.3, lambda: None, quiet_s=0)
    told: list[str] = []

    def let_go() -> None:
        told.append("waits")
        lock.release()

    assert freed(path, 60, let_go, quiet_s=0)
    assert told == ["waits"]
    assert not is_held(path)
    assert holder(path) == ""


def test_a_system_that_lists_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = take(tmp_path / "lock")
    assert lock is not None
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "garbage")
    assert holder(tmp_path / "lock") == ""
    lock.release()
