"""What makes two configs the same run: everything that can change its results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from configs.schema import Config

# A run may be resumed with other values of these: where it runs, how wide, how long, what it keeps.
FREE_FIELDS = (
    "run.dir",
    "run.min_free_disk_gb",
    "rollout.actors",
    "rollout.cpus_per_actor",
    "rollout.gpus_per_actor",
    "reward.actors",
    "reward.cpus_per_actor",
    "reward.gpus_per_actor",
    "judge.base_url",
    "judge.api_key_env",
    "judge.timeout_s",
    "judge.deadline_s",
    "judge.max_concurrency",
    "judge.max_retries",
    "judge.max_failed_share",
    "judge.price_per_million_input",
    "judge.price_per_million_output",
    "judge.cache",
    "learner.cpus_per_worker",
    "learner.gpus_per_worker",
    "learner.keep_checkpoints",
    "learner.max_failures",
    "schedule.rounds",
    "evaluation.every",
    "evaluation.bootstrap_samples",
    "cluster",
    "serve",
)


def comparable_config(config: Config) -> dict[str, object]:
    """The config as flat ``section.field`` -> JSON value, without ``FREE_FIELDS``."""
    flat = _flatten(config.model_dump(mode="json"), "")
    return {
        name: value
        for name, value in flat.items()
        if not any(name == free or name.startswith(free + ".") for free in FREE_FIELDS)
    }


def config_digest(config: Config) -> str:
    """SHA-256 of :func:`comparable_config`, hexadecimal."""
    text = json.dumps(comparable_config(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differing_fields(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """``field: old -> new`` of every field that differs; nothing if either config is not known."""
    if not old or not new:
        return []
    names = sorted({*old, *new})
    return [
        f"{name}: {json.dumps(old.get(name))} -> {json.dumps(new.get(name))}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def _flatten(value: object, prefix: str) -> dict[str, object]:
    if isinstance(value, dict) and value:
        out: dict[str, object] = {}
        for key, inner in value.items():
            out.update(_flatten(inner, f"{prefix}.{key}" if prefix else key))
        return out
    return {prefix: value}
