"""Rounds of training with objectives beside DPO: what they need, what they leave out, what they refuse."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from actors.observe.metrics_rows import learner_figures
from configs.errors import UserError
from configs.schema import LearnerConfig, ModelConfig
from learners.batching import encode_examples, mismatched
from learners.checkpoint_layout import latest_checkpoint
from learners.distributed import single_process
from learners.encode import ChatEncoder
from learners.errors import NumericError
from learners.metrics import RoundMetrics
from learners.session import LearnerSession
from learners.snapshot import restore, save_round
from learners.weights import checksum
from rollout.records import Example, SampleGroup
from tests.kits.learner import make_folder, make_groups, make_pairs

PAIRS_14 = make_pairs(14)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("models") / "llama")


def examples(objective: str, round_number: int = 1) -> list[Example]:
    if objective in ("rloo", "group"):
        return [*make_groups(4, 3, round_number), *make_groups(9, 2, round_number)[4:]]
    return [*make_pairs(14, round_number)]


def learner(objective: str, **fields: Any) -> LearnerConfig:
    settings = {"pairs_per_step": 6, "tokens_per_micro_batch": 128, "learning_rate": 1e-3, "epochs": 2} | fields
    return LearnerConfig(objective=objective, **settings)


def train(
    config: LearnerConfig, folder: Path, found: list[list[Example]], max_length: int = 1024
) -> tuple[dict[str, Tensor], list[RoundMetrics]]:
    with single_process():
        session = LearnerSession(config, ModelConfig(policy=folder, max_length=max_length), 7, folder)
        try:
            metrics = [session.train_round(number, batch) for number, batch in enumerate(found, 1)]
            return {name: one.clone() for name, one in session.full_weights().items()}, metrics
        finally:
            session.close()


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.parametrize("objective", ["kto", "rloo", "simpo", "group"])
def test_neither_accumulation_nor_order_matters(folder: Path, objective: str) -> None:
    together, _ = train(learner(objective), folder, [examples(objective)])
    alone, metrics = train(learner(objective, tokens_per_micro_batch=1), folder, [examples(objective)[::-1]])
    first = metrics[0].steps[0]
    # Every pair on its own; of the groups, which are larger than the budget, every answer.
    assert first.micro_batches == first.values.get("answers", first.values.get("pairs"))
    assert distance(together, alone) < 5e-5
    assert distance(together, train(learner(objective, learning_rate=1e-9), folder, [examples(objective)])[0]) > 1e-3


@pytest.mark.parametrize("reference", ["previous_round", "initial"])
@pytest.mark.parametrize("objective", ["kto", "rloo", "group"])
def test_resumed_equals_straight_to_the_bit(folder: Path, tmp_path: Path, objective: str, reference: str) -> None:
    """The second round is trained once in a session that trained the first, once in a fresh one from its checkpoint."""
    config = learner(objective, reference=reference)
    straight, _ = train(config, folder, [examples(objective, 1), examples(objective, 2)])
    with single_process():
        session = LearnerSession(config, ModelConfig(policy=folder), 7, folder)
        save_round(session, tmp_path, session.train_round(1, examples(objective, 1)), 1, 0)
        session.close()
        checkpoint = latest_checkpoint(tmp_path)
        assert checkpoint is not None
        session = LearnerSession(config, ModelConfig(policy=folder), 7, checkpoint)
        assert restore(session, checkpoint)
        session.train_round(2, examples(objective, 2))
        assert checksum(session.full_weights()) == checksum(straight)
        session.close()


def test_kto_begins_at_the_reference_and_its_baseline_is_of_the_rounds_start(folder: Path) -> None:
    # The NLL of the chosen answers makes all answers likelier, those of other prompts too.
    config = learner("kto", kto_desirable_weight=1.5, epochs=4)
    _, (metrics,) = train(config, folder, [examples("kto")])
    first, last = metrics.steps[0].values, metrics.steps[-1].values
    assert first["preference_loss"] == pytest.approx((1.5 + 1) / 4, abs=1e-6)
    assert first["divergence"] == 0
    assert last["divergence"] > 0.1
    assert last["preference_loss"] < first["preference_loss"]
    _, (single,) = train(learner("kto", pairs_per_step=1), folder, [[*make_pairs(3)]])
    assert {step.values["divergence"] for step in single.steps} == {0.0}


def test_kto_cuts_others_answers_to_the_longest_sequence(folder: Path) -> None:
    pairs = [replace(PAIRS_14[0], prompt="p" * 60), replace(PAIRS_14[1], chosen="c" * 40, rejected="r" * 30)]
    encoded = encode_examples(ChatEncoder(folder), pairs, 80, "kto")
    cut = mismatched(encoded, 80)
    assert sorted(one.segment.longest for one in encoded)[-1] <= 80
    assert max(one.segment.longest for one in cut) == 80  # 60 of the one prompt and 40 of the other's answer are more
    _, (metrics,) = train(learner("kto", pairs_per_step=2), folder, [[*pairs]], max_length=80)
    assert metrics.steps[0].values["divergence"] == 0  # at the reference, over the cut answers


@pytest.mark.parametrize("objective", ["simpo", "cpo"])
def test_objectives_without_a_reference_do_not_compute_one(
    folder: Path, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the reference was computed")

    config = learner(objective, reference="previous_round")
    with single_process():
        session = LearnerSession(config, ModelConfig(policy=folder), 7, folder)
        monkeypatch.setattr(session, "_score_reference", refuse)
        assert session.reference_logprobs(1, make_pairs(6)) == {}
        metrics = session.train_round(1, make_pairs(6))
        session.close()
    for row in (metrics.steps[0].values, *metrics.steps[0].languages.values()):
        assert "kl_reference" not in row
        assert "reward_accuracy" in row
    assert "kl_reference" not in learner_figures(metrics)


def test_rloo_starts_on_policy_and_moves_towards_the_rewards(folder: Path) -> None:
    groups = make_groups(6, 3)
    _, (metrics,) = train(learner("rloo", epochs=8, rloo_kl_weight=0.01), folder, [[*groups]])
    first, last = metrics.steps[0].values, metrics.steps[-1].values
    assert (first["groups"], first["answers"]) == (6, 18)
    assert (first["ratio"], first["clip_fraction"], first["kl_reference"]) == (1, 0, 0)
    assert first["loss"] == pytest.approx(0, abs=1e-6)  # advantages of a group sum to 0
    assert first["reward_mean"] == pytest.approx(sum(sum(g.rewards) for g in groups) / 18)
    assert last["loss"] < -0.05
    assert last["ratio"] != 1
    assert 0 < last["clip_fraction"] < 1
    figures = learner_figures(metrics)
    assert figures["reward_mean"] == pytest.approx(first["reward_mean"])
    assert not {"reward_accuracy", "first_preference_loss"} & figures.keys()
    assert figures["languages"].keys() == {"es", "sw"}
    assert sum(row["answers"] for row in figures["languages"].values()) == 18
    languages = metrics.steps[0].languages.values()
    assert sum(row["tokens_per_second"] for row in languages) == pytest.approx(first["tokens_per_second"])


def test_rloo_compares_with_the_rounds_start_whatever_the_reference(folder: Path) -> None:
    config = learner("rloo", reference="initial", pairs_per_step=9)
    with single_process():
        session = LearnerSession(config, ModelConfig(policy=folder), 7, folder)
        groups = [one for one in examples("rloo") if isinstance(one, SampleGroup)]
        known = session.reference_logprobs(1, groups)
        assert {len(values) for values in known.values()} == {2, 3}
        stored = [replace(one, reference=known[one.id]) for one in groups]
        session.train_round(1, stored)
        second = session.train_round(2, stored).steps[0].values
        session.close()
    assert second["ratio"] == 1
    assert abs(second["kl_reference"]) > 0.01


def test_examples_of_the_wrong_kind_are_refused(folder: Path) -> None:
    mixed = [*make_pairs(3), *make_groups(1)]
    group = make_groups(1)[0]
    for objective, given, expected in (
        ("sigmoid", make_groups(2), "group .*: learner.objective sigmoid trains on pairs; set it to rloo"),
        ("rloo", make_pairs(2), "pair .*: learner.objective rloo trains on groups of scored answers"),
        ("rloo", mixed, "pair .*: learner.objective rloo"),
        ("kto", mixed, "group .*: learner.objective kto"),
        ("rloo", [replace(group, rewards=(1.0,))], "has 3 answers, 1 rewards and no reference"),
        ("rloo", [replace(group, completions=("a",), rewards=(1.0,))], "it needs at least 2 answers"),
        ("rloo", [group, group], "is there twice"),
    ):
        with pytest.raises(UserError, match=expected):
            train(learner(objective), folder, [[*given]])


@pytest.mark.parametrize(("objective", "kind"), [("apo_zero", "pairs"), ("kto", "pairs"), ("rloo", "groups")])
def test_a_loss_that_is_not_a_number_is_named_and_nothing_changes(folder: Path, objective: str, kind: str) -> None:
    given = examples(objective)[:4]
    spoiled: Example = given[2]
    if isinstance(spoiled, SampleGroup):
        spoiled = replace(spoiled, rewards=(1.0, math.nan, 0.0))
    else:
        spoiled = replace(spoiled, reference_chosen=math.nan, reference_rejected=-1.0)
    with single_process():
        session = LearnerSession(learner(objective), ModelConfig(policy=folder), 7, folder)
        before = checksum(session.full_weights())
        with pytest.raises(NumericError, match=rf"loss is not finite; {kind}: {spoiled.id}\."):
            session.train_round(1, [*given[:2], spoiled, given[3]])
        assert checksum(session.full_weights()) == before
        session.close()


@pytest.mark.parametrize(("objective", "kind"), [("hinge", "pairs"), ("rloo", "groups")])
def test_a_gradient_that_is_not_a_number_is_not_applied(folder: Path, objective: str, kind: str) -> None:
    with single_process():
        session = LearnerSession(learner(objective), ModelConfig(policy=folder), 7, folder)
        before = checksum(session.full_weights())
        hook = session.policy.model.layers[0].register_full_backward_hook(
            lambda module, inputs, outputs: tuple(None if g is None else g * math.nan for g in inputs)
        )
        with pytest.raises(NumericError, match=f"gradient is not finite; {kind}: r0001/"):
            session.train_round(1, examples(objective))
        hook.remove()
        assert checksum(session.full_weights()) == before
        session.close()
