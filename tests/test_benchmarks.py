"""Benchmarks run rarely, so their imports are checked here: also those inside functions, without running them."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

FILES = sorted(path for path in Path("benchmarks").rglob("*.py") if path.name != "__init__.py")
PEERS = {"trl", "datasets"}  # compared with, and installed for development alone


def imported(path: Path) -> list[tuple[str, str | None]]:
    """Every module that a file imports, at its top or in a function, and the name that it takes from it."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found += [(node.module, alias.name) for alias in node.names]
    return found


def missing(path: Path) -> list[str]:
    """What a file imports and is not there."""
    found = []
    for module, name in imported(path):
        top = module.partition(".")[0]
        if top in PEERS and importlib.util.find_spec(top) is None:
            continue
        try:
            holds = name is None or hasattr(importlib.import_module(module), name)
            if not holds:
                importlib.import_module(f"{module}.{name}")
            elif name is None:
                importlib.import_module(module)
        except ImportError as error:
            found.append(f"{module}.{name}: {error}")
    return found


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_all_that_a_benchmark_imports_is_there(path: Path) -> None:
    importlib.import_module(".".join(path.with_suffix("").parts))
    assert missing(path) == []


def test_an_import_of_a_removed_name_in_a_function_is_found(tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_text("def run():\n    from learners.schedule import encode_pairs, encode_examples\n    import nowhere\n")
    found = [line.partition(":")[0] for line in missing(path)]
    assert found == ["learners.schedule.encode_pairs", "nowhere.None"]
