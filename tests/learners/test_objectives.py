"""Objectives against numbers worked out by hand; those that TRL has are held against it in ``test_trl.py`` beside."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from configs.errors import UserError
from configs.learner import GROUP_OBJECTIVES, OBJECTIVES, GroupConfig, LearnerConfig, Objective
from learners.objectives import groups, pairs
from learners.objectives.inputs import GroupLogprobs, ObjectiveSettings, PairLogprobs
from learners.objectives.registry import GROUPS, PAIR_OBJECTIVES, needs_reference, pair_objective, takes
from learners.objectives.switches import StepTotals, TokenGroup, group_loss
from learners.objectives.trial import try_objective

# r_w = 1, r_l = -3, h = 4
PAIR = PairLogprobs(*torch.tensor([[-10.0], [-12.0], [-11.0], [-9.0], [5.0], [3.0]]))
SETTINGS = ObjectiveSettings()


def loss(name: str, pair: PairLogprobs = PAIR, **settings: Any) -> float:
    return PAIR_OBJECTIVES[name].loss(pair, replace(SETTINGS, **settings)).item()


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_config_and_registry_know_the_same_objectives() -> None:
    assert {*PAIR_OBJECTIVES, *GROUP_OBJECTIVES} == set(OBJECTIVES) == set(get_args(Objective))
    assert set(GROUPS) == set(GROUP_OBJECTIVES)
    assert [takes(name) for name in ("sigmoid", "my:own", "rloo", "group")] == ["pairs", "pairs", "groups", "groups"]
    settings = ObjectiveSettings.of(LearnerConfig())
    assert settings == replace(SETTINGS, group=GroupConfig())  # the defaults of the config


def test_sigmoid_is_ln_2_at_the_reference() -> None:
    same = replace(PAIR, reference_chosen=PAIR.chosen, reference_rejected=PAIR.rejected)
    for name in ("sigmoid", "robust", "dpop"):
        assert loss(name, same) == pytest.approx(math.log(2)), name


def test_sigmoid_with_and_without_smoothing() -> None:
    good, bad = -math.log(logistic(0.4)), -math.log(logistic(-0.4))
    assert loss("sigmoid") == pytest.approx(good, rel=1e-6)
    assert loss("sigmoid", label_smoothing=0.1) == pytest.approx(0.9 * good + 0.1 * bad, rel=1e-6)
    assert loss("robust", label_smoothing=0.1) == pytest.approx((0.9 * good - 0.1 * bad) / 0.8, rel=1e-6)


def test_ipo_is_the_squared_distance_to_its_margin() -> None:
    assert loss("ipo") == pytest.approx((4 - 5) ** 2)
    assert loss("ipo", beta=0.125) == pytest.approx(0)
    assert loss("ipo_mean") == pytest.approx((1 / 5 + 3 / 3 - 5) ** 2)


def test_hinge() -> None:
    assert loss("hinge") == pytest.approx(0.6)
    assert loss("hinge", beta=0.3) == 0


def test_objectives_without_a_reference_have_none() -> None:
    bare = replace(PAIR, reference_chosen=None, reference_rejected=None)
    assert loss("cpo", bare) == pytest.approx(-math.log(logistic(0.2)), rel=1e-6)
    assert loss("simpo", bare, beta=2.0) == pytest.approx(-math.log(logistic(2 * (-2 + 4) - 0.5)), rel=1e-6)
    without = {name for name in PAIR_OBJECTIVES if not needs_reference(LearnerConfig(objective=name))}
    assert without == {"simpo", "cpo"}
    for name in set(PAIR_OBJECTIVES) - without:
        with pytest.raises(ValueError, match="needs reference log-probabilities"):
            loss(name, bare)


def test_kto_weighs_both_answers_against_the_baseline() -> None:
    value = loss("kto", replace(PAIR, divergence=2.0), kto_desirable_weight=1.5, kto_undesirable_weight=0.5)
    assert value == pytest.approx((1.5 * (1 - logistic(0.1 * (1 - 2))) + 0.5 * (1 - logistic(0.1 * (2 + 3)))) / 2)


def test_dpop_punishes_a_chosen_answer_below_its_reference() -> None:
    assert loss("dpop") == pytest.approx(loss("sigmoid"))  # r_w is above 0
    sunk = replace(PAIR, reference_chosen=torch.tensor([-8.0]))  # r_w = -2, h = 1
    assert loss("dpop", sunk, dpop_lambda=5.0) == pytest.approx(-math.log(logistic(0.1 * (1 - 5 * 2))), rel=1e-6)


def test_apo() -> None:
    assert loss("apo_zero") == pytest.approx(1 - logistic(0.1) + logistic(-0.3))
    assert loss("apo_down") == pytest.approx(logistic(0.1) + 1 - logistic(0.4))


def test_nll_is_a_mean_over_tokens() -> None:
    assert pairs.mean_nll(torch.tensor([-10.0, -3.0]), torch.tensor([5, 1])).tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("name", "rewards"), [("sigmoid", (0.1, -0.3)), ("cpo", (-1.0, -1.2)), ("simpo", (-0.2, -0.4))]
)
def test_implicit_rewards(name: str, rewards: tuple[float, float]) -> None:
    found = PAIR_OBJECTIVES[name].rewards(PAIR, 0.1)
    assert tuple(one.item() for one in found) == pytest.approx(rewards)


def test_rloo_rewards_less_the_penalty_against_the_others_mean() -> None:
    current, old = torch.tensor([-5.0, -6.0, -7.0], requires_grad=True), torch.tensor([-5.5, -6.0, -6.5])
    group = GroupLogprobs(current, old, torch.tensor([-4.0, -6.0, -9.0]), torch.tensor([1.0, 0.0, 2.0]))
    settings = replace(SETTINGS, rloo_kl_weight=0.5, rloo_clip=0.2)
    # Rewards less the penalty: 1 + 0.5, 0, 2 - 1.
    expected = [1.5 - 0.5, 0 - 1.25, 1 - 0.75]
    assert groups.advantages(group, settings).tolist() == pytest.approx(expected)
    ratios = [math.exp(0.5), 1.0, math.exp(-0.5)]
    losses = groups.rloo(group, settings)
    assert losses.tolist() == pytest.approx([-1.2 * 1.0, 1.25, -ratios[2] * 0.25])  # the first one is clipped
    assert groups.is_clipped(group, settings).tolist() == [True, False, False]
    losses.sum().backward()
    assert current.grad is not None
    assert current.grad.tolist() == pytest.approx([0.0, 1.25, -ratios[2] * 0.25])  # nothing through the penalty


@pytest.mark.parametrize("nats", [-1000.0, -100.0, -89.0, 89.0, 100.0, 1000.0])
@pytest.mark.parametrize("rewards", [[1.0, 0.0, 2.0], [0.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
def test_rloo_is_finite_however_far_the_policy_moved(nats: float, rewards: list[float]) -> None:
    old = torch.tensor([-500.0, -600.0, -700.0])
    current = (old + torch.tensor([nats, 0.0, -nats])).requires_grad_()
    group = GroupLogprobs(current, old, old, torch.tensor(rewards))
    losses = groups.rloo(group, replace(SETTINGS, rloo_kl_weight=0.0))
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert current.grad is not None
    assert torch.isfinite(current.grad).all()
    assert torch.isfinite(groups.importance(group)).all()


def test_rloos_ratio_is_exact_within_its_bound() -> None:
    old, moved = torch.zeros(3), torch.tensor([-19.9, 0.25, 19.9])
    assert groups.importance(GroupLogprobs(moved, old, old, old)).tolist() == torch.exp(moved).tolist()


def test_sigmoid_norm_is_of_means_over_tokens() -> None:
    assert loss("sigmoid_norm", beta=2.0) == pytest.approx(-math.log(logistic(2 * (1 / 5 + 3 / 3))))


@pytest.mark.parametrize("ratio", ["sequence", "sequence_mean", "token"])
def test_switches_are_finite_however_far_the_policy_moved(ratio: str) -> None:
    now = [torch.full((4,), value, requires_grad=True) for value in (-300.0, -0.001)]
    old = [torch.full((4,), -0.001), torch.full((4,), -300.0)]
    switches = GroupConfig.model_validate({"ratio": ratio, "kl": "k3"})
    found = group_loss(TokenGroup(now, old, old, torch.tensor([-1.0, 1.0])), switches, StepTotals(2, 8, 1.0))
    assert bool(torch.isfinite(found.losses).all())
    found.losses.sum().backward()
    assert all(bool(torch.isfinite(one.grad).all()) for one in now if one.grad is not None)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"objective": "group", "group": {"aggregate": "constant"}}, "length: is for aggregate constant, which needs"),
        ({"objective": "group", "group": {"length": 3}}, "length: is for aggregate constant"),
        ({"objective": "group", "group": {"advantage": "batch_z", "kl": "reward"}}, "kl: reward changes with every"),
        ({"objective": "rloo", "group": {"ratio": "sequence"}}, "group: not used by objective rloo"),
        ({"objective": "sigmoid", "objective_options": {"a": 1}}, "objective_options: are for an objective of your"),
        ({"objective": "sigmod"}, "'sigmod' is unknown; take one of sigmoid, robust"),
        ({"objective": "my objective:loss"}, "is no package.module:function"),
    ],
)
def test_switches_that_contradict_each_other(fields: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        LearnerConfig.model_validate(fields)


def test_an_objective_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "margin_objective.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    mine = pair_objective("margin_objective:margin")
    settings = replace(SETTINGS, objective_options={"margin": 5.0})
    assert mine.loss(PAIR, settings).tolist() == pytest.approx([1.0])
    try_objective(LearnerConfig(objective="margin_objective:margin", objective_options={"margin": 2.0}))
    assert not needs_reference(LearnerConfig(objective="margin_objective:plain"))
    for name, expected in (
        (
            "mean",
            r"margin_objective:mean: returned a tensor \(\) of torch.float32 for 2 pairs; return one float a pair",
        ),
        ("number", r"margin_objective:number: returned float for 2 pairs"),
        ("nan", r"margin_objective:nan: gives \[nan, nan\] for two pairs"),
        ("detached", r"margin_objective:detached: its loss has no gradient"),
        ("raises", r"margin_objective:raises: failed with ZeroDivisionError: .*margin_objective\.py:\d+"),
        ("absent", r"has no 'absent'"),
    ):
        with pytest.raises(UserError, match=rf"learner\.objective: .*{expected}"):
            try_objective(LearnerConfig(objective=f"margin_objective:{name}"))


OWN = """
import torch

def margin(pairs, settings, *, margin=1.0):
    return torch.relu(margin - pairs.ratio_difference)

def plain(pairs, settings):
    return pairs.rejected - pairs.chosen

plain.needs_reference = False

def mean(pairs, settings):
    return pairs.ratio_difference.mean()

def number(pairs, settings):
    return 1.0

def nan(pairs, settings):
    return pairs.chosen * float("nan")

def detached(pairs, settings):
    return pairs.chosen.detach()

def raises(pairs, settings):
    return pairs.chosen / (1 // 0)
"""
