"""Who gets which CPUs and GPUs: a pure plan, and the placement groups that reserve it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from actors.runtime.signals import LOOK_S, StopRequested, never
from configs.errors import UserError
from configs.schema import Config

if TYPE_CHECKING:  # Ray must not be imported for a dry run, nor before the driver's environment is set
    from ray.util.placement_group import PlacementGroup


@dataclass(frozen=True, slots=True)
class Role:
    """One kind of process of a run.

    Attributes:
        name: Role.
        count: How many processes.
        cpus: CPUs that Ray reserves for each.
        gpus: GPUs that Ray reserves for each.
        fields: Config fields to lower when the cluster is too small.
    """

    name: str
    count: int
    cpus: float
    gpus: float
    fields: tuple[str, ...] = ()

    def bundle(self) -> dict[str, float]:
        """Resources of one process, in the form Ray wants."""
        resources = {"CPU": self.cpus, "GPU": self.gpus}
        return {name: amount for name, amount in resources.items() if amount > 0}


@dataclass(frozen=True, slots=True)
class PlacementPlan:
    """Everything that a run reserves, by role."""

    rollout: Role
    reward: Role
    learner: Role
    store: Role
    serve: Role

    @classmethod
    def from_config(cls, config: Config, learns: bool = True) -> PlacementPlan:
        """Read the plan off a config.

        Args:
            config: The run's.
            learns: Whether there is a learner; without one there are rollout actors only where the policy is a source.

        Raises:
            UserError: GPUs are reserved that an engine or a rank cannot use, or that ranks would share.
        """
        rollout, reward, learner, serve = config.rollout, config.reward, config.learner, config.serve
        online = config.offline.path is None
        samples = (online and (learns or config.samples_policy)) or config.prompts.heldout is not None
        _check_gpus(config)
        return cls(
            Role("rollout", rollout.actors if samples else 0, rollout.cpus_per_actor, rollout.gpus_per_actor,
                 ("rollout.actors", "rollout.cpus_per_actor", "rollout.gpus_per_actor")),
            Role("reward", reward.actors if online else 0, reward.cpus_per_actor, reward.gpus_per_actor,
                 ("reward.actors", "reward.cpus_per_actor", "reward.gpus_per_actor")),
            Role("learner", learner.workers if learns else 0, learner.cpus_per_worker, learner.gpus_per_worker,
                 ("learner.workers", "learner.cpus_per_worker", "learner.gpus_per_worker")),
            Role("store", 1, 0.0, 0.0),
            # As many as it may ever have: a replica that is added under load must not take training's place.
            Role("serve", serve.max_replicas if serve.enabled else 0, serve.cpus_per_replica, serve.gpus_per_replica,
                 ("serve.max_replicas", "serve.cpus_per_replica", "serve.gpus_per_replica")),
        )  # fmt: skip

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that there are, in the order in which they are started."""
        roles = (self.store, self.rollout, self.reward, self.learner, self.serve)
        return tuple(role for role in roles if role.count)

    def totals(self) -> dict[str, float]:
        """CPUs and GPUs that all roles need together."""
        return {
            "CPU": sum(role.count * role.cpus for role in self.roles),
            "GPU": sum(role.count * role.gpus for role in self.roles),
        }

    def rows(self) -> list[tuple[str, int, float, float, float, float]]:
        """Table for ``--dry-run``: role, processes, CPUs and GPUs each, CPUs and GPUs in all; total last."""
        table = [
            (role.name, role.count, role.cpus, role.gpus, role.count * role.cpus, role.count * role.gpus)
            for role in self.roles
        ]
        totals = self.totals()
        return [*table, ("total", sum(r.count for r in self.roles), 0.0, 0.0, totals["CPU"], totals["GPU"])]


def _check_gpus(config: Config) -> None:
    rollout, learner = config.rollout, config.learner
    more = rollout.gpus_per_actor > max(rollout.tensor_parallel, 1)
    if more or (rollout.tensor_parallel > 1 and rollout.gpus_per_actor < rollout.tensor_parallel):
        raise UserError(
            f"rollout.gpus_per_actor: {rollout.gpus_per_actor:g} is {'more' if more else 'fewer'} than "
            f"rollout.tensor_parallel {rollout.tensor_parallel}; set it to {rollout.tensor_parallel}"
        )
    if learner.gpus_per_worker > 1:
        raise UserError(
            f"learner.gpus_per_worker: {learner.gpus_per_worker:g}, but a rank trains on one GPU; set it to 1 and "
            "raise learner.workers"
        )
    if learner.workers > 1 and 0 < learner.gpus_per_worker < 1:
        raise UserError(
            f"learner.gpus_per_worker: with {learner.gpus_per_worker:g} ranks would share a GPU, with each other or "
            "with rollouts, and NCCL refuses two ranks on one; set it to 1"
        )
    if config.cluster.weight_transfer == "broadcast":
        _check_broadcast(config)
    single = {
        "reward.gpus_per_actor": config.reward.gpus_per_actor,
        "serve.gpus_per_replica": config.serve.gpus_per_replica,
    }
    for name, gpus in single.items():
        if gpus > 1:
            raise UserError(f"{name}: {gpus:g}, but the process computes on one GPU; set it to 1")


def broadcast_gpus(config: Config) -> dict[str, float]:
    """GPUs of each process that takes part in a broadcast of weights, by field; NCCL needs one in each."""
    gpus = {
        "learner.gpus_per_worker": config.learner.gpus_per_worker,
        "rollout.gpus_per_actor": config.rollout.gpus_per_actor,
    }
    return gpus | ({"reward.gpus_per_actor": config.reward.gpus_per_actor} if config.reward.follows_policy else {})


def _check_broadcast(config: Config) -> None:
    shares = broadcast_gpus(config)
    if not all(shares.values()):
        return  # over gloo
    for name, gpus in shares.items():
        if gpus % 1:
            raise UserError(
                f"cluster.weight_transfer: broadcast goes over NCCL, which refuses two processes on one GPU, as {name} "
                f"{gpus:g} may have it; set that to a whole number, or cluster.weight_transfer to objects"
            )


def check_capacity(plan: PlacementPlan, resources: Mapping[str, float]) -> None:
    """Refuse at once what the cluster can never hold, instead of waiting for it.

    Args:
        plan: What the run needs.
        resources: What the cluster has in all (``ray.cluster_resources()``).

    Raises:
        UserError: Names every role's need, the total, what is there, and the fields to lower.
    """
    problems = []
    for resource, field_part in (("CPU", "cpus"), ("GPU", "gpus")):
        need, have = plan.totals()[resource], float(resources.get(resource, 0.0))
        if need <= have + 1e-6:
            continue
        users = [role for role in plan.roles if role.bundle().get(resource, 0.0) > 0]
        parts = ", ".join(f"{r.name} {r.count} x {r.bundle()[resource]:g}" for r in users)
        lower = ", ".join(
            name
            for r in users
            for name in r.fields
            if field_part in name or name.endswith(("actors", "workers", "replicas"))
        )
        cure = f"; lower {lower}"
        if resource == "CPU":
            cure += "; or raise cluster.num_cpus (processes then share cores)"
        problems.append(f"{need:g} {resource}s are needed ({parts}) but the cluster has {have:g}{cure}")
    if problems:
        raise UserError("cluster: " + "; ".join(problems))


def local_cpus(config: Config, plan: PlacementPlan, cores: int) -> float | None:
    """CPUs that a cluster of the run's own is told to have, where that is not what the machine has; None where it is.

    Ray reserves for all stages at once, while those that take turns never need more than the widest of them: a small
    machine that has this many cores holds the run.

    Args:
        config: The run.
        plan: What it reserves.
        cores: Of this machine.
    """
    if config.cluster.address is not None or config.cluster.num_cpus is not None or not config.colocated:
        return None
    whole = plan.totals()["CPU"]
    learner = plan.learner.count * plan.learner.cpus
    return whole if whole > cores >= max(learner, whole - learner) else None


@dataclass
class PlacementGroups:
    """Reserved bundles of the roles that the driver starts itself; Ray Train reserves the learner's."""

    groups: dict[str, PlacementGroup] = field(default_factory=dict)

    def lacking(self, role: str) -> bool:
        """Whether some bundle of a role has no node: Ray looks for another one after it lost its own."""
        from ray.util.placement_group import placement_group_table

        group = self.groups.get(role)
        return group is not None and placement_group_table(group).get("state") in ("PENDING", "RESCHEDULING")

    def remove(self) -> None:
        """Give everything back; actors inside are killed by Ray."""
        from ray.util.placement_group import remove_placement_group

        for group in self.groups.values():
            remove_placement_group(group)
        self.groups.clear()


def reserve(plan: PlacementPlan, timeout: float, should_stop: Callable[[], bool] = never) -> PlacementGroups:
    """Reserve one bundle for each rollout and reward actor.

    Args:
        plan: What to reserve.
        timeout: Deadline for both groups together, in seconds.
        should_stop: Ends the wait where it becomes true.

    Raises:
        UserError: Not free in time; nothing stays reserved.
        StopRequested: ``should_stop`` became true; nothing stays reserved.
    """
    from ray.util.placement_group import placement_group

    deadline = time.monotonic() + timeout
    reserved = PlacementGroups()
    roles = [role for role in (plan.rollout, plan.reward) if role.count]
    for role in roles:
        reserved.groups[role.name] = placement_group([role.bundle()] * role.count, strategy="PACK")
    for role in roles:
        while not reserved.groups[role.name].wait(min(LOOK_S, max(0.0, deadline - time.monotonic()))):
            if should_stop():
                reserved.remove()
                raise StopRequested
            if time.monotonic() < deadline:
                continue
            reserved.remove()
            raise UserError(
                f"cluster: {role.count} x {role.bundle()} for the {role.name} actors did not become free within "
                f"{timeout:g} s; is another run on this cluster? Wait for it, or lower {', '.join(role.fields)}"
            )
    return reserved
