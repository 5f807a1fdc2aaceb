"""Ray Train's trainer whose run another thread can end, and that starts nothing for data sets, of which it has none.

``fit()`` waits in its thread until all ranks have left, and ranks that are still importing, or that wait for a place,
do not leave. Public ways to end a run (ctrl-C in the main thread) do not reach a thread. What is overridden is Ray
2.60's own few lines around the controller (``ray/train/v2/api/data_parallel_trainer.py``), to keep its handle.
"""

from __future__ import annotations

import threading
from typing import Any

import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController


class EndableTrainer(TorchTrainer):
    """``TorchTrainer`` with ``end``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._lock = threading.Lock()
        self._controller: Any = None
        self._ended = False

    def end(self) -> None:
        """Kill the controller: ``fit`` raises at once, and the ranks, which it owns, die with it. Call at any time."""
        with self._lock:
            self._ended = True
            if self._controller is not None:
                ray.kill(self._controller)

    def _create_default_callbacks(self) -> list[Any]:
        # With or without data sets this one starts an actor for them, and has each rank import Ray Data.
        # mypy sees the class of Ray Train v1, which v2 replaces on import.
        found = super()._create_default_callbacks()  # type: ignore[misc]
        return [one for one in found if not isinstance(one, DatasetsCallback)]

    def _initialize_and_run_controller(self, **given: Any) -> Any:
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        env = {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0", **get_env_vars_to_propagate()}
        actor = ray.remote(num_cpus=0, label_selector=here, runtime_env={"env_vars": env})(TrainController)
        with self._lock:
            if self._ended:
                raise RuntimeError("ended before it began")
            controller: Any = actor.remote(**given)
            self._controller = controller
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())
