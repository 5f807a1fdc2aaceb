"""The environment of the tests: what the program sets before Ray, vLLM and OpenMP read it."""

import pytest

from actors.runtime.env import apply_driver_env
from configs.gc_tuning import keep

apply_driver_env()


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first, so that processes side by side end together; what must stay in one of them."""
    for item in items:
        # Serve has ports of its own beside the endpoint's: two endpoints at a time would meet there.
        serves = item.path.parent.name == "serving" or item.path.match("e2e/test_serving.py")
        item.add_marker(pytest.mark.xdist_group("serving" if serves else item.path.name))
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("e2e", "vllm")])


def pytest_unconfigure() -> None:
    keep()
