"""What the documents name is there: tests, files of tests, fields of configs; and their YAML can be read."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from configs.explain import fields
from configs.schema import Config
from configs.yaml12 import load_yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "worlds" / "README.md"]
# A name that a placeholder makes longer ("test_..._ends_cleanly") is none.
_TEST = re.compile(r"`(?:[\w/.]+::)?(test_[a-z0-9]+_\w+)`")
_FILE = re.compile(r"`(tests/[\w/]+\.py)(?:::\w+)?`")


def test_tests_that_documents_name_are_there() -> None:
    known = {
        node.name
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    named = [(path.name, name) for path in PAGES for name in _TEST.findall(path.read_text(encoding="utf-8"))]
    assert len(named) > 100
    assert [pair for pair in named if pair[1] not in known] == []
    files = [(path.name, name) for path in PAGES for name in _FILE.findall(path.read_text(encoding="utf-8"))]
    assert [pair for pair in files if not (ROOT / pair[1]).is_file()] == []


BLOCKS = [
    pytest.param(text, id=f"{page.name}-{number}")
    for page in PAGES
    for number, text in enumerate(
        re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.M)
    )
]


SECTIONS = {".".join(name.split(".")[:2]) for name, _ in fields(Config)}  # with their fields


@pytest.mark.parametrize("text", BLOCKS)
def test_yaml_that_documents_show_can_be_read(text: str) -> None:
    read = load_yaml(text, "block")
    assert isinstance(read, dict)
    if not read.keys() <= {*Config.model_fields, "extends"}:
        return  # of Kubernetes, Ray or a study
    for section, values in read.items():
        if isinstance(values, dict) and any(name.startswith(f"{section}.") for name in SECTIONS):
            assert {f"{section}.{name}" for name in values} <= SECTIONS


def test_pages_have_yaml() -> None:
    assert len(BLOCKS) > 5
