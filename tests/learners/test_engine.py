"""Schedules, DeepSpeed's own options and recomputed layers."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from configs.errors import UserError
from configs.schema import LearnerConfig, ModelConfig
from learners.distributed import single_process
from learners.lr_schedules import rate_factor
from learners.metrics import StepMetrics
from learners.offline import train_offline
from learners.session import LearnerSession
from learners.weights import gather_weights
from tests.kits.learner import make_folder, make_pairs

OFFLOAD = {"device": "cpu"}


def learner(**fields: Any) -> LearnerConfig:
    return LearnerConfig.model_validate({"pairs_per_step": 6, "learning_rate": 1e-3, "weight_decay": 0.1, **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("models") / "llama")


def train(
    folder: Path, out: Path, dtype: str = "float32", **fields: Any
) -> tuple[list[StepMetrics], dict[str, Tensor]]:
    model = ModelConfig(policy=folder, dtype=dtype)
    steps = train_offline(folder, make_pairs(14), out, learner(**fields), model, seed=0)
    return steps, load_file(out / "model.safetensors")


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    return max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in ours | theirs)


def test_schedules() -> None:
    warm = [rate_factor("constant", 3, None)(step) for step in range(6)]
    assert warm == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    linear = [rate_factor("linear", 1, 5)(step) for step in range(7)]
    assert linear == pytest.approx([0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0])
    cosine = [rate_factor("cosine", 0, 4)(step) for step in range(6)]
    assert cosine == pytest.approx([1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0.0, 0.0])


def test_the_rate_falls_in_training(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    steps, _ = train(folder, tmp_path / "out", schedule="linear", warmup_steps=1, total_steps=3, epochs=2)
    assert [step.learning_rate for step in steps] == pytest.approx([5e-4, 1e-3, 5e-4, 0.0, 0.0, 0.0])
    assert caplog.text.count("total_steps are done") == 1


def test_deepspeeds_own_adam_and_scheduler(folder: Path, tmp_path: Path) -> None:
    """DeepSpeed's form of our optimiser, with the rates filled in, is the same but for rounding: ours is fused."""
    adam = {"type": "AdamW", "params": {"torch_adam": True, "lr": "auto"}}
    for stage in (0, 2):
        _, ours = train(folder, tmp_path / f"ours{stage}", zero_stage=stage)
        _, theirs = train(folder, tmp_path / f"theirs{stage}", zero_stage=stage, deepspeed={"optimizer": adam})
        assert distance(ours, theirs) < 1e-6
    decay = {"type": "WarmupDecayLR", "params": {"total_num_steps": 4, "warmup_num_steps": 2, "warmup_type": "linear"}}
    steps, _ = train(folder, tmp_path / "decay", deepspeed={"optimizer": adam, "scheduler": decay})
    assert [step.learning_rate for step in steps] == pytest.approx([0.0, 0.0, 5e-4])  # its own way of counting


@pytest.mark.parametrize(
    ("stage", "zero"),
    [
        (1, {"offload_optimizer": OFFLOAD}),
        (2, {"offload_optimizer": OFFLOAD}),
        (3, {"offload_optimizer": OFFLOAD, "offload_param": OFFLOAD, "reduce_bucket_size": 3000}),
    ],
)
def test_offloading_changes_nothing(folder: Path, tmp_path: Path, stage: int, zero: dict[str, Any]) -> None:
    _, ours = train(folder, tmp_path / "ours", zero_stage=stage)
    _, theirs = train(folder, tmp_path / "theirs", zero_stage=stage, deepspeed={"zero_optimization": zero})
    assert distance(ours, theirs) < 1e-6
    assert distance(ours, load_file(folder / "model.safetensors")) > 1e-3


@pytest.mark.parametrize(
    ("deepspeed", "message"),
    [
        ({"optimizer": {"type": "Nope"}}, "learner.deepspeed: refused by DeepSpeed: Nope is not"),
        ({"scheduler": {"type": "WarmupDecayLR"}}, "learner.deepspeed: refused by DeepSpeed: .*total_num_steps"),
        ({"zero_optimization": {"nope": 1}}, "learner.deepspeed: refused by DeepSpeed: .*nope"),
        ({"bf16": {"enabled": True}}, "learner.deepspeed.bf16: set model.dtype"),
    ],
)
def test_options_that_deepspeed_refuses(folder: Path, tmp_path: Path, deepspeed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="(?s)" + message):
        train(folder, tmp_path / "out", deepspeed=deepspeed)


def test_an_operation_that_cannot_be_compiled(folder: Path, tmp_path: Path) -> None:
    """Without a compiler DeepSpeed's fused Adam is a message and not a traceback."""
    code = f"""
from pathlib import Path
from tests.learners.test_engine import train
train(Path({str(folder)!r}), Path({str(tmp_path / "out")!r}), deepspeed={{"optimizer": {{"type": "AdamW"}}}})
"""
    env = {**os.environ, "PATH": "/nonexistent", "TORCH_EXTENSIONS_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env)
    assert "configs.errors.UserError: learner.deepspeed: needs an operation" in done.stderr
    assert "torch_adam: true" in done.stderr


def _seen(passes: list[int], *_: object) -> None:
    passes.append(1)


@pytest.mark.parametrize("stage", [1, 3])
def test_recomputed_layers_give_the_same_gradients(folder: Path, tmp_path: Path, stage: int) -> None:
    runs = []
    for recompute in (False, True):
        fields = learner(zero_stage=stage, activation_checkpointing=recompute)
        with single_process():
            session = LearnerSession(fields, ModelConfig(policy=folder), 7, folder)
            passes: list[int] = []
            session.policy.model.layers[0].mlp.register_forward_pre_hook(partial(_seen, passes))
            metrics = session.train_round(1, make_pairs(6))
            runs.append((len(passes), metrics.steps[0].grad_norm, session.full_weights()))
            assert not session.policy.model.layers[0].mlp.training
            session.close()
    (plain, norm, weights), (recomputed, same_norm, same_weights) = runs
    assert recomputed == plain + 1  # the reference pass is not recomputed, the step's is
    assert norm == same_norm
    assert distance(weights, same_weights) == 0.0


def test_weights_are_gathered_in_buckets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import deepspeed

    with single_process():
        session = LearnerSession(learner(zero_stage=3, lora={}), ModelConfig(policy=folder), 7, folder)
        whole = session.full_weights()
        sizes: list[int] = []
        gather = deepspeed.zero.GatheredParameters

        def counted(parameters: list[Any]) -> Any:
            sizes.append(sum(one.ds_numel * one.element_size() for one in parameters))
            return gather(parameters)

        monkeypatch.setattr(deepspeed.zero, "GatheredParameters", counted)
        pieces = gather_weights(session.policy, True, session.adapters, bucket_bytes=20_000)
        session.close()
    assert distance(whole, pieces) == 0.0
    assert len(sizes) > 5
    largest = max(tensor.numel() * tensor.element_size() for tensor in load_file(folder / "model.safetensors").values())
    assert max(sizes) <= max(20_000, 2 * largest)
