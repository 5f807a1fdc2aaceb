"""Objectives against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from learners.losses import ObjectiveSettings, PairLogprobs, implicit_rewards, ipo, mean_nll, sigmoid

PAIR = PairLogprobs(*(torch.tensor([value]) for value in (-10.0, -12.0, -11.0, -9.0)))  # h = 1 - (-3) = 4


def test_sigmoid_is_ln_2_at_the_reference() -> None:
    same = PairLogprobs(PAIR.chosen, PAIR.rejected, PAIR.chosen, PAIR.rejected)
    assert sigmoid(same, ObjectiveSettings(0.1)).item() == pytest.approx(math.log(2))


def test_sigmoid_with_and_without_smoothing() -> None:
    loss = -math.log(1 / (1 + math.exp(-0.4)))
    assert sigmoid(PAIR, ObjectiveSettings(0.1)).item() == pytest.approx(loss, rel=1e-6)
    smoothed = 0.9 * loss - 0.1 * math.log(1 / (1 + math.exp(0.4)))
    assert sigmoid(PAIR, ObjectiveSettings(0.1, 0.1)).item() == pytest.approx(smoothed, rel=1e-6)


def test_ipo_is_the_squared_distance_to_its_margin() -> None:
    assert ipo(PAIR, ObjectiveSettings(0.1)).item() == pytest.approx((4 - 5) ** 2)
    assert ipo(PAIR, ObjectiveSettings(0.125)).item() == pytest.approx(0)


def test_nll_is_a_mean_over_tokens() -> None:
    assert mean_nll(torch.tensor([-10.0, -3.0]), torch.tensor([5, 1])).tolist() == [2.0, 3.0]


def test_implicit_rewards() -> None:
    chosen, rejected = implicit_rewards(PAIR, 0.1)
    assert (chosen.item(), rejected.item()) == (pytest.approx(0.1), pytest.approx(-0.3))
