"""Starting Ray actors: names, resources, environments, and starts that fail with a message."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from actors.runtime.env import runtime_env
from configs.errors import UserError
from configs.gc_tuning import keep, started
from configs.json_types import JsonObject
from configs.schema import Config

T = TypeVar("T")
R = TypeVar("R")


class Start(Generic[T]):
    """The worker inside an actor, or the user error that kept it from starting, raised at every use."""

    def __init__(self, build: Callable[[], T]) -> None:
        self._worker: T | None = None
        self._error: UserError | None = None
        keep()  # vLLM collects everything three times while it starts
        try:
            self._worker = build()
        except UserError as error:
            self._error = error
        started()

    @property
    def worker(self) -> T:
        """The worker."""
        if self._worker is None:
            raise self._error or RuntimeError("not started")
        return self._worker

    def timed(self, work: Callable[[T], R]) -> tuple[float, float, R]:
        """Do a piece of work: when it began and ended (Unix seconds), and its result."""
        begin = time.time()
        result = work(self.worker)
        return begin, time.time(), result


@dataclass(frozen=True, slots=True)
class ActorOptions:
    """What one actor gets.

    Attributes:
        cpus: CPUs that Ray reserves.
        gpus: GPUs that Ray reserves.
        env: Environment variables.
        group: Placement group; None is anywhere.
        bundle: Bundle of the group.
        here: On the node of the caller and on no other.
        threads: Of its arithmetic.
    """

    cpus: float
    gpus: float
    env: dict[str, str]
    group: PlacementGroup | None = None
    bundle: int = 0
    here: bool = False
    threads: int = 1


def actor_name(run: str, role: str, index: int) -> str:
    """Readable name of an actor, e.g. ``isogloss-demo-rollout-0``."""
    return f"isogloss-{run}-{role}-{index}"


def absolute_dump(config: Config) -> JsonObject:
    """The config as plain data, for an actor that reads ``model.policy`` from wherever Ray lets it work."""
    dump = config.model_dump(mode="json")
    dump["model"]["policy"] = str(config.model.policy.absolute())
    return dump


def spawn(
    actor: Any, name: str, options: ActorOptions, /, *arguments: object, **named: object
) -> ray.actor.ActorHandle:
    """Start an actor that Ray does not restart by itself.

    The driver replaces a dead actor by a new one, made from the newest checkpoint: one that Ray restarts would
    come back with the weights that it began with.

    Args:
        actor: Class made by ``ray.remote``.
        name: Its name; while the previous bearer is still being buried, a suffix is added.
        options: What it gets.
        arguments: For its constructor.
        named: For its constructor, by name.
    """
    settings: JsonObject = {
        "num_cpus": options.cpus,
        "num_gpus": options.gpus,
        "max_restarts": 0,
        "runtime_env": runtime_env(options.env, options.threads),
    }
    if options.group is not None:
        settings["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
            options.group, placement_group_bundle_index=options.bundle
        )
    elif options.here:
        node = ray.get_runtime_context().get_node_id()
        settings["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
    try:
        return actor.options(name=name, **settings).remote(*arguments, **named)
    except ValueError:  # Ray's answer to a name that is taken
        return actor.options(name=f"{name}-{uuid.uuid4().hex[:6]}", **settings).remote(*arguments, **named)
