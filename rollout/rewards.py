"""What is scored, under which prompt, and the arithmetic of rewards. The log-probabilities come from elsewhere."""

from __future__ import annotations

import math
import random
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from configs.measures import LikelihoodMeasure, LogprobMeasure
from configs.schema import Config, LanguagesConfig
from rollout.gates import passed
from rollout.language import answer_part
from rollout.languages import language_name
from rollout.prompts import PromptSet
from rollout.records import Candidate, CandidateKey, Score, Turns
from rollout.seeds import stable_seed
from rollout.sources import is_answer, sampled_ids, scored
from rollout.templates import crosslingual_instruction, language_instruction
from rollout.terms import combined
from rollout.token_ids import TokenIds


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """A text to be scored under a user turn; ``key`` is the candidate that gets the reward.

    ``baseline`` is another user turn under which the same model scores the same text (``reward.subtract``).
    """

    key: CandidateKey
    prompt: Turns
    text: str
    baseline: Turns | None = None
    token_ids: TokenIds | None = None  # the text as it was sampled; None is to be encoded
    ended: bool = True  # whether the last token is the end of the turn


def reward_prompt(
    languages: LanguagesConfig, measure: LogprobMeasure, prompts: PromptSet, candidate: Candidate
) -> Turns:
    """The user turn under which the reward of a candidate is measured (ICR, arXiv 2503.04647), in its chat.

    crosslingual (R_c): the dominant language's instruction, asking for the candidate's language; the plain one for
    the dominant language itself. native (R_m): the instruction that was answered. translated (R_t): the dominant
    language's instruction, for a candidate that was translated into it.
    """
    dominant = languages.dominant
    key = candidate.key
    kind = measure.prompt
    if kind == "native":
        return prompts.get(key.prompt_id, key.language).turns
    prompt = prompts.get(key.prompt_id, dominant)
    if kind == "translated" or key.language == dominant:
        return prompt.turns
    return prompt.asking(crosslingual_instruction(prompt.text, language_name(key.language, languages.names)))


def baseline_prompt(
    languages: LanguagesConfig, measure: LogprobMeasure, prompts: PromptSet, candidate: Candidate
) -> Turns | None:
    """The user turn whose likelihood is subtracted (``reward.subtract``); None where nothing is."""
    key = candidate.key
    subtract = measure.subtract if isinstance(measure, LikelihoodMeasure) else "none"
    if subtract == "native":
        return prompts.get(key.prompt_id, key.language).turns
    if subtract == "unconditional":
        return language_instruction(language_name(key.language, languages.names))
    return None


def score_requests(
    config: Config, measure: LogprobMeasure, prompts: PromptSet, candidates: Sequence[Candidate]
) -> tuple[list[ScoreRequest], Counter[tuple[str, str]]]:
    """What has to be scored for a reward of log-probabilities, in the order of ``candidates``.

    Only answers of scored sources that passed the gates are scored. With the translated prompt the text is the answer's
    translation, which must have passed the gates too and be among ``candidates``. Answers are scored by their tokens as
    sampled (``rollout.sources.sampled_ids``).

    Returns:
        Requests, and (language, why) -> candidates without one; why is "gated" or "no_translation".
    """
    dominant = config.languages.dominant
    translations = {c.key: c for c in candidates if not is_answer(c.key) and c.gate in ("ok", "duplicate")}
    requests: list[ScoreRequest] = []
    kept, skipped = passed(scored(config, candidates))
    for candidate in kept:
        key = candidate.key
        text, ids = candidate.text, sampled_ids(candidate)
        if measure.prompt == "translated" and key.language != dominant:
            # Two answers may share one translation: a duplicate there is still a translation.
            translation = translations.get(
                CandidateKey(key.round, key.prompt_id, dominant, "translation", key.language, key.sample)
            )
            if translation is None:
                skipped[key.language, "no_translation"] += 1
                continue
            text, ids = translation.text, None
        prompt = reward_prompt(config.languages, measure, prompts, candidate)
        baseline = baseline_prompt(config.languages, measure, prompts, candidate)
        ended = ids is None or candidate.finish_reason == "stop"
        requests.append(ScoreRequest(key, prompt, text, baseline, ids, ended))
    return requests, skipped


def scores_of(
    candidates: Sequence[Candidate], values: Sequence[float | None], missing: str
) -> tuple[list[Score], Counter[tuple[str, str]]]:
    """Values that a model or function gave as scores, with the answer's length beside each.

    Args:
        candidates: What was valued.
        values: One for each; None for an answer without a score.
        missing: Why there is none.

    Returns:
        Scores in the order of ``candidates``, and (language, ``missing``) -> candidates without one.
    """
    pairs = list(zip(candidates, values, strict=True))
    scores = [
        Score(one.key, value, {"length_chars": float(len(one.text))}) for one, value in pairs if value is not None
    ]
    return scores, Counter((one.key.language, missing) for one, value in pairs if value is None)


def implicit_reward(policy_logprob: float, reference_logprob: float) -> float:
    """log p_policy(y|x) - log p_reference(y|x), in nats (ICR, arXiv 2503.04647; DPO's reward with beta 1).

    Args:
        policy_logprob: Sum over all tokens of the answer, the first one and the end-of-turn included.
        reference_logprob: The same under the reward reference.

    Raises:
        ValueError: One is not finite: the forward pass is broken, and arg-max would hide it.
    """
    return _finite_difference(policy_logprob, reference_logprob)


def likelihood_score(
    key: CandidateKey, logprob: float, baseline: float | None, tokens: int, normalise: Literal["sum", "token"]
) -> Score:
    """The score row of the likelihood reward: log p(y|x) [- log p(y|x')], a sum or the mean over tokens, in nats.

    Nearest in the literature: the implicit reward of ICR (arXiv 2503.04647), without its preference-aligned model and
    reference; MAPO (arXiv 2401.06838) takes a translation model's likelihood.

    Args:
        key: Of the candidate.
        logprob: Sum over all tokens of the answer, end of turn included, under the reward prompt.
        baseline: The same under ``reward.subtract``'s prompt; None without one.
        tokens: Of the answer, end of turn included.
        normalise: "sum" or "token".

    Raises:
        ValueError: A log-probability is not finite.
    """
    reward = _finite_difference(logprob, baseline or 0.0)
    parts = {"policy_logprob": logprob} | ({} if baseline is None else {"baseline_logprob": baseline})
    return Score(key, reward / tokens if normalise == "token" else reward, parts)


def _finite_difference(logprob: float, baseline: float) -> float:
    reward = logprob - baseline
    if not math.isfinite(reward):
        raise ValueError(f"log-probabilities {logprob} and {baseline} give no finite reward")
    return reward


FLUENCY = "own_logprob_token"  # of ``Score.parts``: own likelihood under the native prompt, nats a token


def implicit_score(key: CandidateKey, policy_logprob: float, reference_logprob: float) -> Score:
    """The score row of the implicit reward; ``parts`` are the two sums, in nats."""
    return Score(
        key,
        implicit_reward(policy_logprob, reference_logprob),
        {"policy_logprob": policy_logprob, "reference_logprob": reference_logprob},
    )


def normalise_answer(text: str) -> str:
    """NFC, inner white space collapsed, outer white space stripped; case and punctuation count."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def is_correct(text: str, gold: str) -> bool:
    """Whether an answer is the gold answer, after :func:`normalise_answer` of both."""
    return normalise_answer(answer_part(text)) == normalise_answer(gold)


def verifier_scores(prompts: PromptSet, candidates: Sequence[Candidate]) -> list[Score]:
    """1 for each gate-ok candidate that is the gold answer, else 0."""
    scores: list[Score] = []
    for candidate in candidates:
        if candidate.gate != "ok":
            continue
        gold = prompts.get(candidate.key.prompt_id, candidate.key.language).answer
        if gold is None:
            raise ValueError(f"prompt {candidate.key.prompt_id} has no gold answer")
        scores.append(Score(candidate.key, float(is_correct(candidate.text, gold))))
    return scores


def round_rewards(
    config: Config, scores: Sequence[Score], copies: Mapping[CandidateKey, int] | None = None
) -> Sequence[Score]:
    """The rewards that a round is mined with: terms on their scales, and shuffled where that is asked for.

    Args:
        config: The run.
        scores: All of the round, as journaled.
        copies: How often an answer was drawn, where its equals were left out as duplicates; else once.
    """
    found = combined(config.reward, scores, copies)
    return shuffle_scores(found, config.run.seed) if config.reward.shuffle else found


def shuffle_scores(scores: Sequence[Score], seed: int) -> list[Score]:
    """Control: permute the rewards within each (round, prompt, language), so that they carry nothing.

    The marginal distribution of the rewards stays as it is. Depends on the seed and the set of scores, not on
    their order; ``parts`` stay with their candidate, and "unshuffled" keeps its own reward.

    Returns:
        The scores in the order given.
    """
    groups: dict[tuple[int, str, str], list[Score]] = {}
    for score in sorted(scores, key=lambda s: s.key):
        groups.setdefault((score.key.round, score.key.prompt_id, score.key.language), []).append(score)
    rewards: dict[CandidateKey, float] = {}
    for (round_number, prompt_id, language), group in groups.items():
        values = [score.reward for score in group]
        random.Random(stable_seed("shuffle", seed, round_number, prompt_id, language)).shuffle(values)
        rewards.update(zip((score.key for score in group), values, strict=True))
    return [
        replace(score, reward=rewards[score.key], parts={**score.parts, "unshuffled": score.reward}) for score in scores
    ]
