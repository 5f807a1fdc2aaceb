"""A reward of your own: short answers, in words, with a bonus for those that hold a digit.

isogloss train demo.yaml reward.kind=custom reward.function=own_reward:score "reward.options={bonus: 0.5}"
"""

from __future__ import annotations


def score(prompts, candidates, *, bonus=0.0):
    """One number a candidate, higher is better; see actors.reward.custom.RewardFunction."""
    return [-len(one.text.split()) + bonus * any(character.isdigit() for character in one.text) for one in candidates]
