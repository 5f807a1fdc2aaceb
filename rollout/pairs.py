"""From scored candidates to preference pairs. Every prompt that gives none is counted, by language and reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeGuard, TypeVar

import numpy as np

from configs.schema import Config
from rollout.anchors import Anchor, anchor_pairs
from rollout.cursor import round_prompt_ids
from rollout.language import answer_part, normalised
from rollout.length_control import Fit, Group, as_arrays, choose, fit
from rollout.plan import answer_languages
from rollout.prompts import PromptSet
from rollout.records import Candidate, CandidateKey, Example, Pair, SampleGroup, Score
from rollout.rewards import shuffle_scores
from rollout.seeds import stable_seed

E = TypeVar("E", bound=Example)


@dataclass(frozen=True)
class MinedPairs:
    """The pairs (or, for RLOO, sample groups) of a round and how they came about.

    Attributes:
        pairs: Sorted by id; mined ones and anchors.
        counters: language -> reason -> count; "pairs" and "groups" are those kept, every other name is a refusal.
        alphas: language -> length control (implicit reward only).
        lengths: language -> means over the kept mined pairs: "chosen_characters", "rejected_characters",
            "chosen_tokens", "rejected_tokens" (end of turn included), "margin" (chosen less rejected score). Over
            sample groups: "answers" a group, "characters" and "tokens" an answer.
        groups: Sorted by id.
    """

    pairs: tuple[Pair, ...]
    counters: dict[str, dict[str, int]]
    alphas: dict[str, Fit] = field(default_factory=dict)
    lengths: dict[str, dict[str, float]] = field(default_factory=dict)
    groups: tuple[SampleGroup, ...] = ()

    @property
    def examples(self) -> tuple[Example, ...]:
        """What is trained on: one of the two kinds."""
        return self.groups or self.pairs


class Counters(dict[str, dict[str, int]]):
    """language -> reason -> count."""

    def add(self, language: str, reason: str, count: int = 1) -> None:
        """Count; nothing is noted for 0."""
        if count:
            of_language = self.setdefault(language, {})
            of_language[reason] = of_language.get(reason, 0) + count


def mine_pairs(
    config: Config,
    prompts: PromptSet,
    round: int,
    candidates: Sequence[Candidate],
    scores: Sequence[Score],
    anchors: tuple[Anchor, ...] = (),
    untranslated: frozenset[str] = frozenset(),
) -> MinedPairs:
    """All pairs of a round.

    Args:
        config: The run.
        prompts: Training prompts.
        round: From 1.
        candidates: All of the round, judged by the gates, in any order.
        scores: Rewards of the gate-ok ones, in any order; not used by ``cross_language``.
        anchors: All anchors of the run.
        untranslated: Ids of prompts about translation (``cross_language`` only).
    """
    ids = round_prompt_ids(prompts.ids, round, config.rollout.prompts_per_round, config.run.seed)
    counters = Counters()
    alphas: dict[str, Fit] = {}
    mined: list[Pair] = []
    by_key = {c.key: c for c in candidates}
    rewards = shuffle_scores(scores, config.run.seed) if config.reward.shuffle else scores
    values = {score.key: score.reward for score in rewards}
    for language in answer_languages(config):
        if config.languages.share(language) == 0:
            continue
        if config.reward.kind == "cross_language":
            found = _cross_language(config, prompts, round, ids, language, by_key, untranslated, counters)
        else:
            found, alpha = _best_worst(config, prompts, round, ids, language, by_key, values, counters)
            if alpha is not None:
                alphas[language] = alpha
        kept = in_share(config, round, language, found)
        counters.add(language, "share", len(found) - len(kept))
        counters.add(language, "pairs", len(kept))
        mined += kept
    replayed = anchor_pairs(config, anchors, round)
    for pair in replayed:
        counters.add(pair.language, "anchor_pairs")
    pairs = tuple(sorted(mined + replayed, key=lambda pair: pair.id))
    return MinedPairs(pairs, dict(counters), alphas, _lengths(mined, by_key))


def _best_worst(
    config: Config,
    prompts: PromptSet,
    round: int,
    ids: Sequence[str],
    language: str,
    by_key: dict[CandidateKey, Candidate],
    values: dict[CandidateKey, float],
    counters: Counters,
) -> tuple[list[Pair], Fit | None]:
    """Highest against lowest reward of each prompt (ICR, arXiv 2503.04647), gated and deduplicated.

    The released code lets truncated candidates compete, and falls back to the first one where all are above the bound.
    """
    usable = distinct_answers(ids, language, by_key, values, counters)
    alpha = fit_length(config, round, usable, values)
    if not usable:
        return [], alpha
    groups = _scored(config, usable, values)
    bound = config.reward.bound(round)
    rewards, lengths = as_arrays(groups)
    adjusted = rewards - (alpha.alpha if alpha else 0.0) * lengths
    best, worst, paired = choose(adjusted, bound)
    pairs: list[Pair] = []
    for row, group in enumerate(usable):
        high, low = float(adjusted[row, best[row]]), float(adjusted[row, worst[row]])
        if not paired[row] or high - low < config.pairs.min_margin:
            barred = bound is not None and bool(np.nanmax(adjusted[row]) >= bound)
            counters.add(language, "above_bound" if barred else "no_margin")
            continue
        pairs.append(_pair(prompts, language, group[int(best[row])], group[int(worst[row])], high, low))
    return pairs, alpha


def distinct_answers(
    ids: Sequence[str],
    language: str,
    by_key: dict[CandidateKey, Candidate],
    values: dict[CandidateKey, float],
    counters: Counters,
) -> list[list[Candidate]]:
    """Scored answers of each prompt that differ, at least two, by sample; prompts that lack them are counted."""
    grouped: dict[str, list[Candidate]] = {}
    for key in sorted(k for k in values if k.language == language and k.source == "policy"):
        if by_key[key].gate == "ok":
            grouped.setdefault(key.prompt_id, []).append(by_key[key])
    usable: list[list[Candidate]] = []
    for prompt_id in ids:
        group = grouped.get(prompt_id, [])
        distinct = list({_compared(c): c for c in reversed(group)}.values())[::-1]  # the first of equal texts
        if not group:
            counters.add(language, "no_candidates")
        elif len(group) == 1:
            counters.add(language, "single_candidate")
        elif len(distinct) == 1:
            counters.add(language, "equal_text")
        else:
            usable.append(distinct)
    return usable


def fit_length(
    config: Config, round: int, usable: Sequence[list[Candidate]], values: dict[CandidateKey, float]
) -> Fit | None:
    """The length control of a language's round; None where there is none (it is the implicit reward's)."""
    control = config.reward.length_control
    if config.reward.kind != "implicit" or not control.enabled:
        return None
    return fit(_scored(config, usable, values), control, config.reward.bound(round))


def _scored(config: Config, usable: Sequence[list[Candidate]], values: dict[CandidateKey, float]) -> list[Group]:
    unit = config.reward.length_control.unit
    return [Group(tuple(values[c.key] for c in group), tuple(length_of(c, unit) for c in group)) for group in usable]


def _cross_language(
    config: Config,
    prompts: PromptSet,
    round: int,
    ids: Sequence[str],
    language: str,
    by_key: dict[CandidateKey, Candidate],
    untranslated: frozenset[str],
    counters: Counters,
) -> list[Pair]:
    """The stronger language's answer against the weaker one's (LIDR, arXiv 2410.08964).

    All pairs of the dominant language are kept, one for each other language; the released code keeps the last one only.
    """
    dominant = config.languages.dominant
    both = config.candidates.both_directions
    others = (config.languages.others if both else []) if language == dominant else [dominant]
    pairs: list[Pair] = []
    for prompt_id in ids:
        about_translation = prompt_id in untranslated
        for other in others:
            seen: set[tuple[str, str]] = set()
            for sample in range(config.rollout.samples_per_prompt):
                own = by_key.get(CandidateKey(round, prompt_id, language, "policy", language, sample))
                if not about_translation:
                    foreign = by_key.get(CandidateKey(round, prompt_id, language, "translation", other, sample))
                elif language == dominant:
                    # The other language's answer, were it translated, would no longer be a translation task's answer.
                    counters.add(language, "about_translation")
                    continue
                else:
                    foreign = by_key.get(CandidateKey(round, prompt_id, dominant, "policy", dominant, sample))
                if not _passed(own):
                    counters.add(language, "no_answer")
                elif not _passed(foreign):
                    counters.add(language, "no_translation")
                elif _compared(own) == _compared(foreign):
                    counters.add(language, "equal_text")
                elif (_compared(own), _compared(foreign)) in seen:
                    counters.add(language, "equal_pair")
                else:
                    seen.add((_compared(own), _compared(foreign)))
                    chosen, rejected = (own, foreign) if language == dominant else (foreign, own)
                    pairs.append(_pair(prompts, language, chosen, rejected, 1.0, 0.0, f"/{other}/{sample:03d}"))
    return pairs


def _compared(candidate: Candidate) -> str:
    return normalised(answer_part(candidate.text))


def _passed(candidate: Candidate | None) -> TypeGuard[Candidate]:
    """A duplicate passes: its equal is another sample's answer, and here samples are matched one to one."""
    return candidate is not None and candidate.gate in ("ok", "duplicate")


def _pair(
    prompts: PromptSet,
    language: str,
    chosen: Candidate,
    rejected: Candidate,
    chosen_score: float,
    rejected_score: float,
    suffix: str = "",
) -> Pair:
    prompt_id = chosen.key.prompt_id
    return Pair(
        id=f"r{chosen.key.round:04d}/{language}/{prompt_id}{suffix}",
        round=chosen.key.round,
        prompt_id=prompt_id,
        language=language,
        source="mined",
        prompt=prompts.get(prompt_id, language).text,
        chosen=chosen.text,
        rejected=rejected.text,
        chosen_score=chosen_score,
        rejected_score=rejected_score,
        weight_version=min(chosen.weight_version, rejected.weight_version),
        chosen_key=chosen.key,
        rejected_key=rejected.key,
    )


def length_of(candidate: Candidate, unit: str) -> int:
    """Characters or tokens of an answer (``reward.length_control.unit``)."""
    return len(answer_part(candidate.text)) if unit == "characters" else len(candidate.token_ids)


def in_share(config: Config, round: int, language: str, examples: Sequence[E]) -> list[E]:
    """A seeded subset of ``share * len(examples)``, rounded half up; a larger share is a superset."""
    count = int(config.languages.share(language) * len(examples) + 0.5)
    return sorted(examples, key=lambda one: stable_seed("share", config.run.seed, round, language, one.id))[:count]


def _lengths(pairs: Sequence[Pair], by_key: dict[CandidateKey, Candidate]) -> dict[str, dict[str, float]]:
    out: dict[str, dict[str, float]] = {}
    for language in sorted({pair.language for pair in pairs}):
        own = [pair for pair in pairs if pair.language == language]
        means: dict[str, float] = {"margin": sum(p.chosen_score - p.rejected_score for p in own) / len(own)}
        for side in ("chosen", "rejected"):
            keys = [pair.chosen_key if side == "chosen" else pair.rejected_key for pair in own]
            candidates = [by_key[key] for key in keys if key is not None]
            means[f"{side}_characters"] = sum(len(c.text) for c in candidates) / len(own)
            means[f"{side}_tokens"] = sum(len(c.token_ids) for c in candidates) / len(own)
        out[language] = means
    return out
