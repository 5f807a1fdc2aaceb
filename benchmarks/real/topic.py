"""Is an answer one to its prompt? Told by the model itself, before training: which of two prompts makes it likelier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

MOST = 40  # answers a language: the interval of a share is then at most 31 points wide


class Likelihoods(Protocol):
    """Something that scores answers."""

    def sums(self, prompts: Sequence[str], answers: Sequence[str]) -> list[tuple[float, int]]:
        """Log-probability (nats) of each answer under its prompt, and its tokens."""
        ...


def on_topic(model: Likelihoods, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """1 for an answer that is likelier under its prompt than under the next one of the list, 0 for others, a tie half.

    The tokens are the same in both, so that it does not matter how likely an answer is by itself. An answer that says
    its prompt back counts as one to it. Chance is 0.5.

    Args:
        model: Scores.
        prompts: In the language of the question; two or more.
        answers: One a prompt.
    """
    own, other = model.sums(prompts, answers), model.sums([*prompts[1:], prompts[0]], answers)
    return [0.5 if a == b else float(a > b) for (a, _), (b, _) in zip(own, other, strict=True)]
