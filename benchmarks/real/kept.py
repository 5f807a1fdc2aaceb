"""Is English kept? Two models' answers to the same prompts, compared by how likely the first model finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TOKENS = 2048  # of one forward pass


@dataclass(frozen=True, slots=True)
class Kept:
    """Attributes: share of equal answers; and share of prompts whose second answer is likelier a token, a tie half."""

    identical: float
    win_rate: float


def kept(model: Path, dtype: str, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Kept:
    """Compare answers by the model that gave the first ones.

    Its greedy answer is near the likeliest one it has, so a win rate somewhat under 0.5 is to be expected of any other
    model; one near 0 says that the other's answers are odd to it.

    Args:
        model: Folder of the model that judges.
        dtype: Of its arithmetic.
        prompts: User turns.
        first: The model's own answers.
        second: The other's.
    """
    likelihood = Likelihood(model, dtype)
    own, other = likelihood.per_token(prompts, first), likelihood.per_token(prompts, second)
    wins = [0.5 if one == two else float(b > a) for one, two, a, b in zip(first, second, own, other, strict=True)]
    identical = [one == two for one, two in zip(first, second, strict=True)]
    return Kept(sum(identical) / len(identical), sum(wins) / len(wins))


class Likelihood:
    """A model that scores answers.

    Args:
        model: Its folder.
        dtype: Of its arithmetic.
    """

    def __init__(self, model: Path, dtype: str) -> None:
        import torch

        from learners.encode import ChatEncoder
        from learners.engine import load_model
        from learners.logprobs import LogprobModel

        self._encoder = ChatEncoder(model)
        self._device = torch.device("cpu")
        self._scorer = LogprobModel(load_model(model, dtype, self._device).requires_grad_(False), chunk=256)

    def sums(self, prompts: Sequence[str], answers: Sequence[str]) -> list[tuple[float, int]]:
        """Log-probability (nats; end of turn included) of each answer under its prompt, and its tokens."""
        from learners.logprobs import segment_logprobs
        from learners.packing import Segment

        segments = [
            Segment(tuple(self._encoder.prompt_ids(prompt)), (tuple(self._encoder.completion_ids(answer)),))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        rows = segment_logprobs(self._scorer, segments, _TOKENS, self._device)
        return [(float(row[0].float().sum()), len(row[0])) for row in rows]

    def per_token(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Mean log-probability a token, nats."""
        return [total / tokens for total, tokens in self.sums(prompts, answers)]
