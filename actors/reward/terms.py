"""Rewards that are added up: every term scores by itself, and a candidate has a reward where each term gives one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from actors.reward.shared import Scored, Scorer, Shared
from configs.measures import JudgeMeasure, Measure
from configs.reward import TermsReward
from rollout.gates import passed
from rollout.records import Candidate, CandidateKey, Score
from rollout.sources import scored
from rollout.terms import PART, weighted_sum
from rollout.text_measures import text_measure


class TextScorer:
    """Measures of the text alone, and of the prompt's."""

    def __init__(self, shared: Shared, section: str, measure: Measure) -> None:
        self._shared, self._measure = shared, measure

    def score(self, candidates: Sequence[Candidate]) -> Scored:
        """See ``Scorer``."""
        config = self._shared.config
        scores: list[Score] = []
        kept, skipped = passed(scored(config, candidates))
        for candidate in kept:
            prompt = self._shared.prompts.get(candidate.key.prompt_id, candidate.key.language).text
            found = text_measure(self._measure, prompt, candidate, self._shared.detector, config.rollout.max_new_tokens)
            assert found is not None, "the measure is of the text"
            scores.append(Score(candidate.key, *found))
        return Scored(scores, skipped)


class TermsScorer:
    """The terms of a reward.

    ``parts`` of a score has each term's own value as ``term.<name>``, and what that was made of as ``<name>.<part>``
    (a judge's counts under their own names, as without terms).

    Args:
        shared: What scorers have in common.
        reward: The terms.
        build: Makes the scorer of one measure, given its config section.
    """

    def __init__(self, shared: Shared, reward: TermsReward, build: Callable[[Shared, str, Measure], Scorer]) -> None:
        self._reward = reward
        self._terms = {
            name: (measure, build(shared, f"reward.terms.{name}", measure)) for name, measure in reward.terms.items()
        }

    def score(self, candidates: Sequence[Candidate]) -> Scored:
        """See ``Scorer``."""
        values: dict[CandidateKey, dict[str, float]] = {}
        parts: dict[CandidateKey, dict[str, float]] = {}
        skipped: Counter[tuple[str, str]] = Counter()
        tokens, usage = 0, None
        for name, (measure, scorer) in self._terms.items():
            found = scorer.score(candidates)
            tokens += found.tokens
            usage = found.usage or usage
            for (language, why), count in found.skipped.items():
                if why == "gated":  # the same ones in every term
                    skipped[language, why] = count
                else:
                    skipped[language, f"{name}: {why}"] += count
            for score in found.scores:
                values.setdefault(score.key, {})[name] = score.reward
                parts.setdefault(score.key, {}).update(_named(name, measure, score.parts))
        scores = [
            Score(
                key,
                weighted_sum(self._reward, own),
                {**{PART + name: own[name] for name in self._terms}, **parts[key]},
            )
            for key, own in sorted(values.items())
            if len(own) == len(self._terms)
        ]
        return Scored(scores, skipped, tokens, usage)


def _named(name: str, measure: Measure, parts: Mapping[str, float]) -> Mapping[str, float]:
    if isinstance(measure, JudgeMeasure):
        return parts
    return {f"{name}.{part}": value for part, value in parts.items()}
