"""The objectives of groups of answers against TRL's own trainers, as ``test_trl.py`` holds those of pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from tests.kits.learner import make_groups
from tests.kits.trl import Folders, assert_same, common, load, ours, theirs, user

GROUPS = make_groups(3, answers=3)


@pytest.fixture
def rloo_trainer(trl: Any, folders: Folders) -> Callable[[float, float], tuple[Any, list[dict[str, Any]]]]:
    """Makes a trainer whose sampling is replaced by the groups' answers; all behind it is TRL's."""
    from datasets import Dataset

    tokenizer = AutoTokenizer.from_pretrained(folders.policy)
    answers = [text for group in GROUPS for text in group.completions]
    rewards = [reward for group in GROUPS for reward in group.rewards]
    end = tokenizer.convert_tokens_to_ids("<|end|>")

    def make(kl_weight: float, clip: float) -> tuple[Any, list[dict[str, Any]]]:
        rows = [{"prompt": user(group.prompt)} for group in GROUPS]
        trainer = trl.RLOOTrainer(
            model=load(folders.policy),
            reward_funcs=lambda completions, **_: rewards,
            args=trl.RLOOConfig(
                beta=kl_weight,
                epsilon=clip,
                num_generations=3,
                max_completion_length=32,
                **common(folders, len(answers)),
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        if trainer.ref_model is not None:  # a second copy of the policy so far
            trainer.ref_model.load_state_dict(load(folders.reference).state_dict())
        trainer._generate_single_turn = lambda *_: [[*tokenizer(text)["input_ids"], end] for text in answers]
        return trainer, [row for row in rows for _ in range(3)]

    return make


def test_rloo_penalised_at_the_rounds_start(folders: Folders, rloo_trainer: Any) -> None:
    trainer, rows = rloo_trainer(0.3, 0.2)
    (mine,) = ours(folders, GROUPS, objective="rloo", rloo_kl_weight=0.3)
    assert_same(mine, theirs(trainer, [trainer._generate_and_score_completions(rows)]))
    assert mine.metrics is not None
    assert mine.metrics.values["ratio"] == pytest.approx(1, abs=1e-6)


def test_rloo_clipped_after_a_step(folders: Folders, rloo_trainer: Any) -> None:
    """The second step on the same answers. No penalty: TRL's is of the policy of the start, ours of the present one."""
    trainer, rows = rloo_trainer(0.0, 0.1)
    batch = trainer._generate_and_score_completions(rows)
    fields = {"rloo_kl_weight": 0.0, "rloo_clip": 0.1, "epochs": 2, "learning_rate": 3e-3}
    _, second = ours(folders, GROUPS, objective="rloo", **fields)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            parameter.copy_(second.weights[name])
    assert_same(second, theirs(trainer, [batch]))
    assert second.metrics is not None
    assert 0 < second.metrics.values["clip_fraction"] < 1
    assert second.metrics.values["clip_fraction"] == trainer._metrics["train"]["clip_ratio/region_mean"][-1]


# Our switches, and what makes TRL's trainer of them.
SWITCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": (
        {"advantage": "group_z", "ratio": "token", "aggregate": "sequence", "kl": "k3", "kl_weight": 0.3},
        {"loss_type": "grpo", "scale_rewards": "group", "beta": 0.3, "use_bias_correction_kl": False},
    ),
    "dr_grpo": (
        {"advantage": "group_mean", "ratio": "token", "aggregate": "constant", "length": 32},
        {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.0},
    ),
    "dapo": (
        {"advantage": "group_z", "ratio": "token", "aggregate": "token", "clip_high": 0.28},
        {"loss_type": "bnpo", "scale_rewards": "group", "beta": 0.0, "epsilon_high": 0.28},
    ),
    "gspo": (
        {
            "advantage": "group_z",
            "ratio": "sequence_mean",
            "aggregate": "sequence",
            "clip_low": 3e-3,
            "clip_high": 4e-3,
        },
        {
            "loss_type": "grpo",
            "scale_rewards": "group",
            "beta": 0.0,
            "importance_sampling_level": "sequence",
            "epsilon": 3e-3,
            "epsilon_high": 4e-3,
        },
    ),
    "batch": (
        {"advantage": "batch_z", "ratio": "token", "aggregate": "token", "kl": "k3", "kl_weight": 0.1},
        {"loss_type": "bnpo", "scale_rewards": "batch", "beta": 0.1, "use_bias_correction_kl": False},
    ),
}


@pytest.fixture
def grpo_trainer(trl: Any, folders: Folders) -> Callable[..., tuple[Any, list[dict[str, Any]]]]:
    """As ``rloo_trainer``, of ``GRPOTrainer``."""
    from datasets import Dataset

    tokenizer = AutoTokenizer.from_pretrained(folders.policy)
    answers = [text for group in GROUPS for text in group.completions]
    rewards = [reward for group in GROUPS for reward in group.rewards]
    end = tokenizer.convert_tokens_to_ids("<|end|>")

    def make(**fields: Any) -> tuple[Any, list[dict[str, Any]]]:
        rows = [{"prompt": user(group.prompt)} for group in GROUPS]
        trainer = trl.GRPOTrainer(
            model=load(folders.policy),
            reward_funcs=lambda completions, **_: rewards,
            args=trl.GRPOConfig(
                num_generations=3,
                max_completion_length=32,
                **{"epsilon": 0.2, **fields},
                **common(folders, len(answers)),
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        if trainer.ref_model is not None:
            trainer.ref_model.load_state_dict(load(folders.reference).state_dict())
        trainer._generate_single_turn = lambda *_: ([[*tokenizer(text)["input_ids"], end] for text in answers], None)
        trainer.current_gradient_accumulation_steps = 1
        return trainer, [row for row in rows for _ in range(3)]

    return make


@pytest.mark.parametrize("name", SWITCHES)
def test_switches_at_the_rounds_start_and_after_a_step(folders: Folders, grpo_trainer: Any, name: str) -> None:
    switches, fields = SWITCHES[name]
    trainer, rows = grpo_trainer(**fields)
    batch = trainer._generate_and_score_completions(rows)
    first, second = ours(folders, GROUPS, objective="group", group=switches, epochs=2, learning_rate=3e-3)
    assert_same(first, theirs(trainer, [batch]))
    # At the start the policies are one: TRL takes the present one's log-probabilities for the old ones.
    batch["old_per_token_logps"] = trainer._get_per_token_logps_and_entropies(
        trainer.model,
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
        batch["completion_ids"].size(1),
    )[0].detach()
    with torch.no_grad():
        for key, parameter in trainer.model.named_parameters():
            parameter.copy_(second.weights[key])
    assert_same(second, theirs(trainer, [batch]))
    assert second.metrics is not None
    assert 0 < second.metrics.values["clip_fraction"] < 1
    assert first.metrics is not None
    assert first.metrics.values["ratio"] == pytest.approx(1, abs=1e-6)


def test_rloo_is_one_setting_of_the_switches(folders: Folders) -> None:
    fields = {"epochs": 2, "learning_rate": 1e-4}
    switches = {"advantage": "loo", "ratio": "sequence", "aggregate": "sequence", "clip_low": 0.1, "clip_high": 0.1}
    whole_answers = {**switches, "kl": "reward", "kl_weight": 0.3}
    named = ours(folders, GROUPS, objective="rloo", rloo_clip=0.1, rloo_kl_weight=0.3, **fields)
    switched = ours(folders, GROUPS, objective="group", group=whole_answers, **fields)
    for mine, other in zip(switched, named, strict=True):
        assert_same(mine, other)
