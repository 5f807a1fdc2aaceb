"""What the documents name is there: tests and files of tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A name that a placeholder makes longer ("test_..._ends_cleanly") is none.
_TEST = re.compile(r"`(?:[\w/.]+::)?(test_[a-z0-9]+_\w+)`")
_FILE = re.compile(r"`(tests/[\w/]+\.py)(?:::\w+)?`")


def test_tests_that_documents_name_are_there() -> None:
    documents = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
    known = {
        node.name
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    named = [(path.name, name) for path in documents for name in _TEST.findall(path.read_text(encoding="utf-8"))]
    assert len(named) > 100
    assert [pair for pair in named if pair[1] not in known] == []
    files = [(path.name, name) for path in documents for name in _FILE.findall(path.read_text(encoding="utf-8"))]
    assert [pair for pair in files if not (ROOT / pair[1]).is_file()] == []
