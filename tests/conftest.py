"""The environment of the tests: what the program sets before Ray, vLLM and OpenMP read it."""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from actors.runtime.env import apply_driver_env
from configs.gc_tuning import keep

apply_driver_env()


class _ByFile(LoadFileScheduling):
    """A file's tests share what it starts, so they stay in one process; and so do all that serve."""

    def _split_scope(self, nodeid: str) -> str:
        # Serve has ports of its own beside the endpoint's: two endpoints at a time would meet there.
        file = nodeid.partition("::")[0]
        return "serving" if "tests/serving/" in file or file.endswith("e2e/test_serving.py") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """What ``--dist loadfile`` means here."""
    return _ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first, so that processes side by side end together."""
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("e2e", "vllm")])


def pytest_unconfigure() -> None:
    keep()
