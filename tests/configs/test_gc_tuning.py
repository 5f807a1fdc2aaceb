"""The garbage collector: seldom while a process starts, as usual afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from configs.gc_tuning import started, starting


@pytest.fixture
def thresholds() -> Iterator[tuple[int, int, int]]:
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)


def test_collects_as_usual_once_started(thresholds: tuple[int, int, int]) -> None:
    starting()
    assert gc.get_threshold()[0] > 10_000
    kept = gc.get_freeze_count()
    started()
    assert gc.get_threshold()[0] < 10_000
    assert gc.get_freeze_count() > kept


@pytest.mark.parametrize("package", ["actors", "learners"])
def test_processes_of_a_run_start_with_it(package: str) -> None:
    code = f"import gc, {package}; print(gc.get_threshold()[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) > 10_000
