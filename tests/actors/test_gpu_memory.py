"""Plans against the memory of GPUs that are not here: what is counted, and what is refused with which cure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.plan.fit import place
from actors.plan.gpu_memory import GIB, ModelSize, cache_bytes, check_memory, needs
from actors.plan.model_size import model_size
from actors.plan.placement import PlacementPlan
from cli import app
from configs.errors import UserError
from configs.load import load_config
from configs.schema import Config

PRESET = Path("configs/llama3_8b_icr.yaml")
NODES = {f"gpu-{index}": {"CPU": 88.0, "GPU": 8.0} for index in range(2)}


@pytest.fixture(scope="module")
def llama() -> ModelSize:
    return model_size(Path("deploy/clusters/llama3-8b.json"))


def config(*overrides: str) -> Config:
    return load_config(PRESET, overrides)


def check(found: Config, model: ModelSize, gib: float = 79.0) -> list[tuple[str, ...]]:
    plan = PlacementPlan.from_config(found)
    return check_memory(found, model, plan, place(plan, NODES), dict.fromkeys(NODES, gib))


def test_size_is_that_of_the_published_model_and_of_real_weights(llama: ModelSize) -> None:
    assert llama.parameters == 8_030_261_248
    assert (llama.layers, llama.heads, llama.kv_heads, llama.head_dim) == (32, 32, 8, 128)
    # Rank 1 of all linear layers: q, o (4096 + 4096), k, v (4096 + 1024), gate, up, down (4096 + 14336).
    assert llama.linear == 32 * (2 * 8192 + 2 * 5120 + 3 * 18432)
    world = model_size(Path("worlds/default/policy"))
    from safetensors import safe_open

    with safe_open("worlds/default/policy/model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118  not a dict
    assert world.parameters == stored


def test_preset_of_8b_needs_what_it_says(llama: ModelSize) -> None:
    rows = {role: (float(counted), float(there)) for role, _, counted, there in check(config(), llama)}
    weights = 2 * llama.parameters / GIB
    assert rows["rollout"] == (pytest.approx(weights / 2 + 40, abs=0.06), 79)
    assert rows["reward"] == (pytest.approx(2 * weights, abs=0.06), 79)
    assert rows["learner"] == (pytest.approx(16 * llama.parameters / 8 / GIB, abs=0.06), 79)
    assert cache_bytes(llama, "bfloat16", 1) == 131_072  # 128 KiB a token, as for any 8B Llama 3


@pytest.mark.parametrize(
    ("overrides", "gib"),
    [
        (["learner.zero_stage=3"], 2 / 8 + 2 / 8 + 12 / 8),
        (["learner.zero_stage=2"], 2 + 2 / 8 + 12 / 8),
        (["learner.zero_stage=1"], 2 + 2 + 12 / 8),
        (["learner.zero_stage=0"], 2 + 2 + 12 / 8),  # in bfloat16 it runs as stage 1
        (["learner.zero_stage=0", "model.dtype=float32"], 16),
        (["learner.reference=initial"], 2 / 8 + 2 / 8 + 12 / 8 + 2),
        (["learner.deepspeed={zero_optimization: {offload_optimizer: {device: cpu}}}"], 2),  # while it is loaded
    ],
)
def test_learner_by_stage(llama: ModelSize, overrides: list[str], gib: float) -> None:
    (learner,) = [need for need in needs(config(*overrides), llama) if need.role == "learner"]
    assert learner.gib == pytest.approx(gib * llama.parameters / GIB)


def test_adapters_have_the_only_gradients(llama: ModelSize) -> None:
    (learner,) = [
        n for n in needs(config("learner.lora={rank: 8}", "learner.zero_stage=1"), llama) if n.role == "learner"
    ]
    assert learner.parts["weights"] == pytest.approx(2 * llama.parameters / GIB)
    assert learner.parts["gradients"] == pytest.approx(2 * 8 * llama.linear / GIB)


@pytest.mark.parametrize(
    ("overrides", "gib", "message"),
    [
        ((), 40, r"each rollout process keeps 47\.5 GiB on a GPU \(weights 7\.5, cache 40\.0; activations are not"),
        (("rollout.kv_cache_gb=10",), 24, r"each reward process keeps 29\.9 GiB"),
        (("learner.zero_stage=1",), 40, r"each rollout process"),
        (("learner.workers=1", "rollout.kv_cache_gb=10"), 79, r"each learner process keeps 119\.7 GiB .*zero_stage"),
        (("learner.zero_stage=1", "learner.workers=2"), 72, r"learner process keeps 74\.8 GiB"),
        (("rollout.kv_cache_gb=0.2",), 79, r"rollout\.kv_cache_gb: 0\.2 GiB do not hold one sequence .* 0\.25 GiB"),
        (("serve.enabled=true", "serve.gpus_per_replica=0", "serve.kv_cache_gb=0.4"), 79, r"serve\.kv_cache_gb: 0\.4"),
        (
            ("rollout.tensor_parallel=3", "rollout.gpus_per_actor=3", "rollout.actors=1"),
            79,
            r"rollout\.tensor_parallel: 3 does not divide",
        ),
    ],
)
def test_too_little_memory_is_refused(llama: ModelSize, overrides: tuple[str, ...], gib: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(config(*overrides), llama, gib)


def test_a_reward_model_is_counted(llama: ModelSize) -> None:
    found = config("reward.kind=reward_model", "reward.model=/models/rm")
    scorer = model_size(Path("deploy/clusters/llama3-8b.json"), scores=True)
    assert scorer.parameters < llama.parameters  # one row instead of an output layer
    for dtype, width in (("float32", 4), ("bfloat16", 2)):
        typed = found.model_copy(update={"reward": found.reward.model_copy(update={"model_dtype": dtype})})
        (need,) = [one for one in needs(typed, llama, scorer) if one.role == "reward"]
        assert need.parts == {"reward model": pytest.approx(width * scorer.parameters / GIB)}
    plan = PlacementPlan.from_config(typed)
    tiny, large = ModelSize(1, 1, 1, 8, 8, 1), replace(scorer, parameters=25 * GIB)
    with pytest.raises(UserError, match=r"each reward process keeps 50\.0 GiB .*change reward\.model, "):
        check_memory(typed, tiny, plan, place(plan, NODES), dict.fromkeys(NODES, 48), reward_model=large)


def test_a_shared_gpu_is_counted_by_its_share(llama: ModelSize) -> None:
    halves = config("reward.gpus_per_actor=0.5", "reward.actors=2", "cluster.weight_transfer=objects")
    with pytest.raises(UserError, match=r"each reward process keeps 29\.9 GiB .* but gets 28\.0 GiB"):
        check(halves, llama, 56)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("learner.gpus_per_worker=0.5",), r"learner\.gpus_per_worker: .* share a GPU, .* rollouts, and NCCL"),
        (("learner.gpus_per_worker=2",), r"learner\.gpus_per_worker: 2, but a rank trains on one"),
        (("rollout.gpus_per_actor=1",), r"rollout\.gpus_per_actor: 1 is fewer than rollout\.tensor_parallel 2"),
        (("rollout.gpus_per_actor=3",), r"rollout\.gpus_per_actor: 3 is more than rollout\.tensor_parallel 2"),
        (("reward.gpus_per_actor=2",), r"reward\.gpus_per_actor: 2, but the process computes on one"),
        (
            ("reward.gpus_per_actor=0.5",),
            r"weight_transfer: broadcast goes over NCCL, .* as reward\.gpus_per_actor 0\.5 may have it",
        ),
    ],
)
def test_gpus_that_nobody_can_use_or_two_would_share(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PlacementPlan.from_config(config(*overrides))


def test_dry_run_says_what_it_counted_or_why_not(tmp_path: Path) -> None:
    def dry_run(cluster: object, *overrides: str) -> str:
        described = tmp_path / "cluster.yaml"
        described.write_text(json.dumps(cluster))
        done = CliRunner().invoke(app, ["train", str(PRESET), *overrides, "--dry-run", "--cluster", str(described)])
        return done.output + str(done.exception or "")

    nodes = [{"count": 2, "cpus": 88, "gpus": 8, "gpu_memory_gb": 40}]
    assert "name its config.json under `models`" in " ".join(dry_run({"nodes": nodes}).split())
    stored = {"path": "/shared/models/llama3-8b-dpo", "config": "llama.json"}
    assert "llama.json does not exist" in dry_run({"nodes": nodes, "models": [stored]})
    (tmp_path / "llama.json").write_text(Path("deploy/clusters/llama3-8b.json").read_text())
    assert "each rollout process keeps 47.5 GiB" in dry_run({"nodes": nodes, "models": [stored]})
    assert "│ learner   │ weights 1.9, gradients 1.9, optimizer 11.2 │    15.0 │     40.0 │" in dry_run(
        {"nodes": nodes, "models": [stored]}, "rollout.kv_cache_gb=20"
    )
    unknown = [{"count": 2, "cpus": 88, "gpus": 8}]
    assert "gives no gpu_memory_gb" in dry_run({"nodes": unknown, "models": [stored]})
