"""The protocol of scorers, and what those of an actor have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from configs.schema import Config
from judges import Usage
from rollout.language import LanguageDetector
from rollout.prompts import PromptSet
from rollout.records import Candidate, Score

if TYPE_CHECKING:
    from actors.reward.log_ratios import ScoringModels


@dataclass(frozen=True, slots=True)
class Scored:
    """What came back from a scorer.

    Attributes:
        scores: Of the candidates that have one.
        skipped: (language, why) -> answers without a score.
        tokens: That went through a model.
        usage: What a judge was asked.
    """

    scores: list[Score]
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)
    tokens: int = 0
    usage: Usage | None = None


class Scorer(Protocol):
    """Scores the candidates of a chunk: whole prompt groups, judged by the gates, translations among them."""

    def score(self, candidates: Sequence[Candidate]) -> Scored:
        """Scores of the sampled answers that passed the gates.

        Raises:
            UserError: A judge or a function of the user's own failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Shared:
    """What scorers of an actor have in common.

    Attributes:
        config: The run.
        prompts: Training prompts.
        detector: Of the run's languages.
        models: Policy and reference, where a reward is made of log-probabilities.
    """

    config: Config
    prompts: PromptSet
    detector: LanguageDetector
    models: ScoringModels | None
