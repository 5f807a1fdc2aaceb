"""What the comparisons with TRL share, pairs and groups."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kits.trl import Folders, import_trl, near_reference


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return near_reference(tmp_path_factory.mktemp("trl"))


@pytest.fixture(scope="module")
def trl() -> Any:
    return import_trl()
