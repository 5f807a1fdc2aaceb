"""A module of a user's own, as plug-ins are found: in the working directory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def own_module(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of a module in ``folder``, from now on the working directory, which no test has imported before."""
    name = f"mine_{folder.name.replace('-', '_')}"
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part])
    yield name
    sys.modules.pop(name, None)
