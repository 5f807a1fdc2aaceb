"""A round without pairs says what its prompts lacked, and which field changes that."""

from __future__ import annotations

import pytest

from rollout.records import CandidateKey, Score
from rollout.refusals import nothing_to_train_on

SCORES = [
    Score(CandidateKey(1, prompt, "de", "policy", "de", sample), reward)
    for prompt, rewards in {"a": (0.1, 0.4), "b": (5.0, 5.05)}.items()
    for sample, reward in enumerate(rewards)
]


@pytest.mark.parametrize(
    ("refused", "min_margin", "said"),
    [
        (
            {"de": {"no_margin": 3, "single_candidate": 2}, "en": {"anchor_pairs": 200}},
            0.5,
            "prompts refused: 3 no_margin, 2 single_candidate. Mostly no two rewards differ by pairs.min_margin "
            "(0.5; the widest difference is 0.3): lower it",
        ),
        ({"de": {"no_margin": 3}}, 0.0, "the rewards are equal: raise rollout.samples_per_prompt"),
        ({"de": {"single_candidate": 2}, "fr": {"single_candidate": 2, "no_margin": 3}}, 0.5, "one answer alone"),
        ({"de": {"no_candidates": 4}}, 0.0, "no answer passed the gates"),
        ({"de": {"above_bound": 4}}, 0.0, "reward.upper_bound: raise it"),
        ({"de": {"a_miners_own": 4}}, 0.0, "4 a_miners_own. Mostly raise"),
        ({}, 0.0, "no prompt was mined"),
    ],
)
def test_the_commonest_refusal_has_its_cure(refused: dict[str, dict[str, int]], min_margin: float, said: str) -> None:
    assert said in nothing_to_train_on(refused, SCORES, min_margin)
