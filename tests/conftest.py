"""The environment of the tests: what the program sets before Ray, vLLM and OpenMP read it."""

from actors.runtime.env import apply_driver_env
from configs.gc_tuning import keep

apply_driver_env()


def pytest_unconfigure() -> None:
    keep()
