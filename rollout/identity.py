"""What makes two configs the same run: everything that can change its results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from configs.explain import fields
from configs.kinds import FORMER, KIND, kinds_of
from configs.schema import Config

# A run may be resumed with other values of these: where it runs, how wide, how long, what it keeps.
FREE_FIELDS = (
    "run.dir",
    "run.inputs",  # compared by contents, as far as both sides know them, when the run's folder is opened
    "run.min_free_disk_gb",
    "run.trackers",
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
    "candidates.cache",
    "endpoints.*.base_url",
    "endpoints.*.api_key_env",
    "endpoints.*.timeout_s",
    "endpoints.*.deadline_s",
    "endpoints.*.max_concurrency",
    "endpoints.*.max_retries",
    "learner.cpus_per_worker",
    "learner.gpus_per_worker",
    "learner.keep_checkpoints",
    "learner.max_failures",
    "schedule.rounds",
    "evaluation.every",
    "evaluation.judge.base_url",
    "evaluation.judge.api_key_env",
    "evaluation.judge.timeout_s",
    "evaluation.judge.deadline_s",
    "evaluation.judge.max_concurrency",
    "evaluation.judge.max_retries",
    "evaluation.judge.max_failed_share",
    "evaluation.judge.price_per_million_input",
    "evaluation.judge.price_per_million_output",
    "evaluation.judge.cache",
    "evaluation.bootstrap_samples",
    "cluster",
    "serve",
)


# The bound of a round matters once the round has pairs; the journal knows which ones have.
_BOUND, _BOUND_FROM = "reward.upper_bound", "reward.upper_bound_from_round"
BY_ROUND = (_BOUND, _BOUND_FROM)

# What must change after out-of-memory. The arithmetic stays the same but for the order of its sums, so a run may
# continue with other values where the user says so, and is then not equal to an undisturbed one to the last bit.
AFTER_OUT_OF_MEMORY = (
    "learner.tokens_per_micro_batch",
    "learner.logprob_chunk",
    "learner.workers",
    "learner.zero_stage",
    "learner.activation_checkpointing",
    "learner.deepspeed",
    "reward.tokens_per_micro_batch",
    "rollout.kv_cache_gb",
    "rollout.max_num_seqs",
    "rollout.tensor_parallel",
)


def comparable_config(config: Config) -> dict[str, object]:
    """The config as flat ``section.field`` -> JSON value, without ``FREE_FIELDS``."""
    flat = _flatten(config.model_dump(mode="json"), "")
    return {name: value for name, value in flat.items() if not _free(name)}


class RunIdentity(NamedTuple):
    """By what a journal knows the run that it belongs to.

    Attributes:
        digest: :func:`config_digest`.
        config: :func:`comparable_config`, so that a difference can be named.
        run_name: ``run.name``.
    """

    digest: str
    config: Mapping[str, object]
    run_name: str


def identity_of(config: Config) -> RunIdentity:
    """The identity of a config's run."""
    return RunIdentity(config_digest(config), comparable_config(config), config.run.name)


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


def locked_changes(old: Mapping[str, object], new: Mapping[str, object], paired: Sequence[int]) -> list[str]:
    """What differs between a run's config and another one so that the run cannot continue with it.

    Fields that came after the run began count as what they are by default, which is how the run began.

    Args:
        old: :func:`comparable_config` of the run, perhaps of an earlier version.
        new: That of the config to continue with.
        paired: Rounds that have their pairs.
    """
    whole = {**_defaults(without=old), **old}
    whole, new = _own(whole), _own(new)
    same_bounds = all(_bound(whole, round_number) == _bound(new, round_number) for round_number in paired)
    kept = {**whole, **{name: new.get(name) for name in BY_ROUND}} if same_bounds else whole
    return differing_fields(kept, new)


def _own(flat: Mapping[str, object]) -> dict[str, object]:
    """A flat config without what means nothing to it: ``FORMER``, and fields of other kinds than its own."""
    own = {name: value for name, value in flat.items() if name not in FORMER}
    for section, field in Config.model_fields.items():
        kinds = kinds_of(field.annotation)
        if kinds and (model := kinds.get(str(flat.get(f"{section}.{KIND}", next(iter(kinds)))))) is not None:
            below = {name for name in flat if name.startswith(f"{section}.")}
            foreign = {name for name in below if name.split(".")[1] not in model.model_fields}
            own = {name: value for name, value in own.items() if name not in foreign}
    return own


def _free(name: str) -> bool:
    return any(name.startswith(f"{free}.") or fnmatchcase(name, free) for free in FREE_FIELDS)


def _bound(config: Mapping[str, object], round_number: int) -> object:
    first = config.get(_BOUND_FROM)
    return config.get(_BOUND) if not isinstance(first, int) or round_number >= first else None


def _defaults(without: Mapping[str, object]) -> dict[str, object]:
    """Defaults of the schema's fields that a flat config does not have, nor anything above or below them."""
    known = set(without)
    for name in without:
        parts = name.split(".")
        known.update(".".join(parts[:end]) for end in range(1, len(parts)))
    found: dict[str, object] = {}
    for name, field in fields(Config):
        parts = name.split(".")
        above = (".".join(parts[:end]) for end in range(1, len(parts)))
        if _free(name) or field.is_required() or name in known or any(section in without for section in above):
            continue
        found[name] = json.loads(json.dumps(field.get_default(call_default_factory=True), default=str))
    return found


def _flatten(value: object, prefix: str) -> dict[str, object]:
    if isinstance(value, dict) and value:
        out: dict[str, object] = {}
        for key, inner in value.items():
            out.update(_flatten(inner, f"{prefix}.{key}" if prefix else key))
        return out
    return {prefix: value}
