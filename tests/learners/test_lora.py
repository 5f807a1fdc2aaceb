"""Adapters in the learner: only they are trained, and merged, saved and resumed they are the same policy."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from configs.errors import UserError
from configs.schema import LearnerConfig, ModelConfig
from learners import lora
from learners.checkpoint_layout import (
    ADAPTER_FILE,
    ADAPTER_FOLDER,
    CheckpointState,
    latest_checkpoint,
    published_file,
    read_state,
    write_state,
)
from learners.distributed import single_process
from learners.model_files import weights_as_saved
from learners.session import LearnerSession
from learners.snapshot import Snapshot, republish, restore, save_round
from learners.weights import checksum
from serving.describe import describe
from tests.kits.learner import make_folder, make_pairs

SETTINGS = {"rank": 4, "alpha": 12.0}


def learner(**fields: object) -> LearnerConfig:
    base = {"pairs_per_step": 6, "learning_rate": 3e-3, "weight_decay": 0.1, "lora": SETTINGS}
    return LearnerConfig.model_validate(base | fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("models") / "llama")


def rounds(folder: Path, run_dir: Path, numbers: range, config: LearnerConfig, dtype: str = "float32") -> Snapshot:
    """Train rounds one after the other from the newest checkpoint of ``run_dir``."""
    found = latest_checkpoint(run_dir)
    with single_process():
        session = LearnerSession(config, ModelConfig(policy=folder, dtype=dtype), 7, found or folder)
        if found is not None:
            assert restore(session, found)
        for number in numbers:
            snapshot = save_round(session, run_dir, session.train_round(number, make_pairs(14, number)), 2, 0)
        session.close()
    return snapshot


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(torch.arange(3, 40)[None]).logits


@pytest.mark.parametrize(("kind", "dtype"), [("llama", "float32"), ("gemma3", "float32"), ("qwen3", "bfloat16")])
def test_merged_folder_adapter_and_peft_are_one_policy(tmp_path: Path, kind: str, dtype: str) -> None:
    from peft import PeftModel

    base = make_folder(tmp_path / "base", kind, tied=kind != "qwen3")
    snapshot = rounds(base, tmp_path / "run", range(1, 2), learner(), dtype)
    before, after = load_file(base / "model.safetensors"), load_file(snapshot.checkpoint / "model.safetensors")
    assert before.keys() == after.keys() == snapshot.weights.keys()
    changed = {name for name in before if not torch.equal(before[name].to(after[name].dtype), after[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}, "every linear layer and no other"
    merged = AutoModelForCausalLM.from_pretrained(snapshot.checkpoint, dtype=torch.float32)
    bare = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype)).float()
    adapted = PeftModel.from_pretrained(bare, snapshot.checkpoint / ADAPTER_FOLDER)
    tolerance = 1e-4 if dtype == "float32" else 0.2
    assert float((logits(adapted) - logits(merged)).abs().max()) < tolerance
    with adapted.disable_adapter():
        assert float((logits(adapted) - logits(merged)).abs().max()) > 0.01
    config = json.loads((snapshot.checkpoint / ADAPTER_FOLDER / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(name.removesuffix(".weight") for name in changed)


@pytest.mark.parametrize(
    ("stage", "fields"),
    [(1, {"schedule": "cosine", "total_steps": 12, "warmup_steps": 1}), (3, {"reference": "initial"})],
)
def test_resumed_equals_straight_to_the_bit(folder: Path, tmp_path: Path, stage: int, fields: dict) -> None:
    config = learner(zero_stage=stage, **fields)
    straight = rounds(folder, tmp_path / "straight", range(1, 4), config)
    rounds(folder, tmp_path / "halved", range(1, 3), config)
    resumed = rounds(folder, tmp_path / "halved", range(3, 4), config)
    assert resumed.manifest == straight.manifest
    assert checksum(resumed.weights) == checksum(straight.weights) == resumed.manifest.checksum
    assert resumed.metrics.steps[0].learning_rate == straight.metrics.steps[0].learning_rate
    ours, theirs = (load_file(run.checkpoint / "adapter" / ADAPTER_FILE) for run in (resumed, straight))
    assert checksum(ours) == checksum(theirs)
    trained = sum(file.stat().st_size for file in (resumed.checkpoint / "trainer").rglob("*") if file.is_file())
    assert trained < 20 * sum(tensor.numel() * 4 for tensor in ours.values()), "the base is not saved again"


def test_merging_does_not_touch_what_is_trained_and_the_base_is_the_initial_reference(folder: Path) -> None:
    config = learner(reference="initial", nll_weight=0.0)
    with single_process():
        session = LearnerSession(config, ModelConfig(policy=folder), 7, folder)
        assert checksum(session.full_weights()) == checksum(load_file(folder / "model.safetensors"))
        start = session.reference_logprobs(1, make_pairs(6))
        first = session.train_round(1, make_pairs(6))
        trained = checksum(session.adapter_weights())
        assert checksum(session.full_weights()) != checksum(load_file(folder / "model.safetensors"))
        assert checksum(session.adapter_weights()) == trained
        assert session.reference_logprobs(2, make_pairs(6)) == start
        assert checksum(session.adapter_weights()) == trained
        second = session.train_round(2, make_pairs(6))
        assert session._frozen is None, "no second model is held"
        session.close()
    assert first.steps[0].values["preference_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert abs(second.steps[0].values["preference_loss"] - math.log(2)) > 0.01


def test_the_adapter_alone_is_published(folder: Path, tmp_path: Path) -> None:
    config = learner(lora={**SETTINGS, "publish": "adapter"})
    snapshot = rounds(folder, tmp_path, range(1, 2), config)
    assert snapshot.manifest.names == tuple(sorted(snapshot.weights))
    assert checksum(load_file(published_file(snapshot.checkpoint, config))) == snapshot.manifest.checksum
    state = read_state(snapshot.checkpoint)
    assert state.adapter_checksum == snapshot.manifest.checksum
    assert lora.layers_of(snapshot.manifest.names)[0] == "model.layers.0.mlp.down_proj"
    full = load_file(snapshot.checkpoint / "model.safetensors")
    # The folder itself holds merged weights: an endpoint proves those, by a manifest of their own.
    assert state.checksum == snapshot.merged.checksum == checksum(full)
    described = describe(snapshot.checkpoint, 1)
    assert (described.names, described.checksum) == (snapshot.merged.names, snapshot.merged.checksum)
    assert not set(full) & set(snapshot.manifest.names)
    assert np.allclose(described.probe_logprob, snapshot.merged.probe_logprob, atol=1e-4)
    assert config.lora is not None
    rebuilt = lora.merge_into(folder, snapshot.weights, config.lora, torch.float32)
    assert len(rebuilt) == len(snapshot.weights) / 2
    assert all(torch.equal(rebuilt[name], full[name]) for name in rebuilt)
    with single_process():
        session = LearnerSession(config, ModelConfig(policy=folder), 7, snapshot.checkpoint)
        restore(session, snapshot.checkpoint)
        again = republish(session, snapshot.checkpoint)
        session.close()
    assert again.manifest == snapshot.manifest
    assert again.merged == snapshot.merged
    check_damage_is_seen(snapshot.checkpoint, state)


def check_damage_is_seen(checkpoint: Path, state: CheckpointState) -> None:
    merged = checksum(load_file(checkpoint / "model.safetensors"))
    before = replace(state, checksum=str(state.adapter_checksum), adapter_checksum=None)  # as it was written once
    for written in (state, before):
        write_state(checkpoint, written)
        assert weights_as_saved(checkpoint, merged)
    weights = load_file(checkpoint / "adapter" / ADAPTER_FILE)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, checkpoint / "adapter" / ADAPTER_FILE)
    assert not weights_as_saved(checkpoint, merged)
    write_state(checkpoint, state)
    assert weights_as_saved(checkpoint, merged)
    assert not weights_as_saved(checkpoint, "0" * 16)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj", "nope"], "target_modules: no layer of LlamaForCausalLM is called 'nope'"),
        (["lm_head"], "target_modules: lm_head is not an inner linear layer"),
        (["embed_tokens"], "target_modules: model.embed_tokens is not an inner linear layer"),
    ],
)
def test_layers_that_cannot_have_an_adapter(folder: Path, targets: list[str], message: str) -> None:
    with single_process(), pytest.raises(UserError, match=message):
        LearnerSession(learner(lora={"target_modules": targets}), ModelConfig(policy=folder), 7, folder)


def test_a_checkpoint_of_another_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    only = learner(lora={**SETTINGS, "target_modules": ["q_proj"]})
    checkpoint = rounds(folder, tmp_path, range(1, 2), only).checkpoint
    moved = make_folder(tmp_path / "elsewhere")
    with single_process():
        for config, start, message in (
            (learner(), checkpoint, "is of other layers or of another rank"),
            (only, moved, "adapter_model.safetensors: not there"),
        ):
            with pytest.raises(UserError, match=message):
                LearnerSession(config, ModelConfig(policy=folder), 7, start)
