"""Whether every process of a placement plan finds a node, and which. Pure; nodes may be described or real.

Ray reserves a bundle on one node: resources that are free here and there do not add up. What a cluster has in all can
therefore be enough and a run still wait for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from actors.plan.placement import PlacementPlan, Role
from configs.errors import UserError

Resources = Mapping[str, float]
_TINY = 1e-6


@dataclass(frozen=True, slots=True)
class Placed:
    """One process with its node."""

    role: str
    node: str


def place(plan: PlacementPlan, nodes: Mapping[str, Resources]) -> list[Placed]:
    """A node for every process, in the order in which a run reserves them, as Ray's PACK strategy would.

    A role goes to the fullest node that holds all of it, or else process by process to the fullest that holds one.
    Greedy: a plan that only a cleverer packing could place is refused as well.

    Args:
        plan: What the run reserves.
        nodes: CPU and GPU of every node, by name.

    Raises:
        UserError: A process fits no node, or none has room left; names the process, its need, and what is left.
    """
    check_each_fits(plan, nodes)
    free = {name: dict(resources) for name, resources in nodes.items()}
    found = []
    for role in plan.roles:
        together = [name for name, has in free.items() if not _missing(role, has, role.count)]
        for index in range(role.count):
            fitting = together or [name for name, has in free.items() if not _missing(role, has)]
            if not fitting:
                left = ", ".join(f"{name} {_text(resources)}" for name, resources in free.items())
                raise _misfit(role, index, f"beside the others no node has that left ({left})")
            node = min(fitting, key=lambda name: (free[name].get("GPU", 0.0), free[name].get("CPU", 0.0), name))
            for resource, amount in role.bundle().items():
                free[node][resource] -= amount
            together = [node] if together else []
            found.append(Placed(role.name, node))
    return found


def check_each_fits(plan: PlacementPlan, nodes: Mapping[str, Resources]) -> None:
    """Refuse a process that needs more than any node has even when it is empty.

    Raises:
        UserError: Names the process, its need, and the largest node.
    """
    for role in plan.roles:
        if all(_missing(role, resources) for resources in nodes.values()):
            largest = max(nodes, key=lambda name: (nodes[name].get("GPU", 0.0), nodes[name].get("CPU", 0.0)))
            raise _misfit(
                role, 0, f"no node has that even when it is empty (largest: {largest} {_text(nodes[largest])})"
            )


def by_node(placed: list[Placed], nodes: Mapping[str, Resources], plan: PlacementPlan) -> list[tuple[str, ...]]:
    """Rows for a table: node, its processes, CPUs and GPUs used of those that it has."""
    needs = {role.name: role.bundle() for role in plan.roles}
    rows = []
    for node, resources in nodes.items():
        here = Counter(one.role for one in placed if one.node == node)
        used = {
            resource: sum(needs[role].get(resource, 0.0) * count for role, count in here.items())
            for resource in ("CPU", "GPU")
        }
        what = ", ".join(f"{role} x {count}" if count > 1 else role for role, count in sorted(here.items()))
        rows.append((node, what or "-", *(f"{used[r]:g} of {resources.get(r, 0.0):g}" for r in ("CPU", "GPU"))))
    return rows


def _missing(role: Role, has: Resources, count: int = 1) -> list[str]:
    return [name for name, need in role.bundle().items() if need * count > has.get(name, 0.0) + _TINY]


def _misfit(role: Role, index: int, why: str) -> UserError:
    return UserError(
        f"cluster: {role.name} {index} of {role.count} needs {_text(role.bundle())} on one node, and {why}; "
        f"lower {', '.join(role.fields)}, or add nodes"
    )


def _text(resources: Resources) -> str:
    return f"{resources.get('CPU', 0.0):g} CPUs and {resources.get('GPU', 0.0):g} GPUs"
