"""Training: that the way pairs are split changes nothing, and that a resumed run is the same run."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from configs.errors import UserError
from configs.schema import LearnerConfig, ModelConfig
from learners.checkpoint_layout import latest_checkpoint, read_state
from learners.distributed import single_process
from learners.errors import NumericError
from learners.metrics import RoundMetrics
from learners.offline import train_offline
from learners.session import LearnerSession
from learners.snapshot import restore, save_round
from learners.weights import checksum, from_numpy, to_numpy
from tests.kits.learner import make_folder, make_pairs

LEARNER = LearnerConfig(pairs_per_step=6, tokens_per_micro_batch=128, learning_rate=1e-3, warmup_steps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("models") / "llama")


def rounds_in_process(
    folder: Path, run_dir: Path, rounds: range, learner: LearnerConfig = LEARNER, dtype: str = "float32"
) -> tuple[dict[str, Tensor], list[RoundMetrics]]:
    """Train rounds one after the other from the newest checkpoint of ``run_dir``."""
    model = ModelConfig(policy=folder, dtype=dtype)
    found = latest_checkpoint(run_dir)
    metrics = []
    with single_process():
        session = LearnerSession(learner, model, 7, found or folder)
        if found is not None:
            assert restore(session, found)
        for number in rounds:
            metrics.append(session.train_round(number, make_pairs(14, number)))
            snapshot = save_round(session, run_dir, metrics[-1], keep=2, spare_gib=0)
        session.close()
    return snapshot.weights, metrics


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in ours)


def test_first_loss_is_ln_2_and_training_learns(folder: Path, tmp_path: Path) -> None:
    learner = LEARNER.model_copy(update={"epochs": 6, "nll_weight": 0.0})
    steps = train_offline(folder, make_pairs(6), tmp_path / "out", learner, ModelConfig(policy=folder), seed=0)
    assert steps[0].values["preference_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert steps[0].values["reward_accuracy"] == 0.5
    assert steps[-1].values["preference_loss"] < 0.5
    assert steps[-1].values["reward_accuracy"] > 0.9
    assert [step.learning_rate for step in steps[:4]] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3])
    assert steps[0].languages.keys() == {"es", "sw"}
    assert sum(one["pairs"] for one in steps[0].languages.values()) == 6
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template


def test_the_initial_reference_stays_where_it_was(folder: Path, tmp_path: Path) -> None:
    learner = LEARNER.model_copy(update={"reference": "initial"})
    with single_process():
        session = LearnerSession(learner, ModelConfig(policy=folder), 7, folder)
        before = session.reference_logprobs(1, make_pairs(6))
        first = session.train_round(1, make_pairs(6))
        assert session.reference_logprobs(2, make_pairs(6)) == before
        second = session.train_round(2, make_pairs(6))
        session.close()
    assert first.steps[0].values["preference_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert abs(second.steps[0].values["preference_loss"] - math.log(2)) > 0.01


def test_order_of_arrival_does_not_matter(folder: Path, tmp_path: Path) -> None:
    outs = []
    for name, pairs in (("a", make_pairs(9)), ("b", make_pairs(9)[::-1])):
        train_offline(folder, pairs, tmp_path / name, LEARNER, ModelConfig(policy=folder), seed=0)
        outs.append(load_file(tmp_path / name / "model.safetensors"))
    assert checksum(outs[0]) == checksum(outs[1])


def test_accumulation_does_not_matter(folder: Path, tmp_path: Path) -> None:
    outs = []
    for budget in (1, 4096):
        learner = LEARNER.model_copy(update={"tokens_per_micro_batch": budget})
        steps = train_offline(
            folder, make_pairs(12), tmp_path / str(budget), learner, ModelConfig(policy=folder), seed=0
        )
        assert steps[0].micro_batches == (6 if budget == 1 else 1)
        outs.append(load_file(tmp_path / str(budget) / "model.safetensors"))
    assert distance(*outs) < 2e-5
    assert distance(outs[0], load_file(folder / "model.safetensors")) > 1e-3


@pytest.mark.parametrize("stage", [0, 2])
def test_resumed_equals_straight_to_the_bit(folder: Path, tmp_path: Path, stage: int) -> None:
    learner = LEARNER.model_copy(update={"zero_stage": stage})
    straight, _ = rounds_in_process(folder, tmp_path / "straight", range(1, 4), learner)
    rounds_in_process(folder, tmp_path / "halved", range(1, 3), learner)
    resumed, metrics = rounds_in_process(folder, tmp_path / "halved", range(3, 4), learner)
    assert checksum(resumed) == checksum(straight)
    assert metrics[0].steps[0].step == 7  # 14 pairs are 3 steps a round
    assert read_state(tmp_path / "halved" / "policy").checksum == checksum(straight)


def test_a_pair_that_is_not_a_number_is_named_and_nothing_changes(folder: Path, tmp_path: Path) -> None:
    pairs = make_pairs(6)
    pairs[3] = replace(pairs[3], reference_chosen=math.nan, reference_rejected=-1.0)
    with single_process():
        session = LearnerSession(LEARNER, ModelConfig(policy=folder), 7, folder)
        before = checksum(session.full_weights())
        with pytest.raises(NumericError, match=rf"loss is not finite; pairs: {pairs[3].id}\."):
            session.train_round(1, pairs)
        assert checksum(session.full_weights()) == before
        session.close()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_gradient_that_is_not_a_number_is_not_applied(folder: Path, tmp_path: Path, stage: int) -> None:
    learner = LEARNER.model_copy(update={"zero_stage": stage})
    with single_process():
        session = LearnerSession(learner, ModelConfig(policy=folder), 7, folder)
        before = checksum(session.full_weights())
        hook = session.policy.model.layers[0].register_full_backward_hook(
            lambda module, inputs, outputs: tuple(None if g is None else g * math.nan for g in inputs)
        )
        with pytest.raises(NumericError, match="gradient is not finite; pairs: r0001/"):
            session.train_round(1, make_pairs(6))
        hook.remove()
        assert checksum(session.full_weights()) == before
        session.close()


def test_bad_pairs_are_the_users(folder: Path, tmp_path: Path) -> None:
    with single_process():
        session = LearnerSession(LEARNER, ModelConfig(policy=folder, max_length=24), 7, folder)
        with pytest.raises(UserError, match="more than model.max_length 24"):
            session.train_round(1, make_pairs(6))
        with pytest.raises(UserError, match="is there twice"):
            session.reference_logprobs(1, [replace(make_pairs(1)[0], prompt="q", chosen="a", rejected="b")] * 2)
        session.close()


@pytest.mark.parametrize(("kind", "dtype"), [("gemma3", "float32"), ("qwen3", "bfloat16")])
def test_other_models_train_and_their_probe_is_what_transformers_computes(
    tmp_path: Path, kind: str, dtype: str
) -> None:
    from transformers import AutoModelForCausalLM

    start = make_folder(tmp_path / "start", kind, tied=kind == "gemma3")
    with single_process():
        learner = LEARNER.model_copy(update={"zero_stage": 3})
        session = LearnerSession(learner, ModelConfig(policy=start, dtype=dtype), 7, start)
        snapshot = save_round(session, tmp_path / "run", session.train_round(1, make_pairs(8)), 1, 0)
        session.close()
    manifest = snapshot.manifest
    assert manifest.probe_dtype == dtype
    assert ("lm_head.weight" in manifest.names) == (kind != "gemma3")
    assert manifest.checksum == checksum(load_file(snapshot.checkpoint / "model.safetensors"))
    assert checksum(from_numpy(to_numpy(snapshot.weights), manifest)) == manifest.checksum
    model = AutoModelForCausalLM.from_pretrained(snapshot.checkpoint)
    assert str(model.dtype) == f"torch.{dtype}"
    ids = torch.tensor([manifest.probe_ids])
    with torch.no_grad():
        logprobs = model(ids).logits[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    tolerance = 1e-4 if dtype == "float32" else 0.15
    assert logprobs.tolist() == pytest.approx(list(manifest.probe_logprob), abs=tolerance)


def test_checksum_sees_names_shapes_types_and_values() -> None:
    base = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
    variants = [
        {"a": base["a"].reshape(3, 2), "b": base["b"]},
        {"c": base["a"], "b": base["b"]},
        {"a": base["a"], "b": base["b"].bfloat16()},
        {"a": base["a"] + 1e-6, "b": base["b"]},
    ]
    assert checksum(dict(reversed(base.items()))) == checksum(base)
    assert len({checksum(one) for one in [base, *variants]}) == 5


def test_a_changed_number_of_workers_continues_with_a_fresh_optimiser(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rounds_in_process(folder, tmp_path, range(1, 2))
    checkpoint = tmp_path / "checkpoints" / "round-0001"
    state = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").write_text(json.dumps(state | {"world_size": 4}))
    with single_process():
        session = LearnerSession(LEARNER, ModelConfig(policy=folder), 7, checkpoint)
        assert not restore(session, checkpoint)
        assert (session.round, session.step) == (1, 3)
        session.close()
    assert "the optimiser starts afresh" in caplog.text
