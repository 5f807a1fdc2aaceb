"""Reference log-probabilities that the sampler has computed already, held against the learner's own.

Where the loss's reference is the policy that the round began with, and answers were sampled from those weights, the
log-probabilities of the sampled tokens are the reference's. Two engines compute them with other kernels: so a
few examples are scored by the learner as well, and what differs is reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from configs.json_types import JsonObject

if TYPE_CHECKING:  # the driver imports this module, and what is behind these takes it seconds
    from learners.batching import EncodedExample
    from learners.microbatches import References, TokenLogprobs

Origin = Literal["learner", "sampler", "auto"]

# Beyond these ``auto`` takes the learner's own.
MOST_NATS = 0.02  # mean absolute difference of a token
MOST_LOSS = 1e-3  # distance of the first step's loss from ln 2

PROBED = 8  # examples that the learner scores too, or one of each language where that is more


@dataclass(frozen=True, slots=True)
class Mismatch:
    """How far the sampler's log-probabilities are from the learner's, under the same weights.

    Attributes:
        used: Whether the sampler's became the references.
        examples: Pairs or groups that were held against the learner's.
        tokens: Their tokens.
        mean: Absolute difference of a token's log-probability, nats, mean over tokens.
        most: The largest.
        loss: Distance from ln 2 of their sigmoid loss before the first step, with the sampler's as reference; None of
            groups.
        languages: Language -> ``tokens``, ``mean``, and ``kl``: mean of sampler's less learner's, which estimates the
            divergence of the sampling from the trained policy, nats a token.
    """

    used: bool
    examples: int
    tokens: int
    mean: float
    most: float
    loss: float | None
    languages: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """For the journal and ``metrics.jsonl``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Referenced:
    """A round's reference log-probabilities by id, and how they compare; None where the learner computed all."""

    values: References
    mismatch: Mismatch | None = None


def probe(steps: Sequence[Sequence[EncodedExample]], sampled: Mapping[str, object]) -> list[EncodedExample]:
    """The examples that are held against the learner's: the first of each language, then the first ones of all."""
    order = [one for step in steps for one in step if one.id in sampled]
    first: dict[str, EncodedExample] = {}
    for one in order:
        first.setdefault(one.example.language, one)
    rest = [one for one in order if one.id not in {chosen.id for chosen in first.values()}]
    return [*first.values(), *rest[: max(0, PROBED - len(first))]]


def sampled_logprobs(one: EncodedExample) -> tuple[np.ndarray, ...] | None:
    """The sampler's log-probabilities of all answers' tokens; None unless all are there, one a token."""
    kept = one.example.answer_logprobs
    if len(kept) != len(one.segment.completions):
        return None
    found = []
    for data, ids in zip(kept, one.segment.completions, strict=True):
        if data is None or len(data) != 4 * len(ids):
            return None
        found.append(np.frombuffer(data, dtype="<f4"))
    return tuple(found) if all(np.isfinite(values).all() for values in found) else None


def sums(logprobs: Sequence[np.ndarray]) -> tuple[float, ...]:
    """Summed log-probabilities of answers, nats; summed in float64."""
    return tuple(float(values.sum(dtype=np.float64)) for values in logprobs)


def compare(
    examples: Sequence[EncodedExample],
    sampler: TokenLogprobs,
    learner: TokenLogprobs,
    beta: float,
    origin: Origin,
) -> Mismatch:
    """Hold the two against each other.

    Args:
        examples: That both have; at least one.
        sampler: By id.
        learner: By id, of the policy that the round begins with.
        beta: Of the loss.
        origin: ``auto`` decides by the differences, ``sampler`` takes the sampler's in any case.
    """
    by_language: dict[str, list[np.ndarray]] = {}
    losses = []
    for one in examples:
        apart = [
            theirs.astype(np.float64) - ours for theirs, ours in zip(sampler[one.id], learner[one.id], strict=True)
        ]
        by_language.setdefault(one.example.language, []).extend(apart)
        if one.example.kind == "pairs":
            # The policy is the reference: only the mismatch is left of the margin, and the loss is ln 2 without it.
            margin = -float(apart[0].sum() - apart[1].sum())
            losses.append(float(np.logaddexp(0.0, -beta * margin)))
    whole = np.concatenate([part for parts in by_language.values() for part in parts])
    mean = float(np.abs(whole).mean())
    loss = abs(math.fsum(losses) / len(losses) - math.log(2)) if losses else None
    close = mean <= MOST_NATS and (loss is None or loss <= MOST_LOSS)
    return Mismatch(
        used=origin == "sampler" or close,
        examples=len(examples),
        tokens=len(whole),
        mean=mean,
        most=float(np.abs(whole).max()),
        loss=loss,
        languages={
            language: {
                "tokens": sum(map(len, parts)),
                "mean": float(np.abs(np.concatenate(parts)).mean()),
                "kl": float(np.concatenate(parts).mean()),
            }
            for language, parts in sorted(by_language.items())
        },
    )
