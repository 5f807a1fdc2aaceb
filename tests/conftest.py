"""The environment of the tests: what the program sets before Ray, vLLM and OpenMP read it."""

import pytest

from actors.runtime.env import apply_driver_env
from configs.gc_tuning import keep

apply_driver_env()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first, so that processes side by side end together."""
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("e2e", "vllm")])


def pytest_unconfigure() -> None:
    keep()
