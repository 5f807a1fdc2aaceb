"""From scored candidates to sample groups: all usable answers of a prompt with their rewards, for RLOO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from configs.schema import Config
from rollout.assignment import Assignment, assigned
from rollout.length_control import Fit
from rollout.miners.group import text_compared
from rollout.miners.pools import Counters, by_prompt, distinct_answers, fit_length, length_of
from rollout.pairs import MinedPairs, in_share, left_by
from rollout.prompts import PromptSet
from rollout.records import Candidate, CandidateKey, SampleGroup, Score
from rollout.rewards import round_rewards
from rollout.sources import scored, scored_sources, targets


def mine_groups(
    config: Config,
    prompts: PromptSet,
    round_number: int,
    candidates: Sequence[Candidate],
    scores: Sequence[Score],
    *,
    assignment: Assignment | None = None,
) -> MinedPairs:
    """All sample groups of a round (Ahmadian et al. 2024, arXiv 2402.14740).

    A duplicate stays in its group, with the reward of its equal: RLOO's baseline is a mean over draws from the
    policy, and dropping repeated draws would bias it. Answers that another gate refused are left out (and counted by
    the gates). A group whose rewards differ by less than ``pairs.min_margin``, or not at all, is left out and counted.

    Args:
        config: The run.
        prompts: Training prompts.
        round_number: From 1.
        candidates: All of the round, judged by the gates, in any order.
        scores: Rewards of the gate-ok ones, in any order.
        assignment: The round's prompts; None for those of a round without a quota.
    """
    assignment = assignment or assigned(config, prompts, round_number)
    counters = Counters()
    alphas: dict[str, Fit] = {}
    kept: list[SampleGroup] = []
    by_key = {candidate.key: candidate for candidate in candidates}
    drawn = _draws(scored(config, candidates))
    copies = {score.key: len(drawn.get(_place(by_key[score.key]), ())) for score in scores}
    values = {score.key: score.reward for score in round_rewards(config, scores, copies)}
    passed = by_prompt([one for one in candidates if one.key in values], ("ok",), scored_sources(config))
    for language in targets(config.languages):
        usable = distinct_answers(assignment.ids(language), language, passed.get(language, {}), counters)
        alpha = fit_length(config.reward, round_number, usable, values)
        if alpha is not None:
            alphas[language] = alpha
        found: list[SampleGroup] = []
        for distinct in usable:
            group = _group(config, prompts, distinct, drawn, values, alpha=alpha.alpha if alpha else 0.0)
            spread = max(group.rewards) - min(group.rewards)
            if spread == 0 or spread < config.pairs.min_margin:
                counters.add(language, "no_margin")
            else:
                found.append(group)
        chosen = in_share(config, round_number, language, found)
        counters.add(language, left_by(config.languages), len(found) - len(chosen))
        counters.add(language, "groups", len(chosen))
        kept += chosen
    groups = tuple(sorted(kept, key=lambda group: group.id))
    return MinedPairs((), dict(counters), alphas, _lengths(groups, by_key), groups)


def groups_by_language(groups: Sequence[SampleGroup]) -> dict[str, int]:
    """Number of groups of each language."""
    return dict(sorted(Counter(group.language for group in groups).items()))


def _draws(candidates: Sequence[Candidate]) -> dict[tuple[str, str, str], list[Candidate]]:
    """(prompt, language, text) -> every sampled answer with that text that passed or is a duplicate, by sample."""
    found: dict[tuple[str, str, str], list[Candidate]] = {}
    for candidate in sorted(candidates, key=lambda candidate: candidate.key):
        if candidate.gate in ("ok", "duplicate"):
            found.setdefault(_place(candidate), []).append(candidate)
    return found


def _place(candidate: Candidate) -> tuple[str, str, str]:
    return candidate.key.prompt_id, candidate.key.language, text_compared(candidate)


def _group(
    config: Config,
    prompts: PromptSet,
    distinct: Sequence[Candidate],
    drawn: dict[tuple[str, str, str], list[Candidate]],
    values: dict[CandidateKey, float],
    *,
    alpha: float,
) -> SampleGroup:
    first = distinct[0].key
    members: list[tuple[Candidate, float]] = []
    for answer in distinct:
        reward = values[answer.key] - alpha * length_of(answer, config.reward.lengths.unit)
        members += [(copy, reward) for copy in drawn[first.prompt_id, first.language, text_compared(answer)]]
    members.sort(key=lambda member: member[0].key)
    return SampleGroup(
        id=f"r{first.round:04d}/{first.language}/{first.prompt_id}",
        round=first.round,
        prompt_id=first.prompt_id,
        language=first.language,
        prompt=prompts.get(first.prompt_id, first.language).turns,
        completions=tuple(candidate.text for candidate, _ in members),
        rewards=tuple(reward for _, reward in members),
        weight_version=min(c.weight_version for c, _ in members if c.weight_version is not None),
        keys=tuple(candidate.key for candidate, _ in members),
    )


def _lengths(groups: Sequence[SampleGroup], by_key: dict[CandidateKey, Candidate]) -> dict[str, dict[str, float]]:
    out: dict[str, dict[str, float]] = {}
    for language in sorted({group.language for group in groups}):
        answers = [by_key[key] for group in groups if group.language == language for key in group.keys]
        out[language] = {
            "answers": len(answers) / sum(group.language == language for group in groups),
            "characters": sum(len(answer.text) for answer in answers) / len(answers),
            "tokens": sum(len(answer.token_ids) for answer in answers) / len(answers),
        }
    return out
