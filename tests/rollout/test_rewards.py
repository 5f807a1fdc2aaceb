"""Rewards: what a model is asked for them, the verifier, shuffled scores; length control against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.measures import LogprobMeasure
from configs.schema import Config, LengthControlConfig
from rollout.length_control import Group, fit, grid
from rollout.prompts import PromptSet
from rollout.records import Score
from rollout.rewards import (
    implicit_reward,
    implicit_score,
    is_correct,
    reward_prompt,
    score_requests,
    shuffle_scores,
    verifier_scores,
)
from tests.kits.rollout import candidate, make_config, make_prompts


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptSet:
    return make_prompts(tmp_path_factory.mktemp("prompts"), make_config(), 4)


def measure_of(config: Config) -> LogprobMeasure:
    return config.reward.logprobs["reward"]


def brute_force(groups: list[Group], config: LengthControlConfig, bound: float | None) -> tuple[float, float]:
    """Length control by its definition, in plain loops."""
    best = (math.inf, math.inf, 1, 0.0, math.nan)
    for alpha in grid(config):
        gaps = []
        for group in groups:
            adjusted = [r - alpha * n for r, n in zip(group.rewards, group.lengths, strict=True)]
            allowed = [i for i, r in enumerate(adjusted) if bound is None or r < bound]
            if len(adjusted) < 2 or not allowed:
                continue
            top = max(allowed, key=lambda i: (adjusted[i], -i))
            low = min(range(len(adjusted)), key=lambda i: (adjusted[i], i))
            if adjusted[top] > adjusted[low]:
                gaps.append(group.lengths[top] - group.lengths[low])
        if gaps:
            mean = sum(gaps) / len(gaps)
            best = min(best, (abs(mean), abs(alpha), int(alpha < 0), alpha, mean))
    return best[3], best[4]


GROUPS = st.lists(
    st.lists(st.tuples(st.integers(-40, 40).map(lambda x: x / 4), st.integers(0, 60)), min_size=1, max_size=6),
    min_size=1,
    max_size=6,
).map(lambda gs: [Group(tuple(r for r, _ in g), tuple(n for _, n in g)) for g in gs])


@settings(max_examples=150, deadline=None)
@given(
    GROUPS, st.sampled_from([(0.0, 0.999, 0.05), (-0.5, 0.5, 0.1), (0.0, 0.0, 1.0)]), st.none() | st.integers(-5, 10)
)
def test_length_control_is_the_brute_force_one(
    groups: list[Group], ends: tuple[float, float, float], bound: float | None
) -> None:
    config = LengthControlConfig(alpha_min=ends[0], alpha_max=ends[1], alpha_step=ends[2])
    found = fit(groups, config, bound)
    alpha, gap = brute_force(groups, config, bound)
    assert found.alpha == alpha
    assert found.gap == gap or (math.isnan(found.gap) and math.isnan(gap))


def test_length_control_removes_a_length_bias() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 200, size=(200, 8))
    rewards = rng.normal(size=(200, 8)) + 0.2 * lengths
    groups = [Group(tuple(r), tuple(int(x) for x in n)) for r, n in zip(rewards.tolist(), lengths, strict=True)]
    biased = fit(groups, LengthControlConfig(alpha_max=0.0))
    found = fit(groups, LengthControlConfig())
    assert biased.gap > 100
    assert abs(found.alpha - 0.2) < 0.01
    assert abs(found.gap) < 3
    shorter = [Group(tuple(-r for r in g.rewards), g.lengths) for g in groups]
    assert fit(shorter, LengthControlConfig()).alpha == 0.0
    assert abs(fit(shorter, LengthControlConfig(alpha_min=-0.999)).alpha + 0.2) < 0.01


def test_equally_good_alphas_give_the_positive_one() -> None:
    group = Group((1.0, 0.0), (10, 10))
    assert fit([group], LengthControlConfig(alpha_min=-0.5, alpha_max=0.5, alpha_step=1.0)).alpha == 0.5
    assert fit([group], LengthControlConfig(alpha_min=-0.5, alpha_max=0.5, alpha_step=0.1)).alpha == 0.0


def test_grid_has_both_ends() -> None:
    alphas = grid(LengthControlConfig())
    assert (len(alphas), alphas[0], alphas[-1], alphas[3]) == (1000, 0.0, 0.999, 0.003)


def test_reward_prompts(prompts: PromptSet) -> None:
    english, spanish = candidate(language="en"), candidate(language="es")
    cross = make_config()
    assert reward_prompt(cross.languages, measure_of(cross), prompts, english) == prompts.get("p0", "en").text
    text = reward_prompt(cross.languages, measure_of(cross), prompts, spanish)
    assert "Answer only in Spanish" in str(text)
    assert str(text).endswith(f"\n\n{prompts.get('p0', 'en').text}")
    native = make_config(reward__prompt="native")
    assert reward_prompt(native.languages, measure_of(native), prompts, spanish) == prompts.get("p0", "es").text
    translated = make_config(reward__prompt="translated")
    assert reward_prompt(translated.languages, measure_of(translated), prompts, spanish) == prompts.get("p0", "en").text


def test_score_requests(prompts: PromptSet) -> None:
    rows = [
        candidate(sample=0, text="Uno"),
        candidate(sample=1, text="Dos"),
        candidate(sample=2, text="", gate="empty"),
        candidate(language="en", sample=0, text="Two", source="translation", origin="es", gate="duplicate"),
        candidate(language="en", sample=1, text="", source="translation", origin="es", gate="translation_failed"),
        candidate(language="en", sample=0, text="Own"),
    ]
    config = make_config()
    requests, skipped = score_requests(config, measure_of(config), prompts, rows)
    assert [r.text for r in requests] == ["Uno", "Dos", "Own"]
    assert skipped == {("es", "gated"): 1}
    config = make_config(reward__prompt="translated")
    requests, skipped = score_requests(config, measure_of(config), prompts, rows)
    assert [(r.key, r.text) for r in requests] == [(rows[0].key, "Two"), (rows[5].key, "Own")]
    assert skipped == {("es", "gated"): 1, ("es", "no_translation"): 1}


def test_implicit_reward_is_the_difference_in_nats() -> None:
    assert implicit_reward(-10.0, -12.5) == 2.5
    score = implicit_score(candidate().key, -3.0, -1.0)
    assert (score.reward, score.parts) == (-2.0, {"policy_logprob": -3.0, "reference_logprob": -1.0})
    for bad in (math.nan, -math.inf):
        with pytest.raises(ValueError, match="no finite reward"):
            implicit_reward(bad, -1.0)


def test_verifier(prompts: PromptSet) -> None:
    assert is_correct(" cafe\u0301  noir\n", "caf\u00e9 noir")
    assert not is_correct("Café noir", "café noir")
    rows = [
        candidate(sample=0, text="es answer 0"),
        candidate(sample=1, text="es answer 1"),
        candidate(sample=2, text="es answer 0", gate="truncated"),
    ]
    assert [s.reward for s in verifier_scores(prompts, rows)] == [1.0, 0.0]


def test_shuffled_scores_stay_in_their_group() -> None:
    scores = [Score(candidate(f"p{p}", sample=s).key, float(10 * p + s)) for p in range(30) for s in range(4)]
    shuffled = shuffle_scores(scores, 0)
    assert [s.key for s in shuffled] == [s.key for s in scores]
    for p in range(30):
        rewards = [s.reward for s in shuffled if s.key.prompt_id == f"p{p}"]
        assert sorted(rewards) == [10.0 * p + s for s in range(4)]
    moved = sum(a.reward != b.reward for a, b in zip(scores, shuffled, strict=True))
    assert 60 < moved < 120  # a random permutation of 4 keeps one place in four
    assert [s.parts["unshuffled"] for s in shuffled] == [s.reward for s in scores]
    backwards = shuffle_scores(scores[::-1], 0)
    assert backwards[::-1] == shuffled
    assert shuffle_scores(scores, 1) != shuffled
