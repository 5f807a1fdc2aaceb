"""The example that lets Apertium translate, against a stand-in with its habits: CI has no Apertium."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path("examples/apertium_translator.py").resolve()
STAND_IN = r"""#!/bin/sh
# Knows the pair eng-spa and two words; a word that it does not know gets a star.
[ "$1 $2 $3" = "-f txt eng-spa" ] || { echo "Error: Mode $3 does not exist" >&2; exit 1; }
sed -E 's/[A-Za-z]+/*&/g; s/\*house/casa/g; s/\*red/roja/g'
"""
RULE = re.compile(r"(?<![\w*])\*\w+(?![\w*])")  # as its documentation gives it


def run(folder: Path, *rows: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin"}
    given = "".join(json.dumps(row) + "\n" for row in rows)
    return subprocess.run(
        [sys.executable, str(PROGRAM)],
        input=given,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=60,
    )


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    program = tmp_path / "apertium"
    program.write_text(STAND_IN, encoding="utf-8")
    program.chmod(0o755)
    return tmp_path


def test_lines_stay_where_they_were_and_unknown_words_are_found(stand_in: Path) -> None:
    done = run(
        stand_in,
        {"id": "a", "text": "red house\n\n  house\nred", "from": "en", "to": "es"},
        {"id": "b", "text": "blorptastic house", "from": "en", "to": "es"},
        {"id": "c", "text": " ", "from": "en", "to": "es"},
    )
    assert done.returncode == 0, done.stderr
    found = {row["id"]: row["text"] for row in map(json.loads, done.stdout.splitlines())}
    assert found == {"a": "roja casa\n\n  casa\nroja", "b": "*blorptastic casa", "c": " "}
    assert RULE.findall(found["b"]) == ["*blorptastic"]
    assert not RULE.findall("Es **muy** roja, *así* de roja.")


def test_a_pair_that_is_not_there_ends_the_call_with_what_apertium_said(stand_in: Path) -> None:
    done = run(stand_in, {"id": "a", "text": "red", "from": "en", "to": "sw"})
    assert (done.returncode, done.stdout) == (1, "")
    assert "apertium eng-swa: Error: Mode eng-swa does not exist" in done.stderr
