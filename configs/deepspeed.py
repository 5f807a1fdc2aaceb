"""What ``learner.deepspeed`` may say: DeepSpeed's own form, as long as it does not contradict the config's fields.

A value that repeats a field is accepted, ``auto`` stands for the field's value as it does elsewhere, and another value
is refused. Pure: the engine's own settings are put around the result by ``learners.engine``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from configs.json_types import Json, JsonMapping, JsonObject

_AUTO = "auto"

# Schedulers of DeepSpeed that end their warm-up at a rate of their own, which is then the learner's.
_OWN_PEAK = ("WarmupLR", "WarmupDecayLR")

_BUCKETS = (
    "reduce_bucket_size",
    "allgather_bucket_size",
    "stage3_prefetch_bucket_size",
    "sub_group_size",
)


class LearnerFields(Protocol):
    """The fields of ``LearnerConfig`` that DeepSpeed's options could contradict."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def max_grad_norm(self) -> float: ...
    @property
    def pairs_per_step(self) -> int: ...
    @property
    def zero_stage(self) -> int: ...
    @property
    def schedule(self) -> str: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def deepspeed(self) -> dict[str, object]: ...


def deepspeed_options(learner: LearnerFields) -> JsonObject:
    """``learner.deepspeed`` without ``auto``, with the rates filled in and without what merely repeats a field.

    Returns:
        What to lay over the engine's own settings: ``optimizer`` and ``scheduler`` are complete, ``zero_optimization``
        is without its stage, ``bf16`` and ``fp16`` are as given (``check_dtype`` judges them).

    Raises:
        ValueError: ``deepspeed.<field>: <what contradicts>; <cure>``.
    """
    given: JsonObject = _without_auto(learner.deepspeed)
    _repeats(given, "train_batch_size", learner.pairs_per_step, "pairs_per_step")
    _repeats(given, "gradient_clipping", learner.max_grad_norm, "max_grad_norm")
    for key in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        if key in given:
            raise ValueError(
                f"deepspeed.{key}: micro-batches are packed by tokens, so their number differs from step to step; "
                "remove it and set learner.tokens_per_micro_batch"
            )
    if "zero_optimization" in given:
        given["zero_optimization"] = _zero_options(given["zero_optimization"], learner.zero_stage)
    if "optimizer" in given:
        params = _params(given["optimizer"], "optimizer")
        params["lr"] = _rate(params, "optimizer", "lr", learner.learning_rate, "learning_rate")
        params["weight_decay"] = _rate(params, "optimizer", "weight_decay", learner.weight_decay, "weight_decay")
        given["optimizer"] = {**given["optimizer"], "params": params}
    if "scheduler" in given:
        if learner.schedule != "constant" or learner.warmup_steps:
            raise ValueError(
                f"deepspeed.scheduler: contradicts schedule {learner.schedule} with warmup_steps "
                f"{learner.warmup_steps}; remove it, or leave both of those at their defaults"
            )
        params = _params(given["scheduler"], "scheduler")
        if given["scheduler"]["type"] in _OWN_PEAK:
            rate = _rate(params, "scheduler", "warmup_max_lr", learner.learning_rate, "learning_rate")
            params["warmup_max_lr"] = rate
        given["scheduler"] = {**given["scheduler"], "params": params}
    return given


def check_dtype(deepspeed: Mapping[str, object], dtype: str) -> None:
    """Refuse ``bf16`` and ``fp16`` blocks that say something else than ``model.dtype``.

    Raises:
        ValueError: With the field and the cure.
    """
    for key, name in (("bf16", "bfloat16"), ("fp16", "float16")):
        block = deepspeed.get(key)
        if block is None:
            continue
        enabled = block.get("enabled", _AUTO) if isinstance(block, Mapping) else None
        if enabled == _AUTO:
            enabled = dtype == name
        if enabled is not (dtype == name):
            raise ValueError(f"learner.deepspeed.{key}: set model.dtype instead, which is {dtype}; remove it here")


def _without_auto(options: JsonMapping) -> JsonObject:
    return {
        key: _without_auto(value) if isinstance(value, Mapping) else value
        for key, value in options.items()
        if value != _AUTO
    }


def _number(value: Json) -> Json:
    try:
        return float(value)  # YAML reads 1e-4, which has no point, as text
    except (TypeError, ValueError):
        return value


def _repeats(given: JsonObject, key: str, value: float, field: str) -> None:
    if key in given and _number(given[key]) != value:
        raise ValueError(f"deepspeed.{key}: {given[key]} contradicts {field} {value:g}; set learner.{field} instead")
    given.pop(key, None)


def _params(block: Json, name: str) -> JsonObject:
    if not isinstance(block, Mapping) or not isinstance(block.get("type"), str):
        raise ValueError(f"deepspeed.{name}: needs a `type`, as in DeepSpeed's documentation; add it")
    params = block.get("params", {})
    if not isinstance(params, Mapping):
        raise ValueError(f"deepspeed.{name}.params: must be a mapping")
    return dict(params)


def _rate(params: JsonMapping, block: str, key: str, value: float, field: str) -> float:
    if _number(params.get(key, value)) != value:
        raise ValueError(
            f"deepspeed.{block}.params.{key}: {params[key]} contradicts {field} {value:g}; "
            f"set learner.{field} and leave it out here"
        )
    return value


def _zero_options(zero: Json, stage: int) -> JsonObject:
    where = "deepspeed.zero_optimization"
    if not isinstance(zero, Mapping):
        raise ValueError(f"{where}: must be a mapping")
    found = dict(zero)
    if found.pop("stage", stage) != stage:
        raise ValueError(f"{where}.stage: {zero['stage']} contradicts zero_stage {stage}; remove one")
    for key in found:
        if key.startswith("stage3_") and stage != 3:
            raise ValueError(f"{where}.{key}: has no effect at zero_stage {stage}; remove it or set zero_stage to 3")
    for key in _BUCKETS:
        if key in found and not (isinstance(size := _number(found[key]), float) and size >= 1):
            raise ValueError(f"{where}.{key}: {found[key]!r} is not a number of elements; set a whole number above 0")
        if key in found:
            found[key] = int(_number(found[key]))
    for key, least in (("offload_optimizer", 1), ("offload_param", 3)):
        target = found.get(key)
        if target is None:
            continue
        device = target.get("device", "none") if isinstance(target, Mapping) else target
        if device not in ("none", "cpu"):
            raise ValueError(f"{where}.{key}.device: {device!r} is not supported; set it to cpu")
        if device == "cpu" and stage < least:
            raise ValueError(
                f"{where}.{key}: needs zero_stage {least} or above, and it is {stage}; raise it or remove this"
            )
    return found
