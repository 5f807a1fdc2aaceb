"""A reward of the user's own: what its function is called with, its trial before a run, and what it may return."""

from __future__ import annotations

import math
import numbers
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from configs.errors import UserError
from configs.measures import CustomMeasure
from configs.plugins import Plugin, load_plugin, typed
from configs.schema import Config
from rollout.gates import passed
from rollout.prompts import PromptSet
from rollout.records import Candidate, CandidateKey, Prompt, Score
from rollout.rewards import scores_of
from rollout.token_ids import TokenIds


class RewardFunction(Protocol):
    """What ``reward.function`` names.

    Called in a reward actor with the answers of a chunk of prompts, all that passed the gates, and nothing else of the
    run; actors are processes of their own, so nothing is shared between calls of different ones. For equal inputs it
    should give equal values, or the run cannot be repeated.
    """

    def __call__(
        self, prompts: Sequence[Prompt], candidates: Sequence[Candidate], **options: object
    ) -> Sequence[float | None]:
        """The reward of each candidate.

        Args:
            prompts: The prompt that each candidate answers, in its language: ``text``, ``answer`` (gold, or None).
            candidates: The answers: ``text``, ``key.language``, ``key.prompt_id``, ``key.sample``, ``token_ids``.
            options: ``reward.options``.

        Returns:
            One number a candidate, finite, higher is better; None for one that cannot be scored, which is then
            counted and left out.
        """
        ...


@dataclass(frozen=True, slots=True)
class LoadedReward:
    """A function with its options, loaded and known to take them."""

    plugin: Plugin
    options: dict[str, object]

    @classmethod
    def load(cls, section: str, measure: CustomMeasure, digest: str | None = None) -> LoadedReward:
        """Import it.

        Raises:
            UserError: It cannot be imported here, has another source than ``digest``, or takes no such options.
        """
        plugin = load_plugin(measure.function, f"{section}.function", "isogloss.rewards", digest)
        plugin.accepts(((), ()), measure.options, f"{section}.options")
        return cls(plugin, measure.options)

    def __call__(
        self, prompts: Sequence[Prompt], candidates: Sequence[Candidate], seconds: float
    ) -> list[float | None]:
        """Its values.

        Raises:
            UserError: It failed, is late, or returned something else than one finite number or None a candidate.
        """
        about = _about(candidates)
        values = self.plugin.run(
            tuple(prompts), tuple(candidates), seconds=seconds, about=about, options=dict(self.options)
        )
        if isinstance(values, str | bytes | dict) or not (hasattr(values, "__len__") and hasattr(values, "__iter__")):
            raise UserError(f"{self.plugin}: returned {typed(values)} for {about}; return one number a candidate")
        if len(values) != len(candidates):
            raise UserError(
                f"{self.plugin}: returned {len(values)} values for {len(candidates)} candidates ({about}); return one "
                "number a candidate, or None"
            )
        return [self._checked(value, one) for value, one in zip(values, candidates, strict=True)]

    def _checked(self, value: object, candidate: Candidate) -> float | None:
        if value is None:
            return None
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise UserError(
                f"{self.plugin}: returned {typed(value)} for {name(candidate.key)}; return a finite number, or None "
                "where there is none"
            )
        return float(value)


def custom_scores(
    reward: LoadedReward, prompts: PromptSet, candidates: Sequence[Candidate], seconds: float
) -> tuple[list[Score], Counter[tuple[str, str]]]:
    """Scores of those that passed the gates.

    Args:
        reward: The function.
        prompts: Training prompts.
        candidates: Of the scored sources (``rollout.sources.scored``).
        seconds: Deadline of the call.

    Returns:
        Scores in the order of ``candidates``; (language, why) -> candidates without one, why is "gated" or "none".
    """
    taken, skipped = passed(candidates)
    if not taken:
        return [], skipped
    asked = [prompts.get(one.key.prompt_id, one.key.language) for one in taken]
    scores, missing = scores_of(taken, reward(asked, taken, seconds), "none")
    return scores, skipped + missing


def try_rewards(config: Config, prompts: PromptSet) -> None:
    """Call each function of the user's own with two candidates, before anything starts.

    Raises:
        UserError: It cannot be used; names the function and the cure.
    """
    for section, measure in config.reward.custom.items():
        reward = LoadedReward.load(section, measure)
        prompt = prompts.get(prompts.ids[0], prompts.languages[0])
        pair = [_trial(prompt, sample) for sample in range(2)]
        reward([prompt, prompt], pair, measure.timeout_s)


def _trial(prompt: Prompt, sample: int) -> Candidate:
    """An answer as it might be sampled; its text is the gold one, or the prompt's."""
    key = CandidateKey(1, prompt.id, prompt.language, "policy", prompt.language, sample)
    return Candidate(key, prompt.answer or prompt.text, TokenIds((0, 0)), "stop", 0)


def name(key: CandidateKey) -> str:
    """A candidate as messages name it, e.g. ``r0001/es/p17/3``."""
    return f"r{key.round:04d}/{key.language}/{key.prompt_id}/{key.sample}"


def _about(candidates: Sequence[Candidate]) -> str:
    first = name(candidates[0].key)
    return first if len(candidates) == 1 else f"{len(candidates)} candidates from {first} to {name(candidates[-1].key)}"
