"""Whether all nodes of a cluster see the same run folder and models, found out before anything is loaded."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.runtime.calls import call
from actors.runtime.signals import never
from configs.errors import UserError


def missing(paths: Mapping[str, str]) -> list[str]:
    """Names of those paths that do not exist here."""
    return [name for name, path in paths.items() if not Path(path).exists()]


def check_shared(
    run_dir: Path, folders: Mapping[str, Path | None], timeout: float, should_stop: Callable[[], bool] = never
) -> None:
    """Refuse a cluster some node of which sees another file system. Does nothing where there is only one node.

    Args:
        run_dir: The run's folder; exists.
        folders: Field -> model folder that actors load.
        timeout: Deadline for all nodes together, in seconds.
        should_stop: Ends the wait for them where it becomes true.

    Raises:
        StopRequested: It did.
        UserError: Names what is missing on which node.
    """
    nodes = [
        (node["NodeID"], node["NodeManagerAddress"])
        for node in ray.nodes()
        if node["Alive"] and (node["Resources"].get("CPU", 0.0) > 0 or node["Resources"].get("GPU", 0.0) > 0)
    ]
    if len(nodes) < 2:
        return
    mark = run_dir / f".shared-{uuid.uuid4().hex}"
    paths = {"run.dir": str(mark.absolute())}
    paths |= {field: str(folder.absolute()) for field, folder in folders.items() if folder is not None}
    look = ray.remote(num_cpus=0, max_retries=0)(missing)
    mark.touch()
    try:
        asked = [
            look.options(
                name="isogloss: is the storage shared?",
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            ).remote(paths)
            for node, _ in nodes
        ]
        what = "every node to look for the run folder (cluster.start_timeout_s)"
        found: list[list[str]] = call(asked, timeout, what, should_stop)
    finally:
        mark.unlink()
    for field in paths:
        blind = [address for (_, address), lacking in zip(nodes, found, strict=True) if field in lacking]
        if blind:
            path = run_dir if field == "run.dir" else folders[field]
            raise UserError(
                f"{field}: {path} is not the same folder on node(s) {', '.join(blind)}; put it on storage that "
                "all nodes share, under the same path"
            )
