"""AdamW on float32 copies of bfloat16 weights, and the ZeRO stage of one rank."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from configs.schema import ModelConfig
from learners import optimiser
from learners.checkpoint_layout import read_state
from learners.distributed import single_process
from learners.engine import zero_stage
from learners.optimiser import MasterAdamW
from learners.session import LearnerSession
from learners.weights import checksum
from rollout.records import Turns
from tests.kits.learner import make_folder, make_pairs
from tests.learners.test_session import LEARNER, rounds_in_process

RATE, DECAY, NORM = 1e-2, 0.1, 0.5


def weights() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [
        nn.Parameter(torch.randn(shape, generator=generator).bfloat16()) for shape in ((7, 5), (5,), (3, 2), (4, 4))
    ]


def groups(parameters: list[nn.Parameter]) -> list[dict[str, object]]:
    return [
        {"params": [one for one in parameters if one.dim() == 2], "weight_decay": DECAY},
        {"params": [one for one in parameters if one.dim() == 1], "weight_decay": 0.0},
    ]


def gradients(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(10 + step)
    return [(torch.randn(one.shape, generator=generator) * 0.3).bfloat16() for one in weights()]


def train(parameters: list[nn.Parameter], optimizer: MasterAdamW, steps: range) -> None:
    for step in steps:
        for parameter, gradient in zip(parameters, gradients(step), strict=True):
            parameter.grad = gradient
        optimizer.step()


@pytest.mark.parametrize("block", [1, 2**22])
def test_it_is_adamw_in_float32_rounded(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(optimiser, "_BLOCK", block)
    ours = weights()
    train(ours, MasterAdamW(groups(ours), RATE, NORM), range(4))
    exact = [nn.Parameter(one.detach().float()) for one in weights()]
    adam = torch.optim.AdamW(groups(exact), lr=RATE)
    for step in range(4):
        for parameter, gradient in zip(exact, gradients(step), strict=True):
            parameter.grad = gradient.float()
        nn.utils.clip_grad_norm_(exact, NORM)
        adam.step()
    for one, other, before in zip(ours, exact, weights(), strict=True):
        torch.testing.assert_close(one, other.detach().bfloat16(), atol=1e-6, rtol=2**-7)
        assert not torch.equal(one, before)


def test_a_small_rate_is_not_lost_in_rounding() -> None:
    """A step of 1e-4 of a weight is below bfloat16's resolution: only the float32 copy sees it."""
    one = nn.Parameter(torch.ones(1, 8, dtype=torch.bfloat16))
    optimizer = MasterAdamW([{"params": [one], "weight_decay": 0.0}], 1e-4, 1.0)
    for _ in range(80):
        one.grad = torch.ones_like(one)
        optimizer.step()
    torch.testing.assert_close(one.float(), torch.full((1, 8), 1 - 80e-4), atol=2**-8, rtol=0)
    assert float(one.detach()[0, 0]) < 1.0


def test_its_state_continues_to_the_bit() -> None:
    straight = weights()
    train(straight, MasterAdamW(groups(straight), RATE, NORM), range(6))
    first, second = weights(), weights()
    before = MasterAdamW(groups(first), RATE, NORM)
    train(first, before, range(3))
    after = MasterAdamW(groups(second), RATE, NORM)
    after.load_state_dict(before.state_dict())
    train(second, after, range(3, 6))
    assert all(torch.equal(one, other) for one, other in zip(straight, second, strict=True))


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    ours = weights()
    optimizer = MasterAdamW(groups(ours), RATE, NORM)
    for parameter in ours:
        parameter.grad = torch.full_like(parameter, math.nan)
    with pytest.raises(FloatingPointError):
        optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, weights(), strict=True))


def test_one_rank_partitions_nothing() -> None:
    def stage(asked: int, dtype: str, ranks: int, written: int | None = None, **fields: object) -> int:
        return zero_stage(LEARNER.model_copy(update={"zero_stage": asked, **fields}), dtype, ranks, written)

    assert [stage(asked, "bfloat16", 1) for asked in range(4)] == [0, 0, 0, 3]
    assert [stage(asked, "bfloat16", 2) for asked in range(4)] == [1, 1, 2, 3]
    assert [stage(asked, "float32", 2) for asked in range(4)] == [0, 1, 2, 3]
    assert stage(1, "float32", 1, deepspeed={"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}) == 1
    assert stage(1, "float32", 1, written=1) == 1
    assert stage(2, "float32", 1, written=1) == 0


def test_bfloat16_resumes_to_the_bit(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "start", "qwen3")
    straight, _ = rounds_in_process(folder, tmp_path / "straight", range(1, 3), LEARNER, "bfloat16")
    rounds_in_process(folder, tmp_path / "halved", range(1, 2), LEARNER, "bfloat16")
    resumed, _ = rounds_in_process(folder, tmp_path / "halved", range(2, 3), LEARNER, "bfloat16")
    assert checksum(resumed) == checksum(straight)
    assert read_state(tmp_path / "halved" / "policy").zero_stage == 0


def test_a_run_that_was_partitioned_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints of earlier versions have the state of stage 1, which stage 0 cannot read."""
    folder = make_folder(tmp_path / "start")
    with monkeypatch.context() as patched:
        patched.setattr("learners.session.zero_stage", lambda learner, *_: learner.zero_stage)
        straight, _ = rounds_in_process(folder, tmp_path / "straight", range(1, 3), LEARNER)
        rounds_in_process(folder, tmp_path / "halved", range(1, 2), LEARNER)
    assert read_state(tmp_path / "halved" / "policy").zero_stage == 1
    resumed, _ = rounds_in_process(folder, tmp_path / "halved", range(2, 3), LEARNER)
    assert checksum(resumed) == checksum(straight)


def test_what_the_reference_pass_encoded_is_not_encoded_again(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "start")
    with single_process():
        session = LearnerSession(LEARNER, ModelConfig(policy=folder), 7, folder)
        asked: list[object] = []
        encode = session.encoder.prompt_ids

        def noted(prompt: Turns, prime: str = "") -> list[int]:
            asked.append(prompt)
            return encode(prompt, prime)

        session.encoder.prompt_ids = noted  # type: ignore[method-assign]
        pairs = make_pairs(6)
        session.reference_logprobs(1, pairs)
        session.train_round(1, pairs)
        session.close()
    assert len(asked) == 6
