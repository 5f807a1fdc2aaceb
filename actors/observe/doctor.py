"""``isogloss doctor``: what would go wrong on this machine, before it does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from actors.machine.checks import ALL, slow_arithmetic
from actors.machine.facts import look
from actors.machine.findings import GIB, Finding, Wants
from actors.plan.placement import PlacementPlan
from configs.schema import Config
from rollout.model_folder import weight_bytes

_PROCESS = 0.9 * GIB  # Python, torch and vLLM or DeepSpeed, without a model: measured on a CPU
_DRIVER = 1.5 * GIB  # with Ray's servers and agents


def wants_of(config: Config) -> Wants:
    """What a run asks of the machine that its driver is on. Memory and disk are rough sums."""
    plan = PlacementPlan.from_config(config)
    totals = plan.totals()
    serve = config.serve
    weights = weight_bytes(config.model.policy) or 0  # preflight names what is missing or damaged
    rollout, learner = config.rollout, config.learner
    held = plan.rollout.count + plan.serve.count + plan.learner.count + 2 * plan.reward.count
    caches = plan.rollout.count * rollout.kv_cache_gb + plan.serve.count * serve.kv_cache_gb
    # A rank keeps gradients and two moments in float32 beside the weights (more in bfloat16).
    memory = _DRIVER + sum(role.count for role in plan.roles if role.cpus) * _PROCESS + (held + 4) * weights
    on_cpu = totals["GPU"] == 0
    return Wants(
        address=config.cluster.address,
        gpu=totals["GPU"] > 0,
        cpus=totals["CPU"],
        gpus=totals["GPU"],
        num_cpus=config.cluster.num_cpus,
        weights=weights,
        memory=int(memory + caches * GIB) if on_cpu else 0,
        disk=4 * weights * (min(learner.keep_checkpoints, config.schedule.rounds) + 1),
        min_free_disk=int(config.run.min_free_disk_gb * GIB),
        ports=(("serve.port", serve.port),) if serve.enabled else (),
        judged=config.reward.judged,
        dtype=config.model.dtype,
    )


def arithmetic_note(config: Config) -> str | None:
    """A line where this machine computes the run in a form that it is slow at; None where nothing is to be said."""
    gpu = PlacementPlan.from_config(config).totals()["GPU"] > 0
    return slow_arithmetic(config.model.dtype, gpu, config.cluster.address)


def diagnose(config: Config | None) -> list[Finding]:
    """Every check on this machine, for a run or for any."""
    wants = Wants() if config is None else wants_of(config)
    run_dir = Path("runs") if config is None else config.run.dir
    facts = look(run_dir, [port for _, port in wants.ports], os.environ)
    return [check(facts, wants) for check in ALL]


def run_doctor(config: Config | None) -> list[Finding]:
    """Print the table, and below it what fails; returns all findings."""
    from actors.observe.screen import print_findings

    findings = diagnose(config)
    print_findings(findings)
    if names := failing(findings):
        print(f"{len(names)} of {len(findings)} checks fail: {', '.join(names)}")
    return findings


def failing(findings: Sequence[Finding]) -> list[str]:
    """Subjects of the checks that fail."""
    return [finding.subject for finding in findings if finding.level == "fail"]
