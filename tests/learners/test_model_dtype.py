"""``model.dtype``: what ``auto`` resolves to, who is told, and what bfloat16 costs in the learner."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

from configs.errors import UserError
from configs.model_config import AUTO, stored_dtype
from configs.schema import LearnerConfig, ModelConfig
from learners.batching import encode_examples
from learners.distributed import single_process
from learners.encode import ChatEncoder
from learners.engine import check_arithmetic, load_model
from learners.session import LearnerSession
from tests.kits.learner import make_folder, make_pairs, sum_logprobs


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"text_config": {"torch_dtype": "bfloat16"}}, "bfloat16"),
        ({"dtype": "float32", "text_config": {"dtype": "bfloat16"}}, "float32"),
        ({"dtype": "float16"}, "float32"),
        ({}, "float32"),
        ([], AUTO),
    ],
)
def test_auto_is_what_the_policy_is_stored_in(tmp_path: Path, config: Any, expected: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = ModelConfig(policy=tmp_path)
    assert model.dtype == expected
    assert model.model_dump()["dtype"] == expected  # what a run's config.yaml keeps
    assert ModelConfig(policy=tmp_path, dtype="float32").dtype == "float32"


def test_a_model_that_is_elsewhere_stays_open(tmp_path: Path) -> None:
    assert ModelConfig(policy=tmp_path / "there").dtype == AUTO
    (tmp_path / "config.json").write_text("{")
    assert stored_dtype(tmp_path) is None


def test_a_gpu_without_bfloat16_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    with pytest.raises(UserError, match=r"model\.dtype: Tesla V100 .* set model\.dtype to float32$"):
        check_arithmetic("bfloat16", torch.device("cuda"))
    check_arithmetic("float32", torch.device("cuda"))


def test_bfloat16_starts_at_ln_2_and_keeps_the_order_of_rewards(tmp_path: Path) -> None:
    start, before = make_folder(tmp_path / "start", seed=1), make_folder(tmp_path / "before", seed=2)
    pairs = make_pairs(24)
    settings = LearnerConfig(nll_weight=0.0, pairs_per_step=12, tokens_per_micro_batch=256, learning_rate=1e-3)
    with single_process():
        session = LearnerSession(settings, ModelConfig(policy=start, dtype="bfloat16"), 7, start)
        assert {parameter.dtype for parameter in session.policy.parameters()} == {torch.bfloat16}
        first, *_, last = session.train_round(1, pairs).steps
        session.close()
    assert first.values["preference_loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert last.values["preference_loss"] < first.values["preference_loss"]  # and learns

    segments = [one.segment for one in encode_examples(ChatEncoder(start), pairs, 512, "sigmoid")]
    rewards = {}
    for dtype in ("float32", "bfloat16"):
        sides = [
            sum_logprobs(load_model(folder, dtype, torch.device("cpu")), segments, 512, 64)
            for folder in (start, before)
        ]
        rewards[dtype] = [a - b for ours, theirs in zip(*sides, strict=True) for a, b in zip(ours, theirs, strict=True)]
    assert spearmanr(rewards["float32"], rewards["bfloat16"]).statistic > 0.98
