"""Files that are complete or not there, and files that one process at a time holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.atomic import point_link, remove_folder, replaced, write_json
from configs.locks import is_held, take


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"round": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"round": 1}
    with pytest.raises(ZeroDivisionError), replaced(path, durable=True) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise ZeroDivisionError
    assert json.loads(path.read_text(encoding="utf-8")) == {"round": 1}
    with replaced(path, durable=True) as temporary:
        temporary.write_text("{}", encoding="utf-8")
    write_json(path, {"round": 2}, writers=2)
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_a_link_changes_in_one_step_and_a_folder_goes_whole(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        point_link(tmp_path / "policy", tmp_path / name)
        assert os.readlink(tmp_path / "policy") == name
    remove_folder(tmp_path / "one")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["policy", "two"]


def test_a_lock_is_held_by_one_and_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    assert not is_held(path)
    code = "import sys; from pathlib import Path; from configs.locks import take; "
    code += "lock = take(Path(sys.argv[1])); print(1, flush=True); input()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert is_held(path)
        assert take(path) is None
        other.kill()
    lock = take(path)
    assert lock is not None
    assert take(path) is None, "nor twice in one process"
    lock.release()
    path.chmod(0o444)
    assert not is_held(path)
