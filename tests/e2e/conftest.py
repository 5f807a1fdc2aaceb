"""One finished run for all tests that need one, whichever file they stand in and however many processes test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.kits.run import CHUNKS, TRAINED, train


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the run ``straight``, two rounds that nothing disturbed. For reading: what changes it takes a copy."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all processes that test
    folder = folder / "trained"
    with FileLock(f"{folder}.lock"):
        if not (folder / TRAINED / "summary.json").is_file():
            done = train(folder, TRAINED, *CHUNKS)
            assert done.returncode == 0, done.stdout + done.stderr
    return folder
