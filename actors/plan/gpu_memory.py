"""Whether the processes of a plan fit the memory of the GPUs that they get. Pure; a lower bound, not a promise.

Counted are weights, gradients, optimizer states and key-value caches. Not counted are activations, logits, gathered
layers, communication buffers and CUDA's own context: what is refused here cannot work, what passes may still be tight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.plan.fit import Placed
from actors.plan.placement import PlacementPlan
from configs.deepspeed import deepspeed_options
from configs.errors import UserError
from configs.measures import ImplicitMeasure
from configs.schema import Config, RewardConfig

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2}
# Adam's two moments in float32, and for bfloat16 the float32 weights that the optimizer keeps (arXiv 1910.02054, 3.1).
OPTIMIZER_BYTES = {"float32": 8, "bfloat16": 12}


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What counts of a model's architecture.

    Attributes:
        parameters: All weights.
        linear: Inputs plus outputs of each linear layer but the output layer, summed: what adapters of rank 1 have.
        layers: Layers with a key-value cache.
        heads: Attention heads.
        kv_heads: Heads of keys and values.
        head_dim: Size of a head.
    """

    parameters: int
    linear: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Need:
    """What one process keeps on each of its GPUs, in GiB by what it is.

    Attributes:
        role: Role of the process.
        parts: GiB by name.
        fields: Config fields that change it.
    """

    role: str
    parts: Mapping[str, float]
    fields: tuple[str, ...]

    @property
    def gib(self) -> float:
        """All of it."""
        return sum(self.parts.values())

    def text(self) -> str:
        """E.g. ``weights 7.5, cache 40.0``."""
        return ", ".join(f"{name} {value:.1f}" for name, value in self.parts.items() if value >= 0.05)


def needs(config: Config, model: ModelSize, reward_model: ModelSize | None = None) -> list[Need]:
    """What each kind of process with a GPU keeps on it; those without are left out, as is an unknown reward model."""
    weights = model.parameters * BYTES[config.model.dtype] / GIB
    found = []
    if config.rollout.gpus_per_actor > 0 and (config.offline.path is None or config.prompts.heldout is not None):
        split = {"weights": weights / config.rollout.tensor_parallel, "cache": config.rollout.kv_cache_gb}
        found.append(Need("rollout", split, ("rollout.kv_cache_gb", "rollout.tensor_parallel")))
    if config.reward.gpus_per_actor > 0 and config.reward.from_logprobs and config.offline.path is None:
        models = {"policy": weights} | ({"reference": weights} if _two_sides(config.reward) else {})
        found.append(Need("reward", models, ("reward.gpus_per_actor", "model.dtype")))
    if config.reward.gpus_per_actor > 0 and reward_model is not None:
        for section, one in config.reward.models.items():
            own = {"reward model": reward_model.parameters * BYTES[one.model_dtype] / GIB}
            found.append(Need("reward", own, (f"{section}.model", f"{section}.model_dtype", "reward.gpus_per_actor")))
    if config.learner.gpus_per_worker > 0:
        found.append(_learner(config, model))
    if config.serve.enabled and config.serve.gpus_per_replica > 0:
        found.append(Need("serve", {"weights": weights, "cache": config.serve.kv_cache_gb}, ("serve.kv_cache_gb",)))
    return found


def _two_sides(reward: RewardConfig) -> bool:
    return any(isinstance(one, ImplicitMeasure) for one in reward.logprobs.values())


def _learner(config: Config, model: ModelSize) -> Need:
    learner, width = config.learner, BYTES[config.model.dtype]
    stage = max(learner.zero_stage, 1) if config.model.dtype == "bfloat16" else learner.zero_stage
    trained = model.parameters if learner.lora is None else learner.lora.rank * model.linear
    zero = deepspeed_options(learner).get("zero_optimization", {})
    offloaded = {name for name in ("offload_optimizer", "offload_param") if _on_host(zero.get(name))}

    def share(total: float, from_stage: int) -> float:
        return total / (learner.workers if stage >= from_stage else 1) / GIB

    whole = model.parameters * width / GIB
    parts = {
        "weights": 0.0 if "offload_param" in offloaded else share(model.parameters * width, 3),
        "gradients": 0.0 if "offload_optimizer" in offloaded else share(trained * width, 2),
        "optimizer": 0.0
        if "offload_optimizer" in offloaded
        else share(trained * OPTIMIZER_BYTES[config.model.dtype], 1),
    }
    if learner.reference == "initial" and learner.lora is None:
        parts["reference"] = whole  # the start policy, whole, while a round's reference is computed
    if sum(parts.values()) < whole:  # every rank loads the whole model before it is sharded
        parts = {"the whole model, while it is loaded": whole}
    fields = ("learner.zero_stage", "learner.workers", "learner.lora", "learner.deepspeed")
    return Need("learner", parts, fields)


def _on_host(block: object) -> bool:
    return isinstance(block, Mapping) and block.get("device", "none") != "none"


def check_memory(
    config: Config,
    model: ModelSize,
    plan: PlacementPlan,
    placed: Sequence[Placed],
    gpu_gib: Mapping[str, float | None],
    *,
    reward_model: ModelSize | None = None,
) -> list[tuple[str, ...]]:
    """Refuse a process that keeps more on a GPU than its share of it.

    Args:
        config: The run.
        model: Of ``model.policy``; the reference is taken to be as large.
        plan: What the run reserves.
        placed: Where each process goes.
        gpu_gib: GiB of each GPU, by node; None where it is not known.
        reward_model: Of ``reward.model``; None where there is none, or its size is not known.

    Returns:
        Rows for a table: role, what is counted, GiB of it, GiB that the smallest of its GPUs has for it.

    Raises:
        UserError: Names the process, what is counted, what there is, and the fields to change.
    """
    check_engine(config, model)
    roles = {role.name: role for role in plan.roles}
    rows: list[tuple[str, ...]] = []
    for need in needs(config, model, reward_model):
        known = [size for one in placed if one.role == need.role and (size := gpu_gib.get(one.node)) is not None]
        if not known:
            continue
        share = min(known) * min(roles[need.role].gpus, 1.0)
        rows.append((need.role, need.text(), f"{need.gib:.1f}", f"{share:.1f}"))
        if need.gib > share:
            raise UserError(
                f"cluster: each {need.role} process keeps {need.gib:.1f} GiB on a GPU ({need.text()}; activations are "
                f"not counted) but gets {share:.1f} GiB; change {', '.join(need.fields)}, or use larger GPUs"
            )
    return rows


def check_engine(config: Config, model: ModelSize) -> None:
    """Refuse an engine that cannot be split as told, or whose cache does not hold one sequence of full length.

    Raises:
        UserError: Names the field and the least, or the next, value that works.
    """
    if config.offline.path is not None:
        return
    ways = config.rollout.tensor_parallel
    if model.heads % ways or (model.kv_heads % ways and ways % model.kv_heads):
        raise UserError(
            f"rollout.tensor_parallel: {ways} does not divide the model's {model.heads} attention heads and "
            f"{model.kv_heads} key-value heads; set a divisor of both"
        )
    caches = [("rollout.kv_cache_gb", config.rollout.kv_cache_gb, ways)]
    if config.serve.enabled:
        caches.append(("serve.kv_cache_gb", config.serve.kv_cache_gb, 1))
    for field, gib, split in caches:
        least = cache_bytes(model, config.model.dtype, split) * config.model.max_length / GIB
        if gib < least:
            raise UserError(
                f"{field}: {gib:g} GiB do not hold one sequence of model.max_length {config.model.max_length} tokens, "
                f"which takes {least:.2f} GiB on each GPU; raise it, or lower model.max_length"
            )


def cache_bytes(model: ModelSize, dtype: str, tensor_parallel: int) -> int:
    """Bytes that the keys and values of one token take on each GPU of an engine."""
    heads = max(1, model.kv_heads // tensor_parallel)
    return 2 * model.layers * heads * model.head_dim * BYTES[dtype]
