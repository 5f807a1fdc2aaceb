"""The examples of docs/extending.md, from a folder outside the repository, as far as a dry run goes."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    block = re.search(r"```\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    return block.group(1).strip().splitlines()


@pytest.mark.parametrize("command", commands())
def test_example_passes_its_trial(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (ROOT / "examples").glob("*.py"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part and Path(part) != ROOT / "examples"])
    words = [part.strip('"') for part in re.findall(r'"[^"]*"|\S+', command)][1:]
    done = CliRunner().invoke(app, [*words, "--dry-run"])
    assert done.exception is None, done.output
    broken = [re.sub(r"(own_\w+:\w+)", r"\1_absent", word) for word in words]
    refused = CliRunner().invoke(app, [*broken, "--dry-run"])
    assert "_absent'" in str(refused.exception) + refused.output
