"""From a round's candidates to what a miner sees: the usable ones of each prompt. What is not usable is counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from operator import attrgetter

import numpy as np

from configs.schema import Config, LanguagesConfig, RewardConfig
from rollout.language import answer_part
from rollout.length_control import Fit, Group, fit
from rollout.miners.group import PromptGroup, Slot, text_compared
from rollout.records import Candidate, CandidateKey
from rollout.sources import POLICY, SELF_TRANSLATION, parts, scored_sources

# A key's own order; as tuples they are compared without a call in Python each time.
_BY_KEY = attrgetter(*(f"key.{field.name}" for field in fields(CandidateKey)))


class Counters(dict[str, dict[str, int]]):
    """language -> reason -> count."""

    def add(self, language: str, reason: str, count: int = 1) -> None:
        """Count; nothing is noted for 0."""
        if count:
            of_language = self.setdefault(language, {})
            of_language[reason] = of_language.get(reason, 0) + count


def by_prompt(
    candidates: Sequence[Candidate], gates: Sequence[str], names: frozenset[str]
) -> dict[str, dict[str, list[Candidate]]]:
    """Language -> prompt id -> its candidates with one of these gates, of the sources ``names``, sorted by key."""
    found: dict[str, dict[str, list[Candidate]]] = {}
    for candidate in sorted(candidates, key=_BY_KEY):
        if candidate.gate in gates and candidate.key.source in names:
            found.setdefault(candidate.key.language, {}).setdefault(candidate.key.prompt_id, []).append(candidate)
    return found


def distinct_answers(
    ids: Sequence[str],
    language: str,
    grouped: Mapping[str, Sequence[Candidate]],
    counters: Counters,
    at_least: int = 2,
) -> list[list[Candidate]]:
    """Answers of each prompt that differ, by key; prompts with fewer than ``at_least`` are counted and left out."""
    usable: list[list[Candidate]] = []
    for prompt_id in ids:
        group = grouped.get(prompt_id, ())
        distinct = list({text_compared(c): c for c in reversed(group)}.values())[::-1]  # the first of equal texts
        if not group:
            counters.add(language, "no_candidates")
        elif len(distinct) >= at_least:
            usable.append(distinct)
        else:
            counters.add(language, "single_candidate" if len(group) == 1 else "equal_text")
    return usable


def fit_length(
    reward: RewardConfig, round_number: int, usable: Sequence[Sequence[Candidate]], values: Mapping[CandidateKey, float]
) -> Fit | None:
    """The length control of a language's round; None where there is none (it is the implicit reward's)."""
    control = reward.lengths
    if not control.enabled:
        return None
    groups = [
        Group(tuple(values[c.key] for c in group), tuple(length_of(c, control.unit) for c in group)) for group in usable
    ]
    return fit(groups, control, reward.bound(round_number))


def length_of(candidate: Candidate, unit: str) -> int:
    """Characters or tokens of an answer (``reward.length_control.unit``)."""
    return len(answer_part(candidate.text)) if unit == "characters" else len(candidate.token_ids)


def scored_groups(
    config: Config,
    round_number: int,
    language: str,
    ids: Sequence[str],
    grouped: Mapping[str, Sequence[Candidate]],
    *,
    values: Mapping[CandidateKey, float],
    counters: Counters,
    fluency: Mapping[CandidateKey, float] | None = None,
) -> tuple[list[PromptGroup], Fit | None]:
    """Groups with rewards, each less its length's share, and the length control that said how much that is.

    Args:
        config: The run.
        round_number: From 1.
        language: Of the prompts and the answers.
        ids: Prompts of the language in this round.
        grouped: Prompt id -> its scored candidates that passed the gates (:func:`by_prompt`).
        values: Rewards.
        counters: Gets the prompts that are left out.
        fluency: Own likelihoods, nats a token, where the run has ``pairs.fluency_floor``.
    """
    if config.pairs_miner == "by_source":
        named = {(p.source, p.origin) for side in config.pairs_sides for p in parts(config, language, side)}
        usable = []
        for prompt_id in ids:
            group = [c for c in grouped.get(prompt_id, ()) if (c.key.source, c.key.origin) in named]
            if group:
                usable.append(group)
            else:
                counters.add(language, "no_candidates")
    else:
        usable = distinct_answers(ids, language, grouped, counters, 1 if config.pairs.pool == "all" else 2)
    alpha = fit_length(config.reward, round_number, usable, values)
    bound = config.reward.bound(round_number)
    weight, unit = alpha.alpha if alpha else 0.0, config.reward.lengths.unit
    groups = [
        PromptGroup(
            group[0].key.prompt_id,
            language,
            tuple(group),
            tuple(values[c.key] - weight * length_of(c, unit) for c in group),
            bound,
            tuple(Slot(c.key.source, c.key.origin, c.key.sample) for c in group),
            barred=_barred([fluency[c.key] for c in group], config.pairs.fluency_floor) if fluency else (),
        )
        for group in usable
    ]
    return groups, alpha


def _barred(fluency: Sequence[float], floor: float) -> tuple[bool, ...]:
    """Which candidates lie below the quantile ``floor`` of their prompt's; never all of them."""
    least = float(np.quantile(np.array(fluency), floor))
    return tuple(value < least for value in fluency)


def pooled(groups: Sequence[PromptGroup], languages: Sequence[str]) -> list[PromptGroup]:
    """The groups of all languages of each prompt as one, in the order of ``languages``."""
    found: dict[str, list[PromptGroup]] = {}
    place = {code: index for index, code in enumerate(languages)}
    for group in sorted(groups, key=lambda one: place[one.language]):
        found.setdefault(group.prompt_id, []).append(group)
    return [
        replace(
            members[0],
            language="",
            candidates=tuple(c for one in members for c in one.candidates),
            rewards=tuple(r for one in members for r in one.rewards),
            slots=tuple(s for one in members for s in one.slots),
            barred=tuple(b for one in members for b in one.barred),
        )
        for members in found.values()
    ]


def unscored_groups(
    languages: LanguagesConfig,
    language: str,
    ids: Sequence[str],
    grouped: Mapping[str, Mapping[str, Sequence[Candidate]]],
    untranslated: frozenset[str],
) -> list[PromptGroup]:
    """Groups without rewards, where the sources alone decide; a duplicate stays, as samples are matched one to one.

    A prompt about translation (``untranslated``) has no translated answers. In the dominant language it is blocked: the
    other language's answer, were it translated, would no longer be a translation task's. In the others the dominant
    language's answer stands in for its translation as it is (LIDR, arXiv 2410.08964).
    """
    dominant = languages.dominant
    groups: list[PromptGroup] = []
    for prompt_id in ids:
        candidates = list(grouped.get(language, {}).get(prompt_id, ()))
        about = prompt_id in untranslated
        if about:
            candidates = [c for c in candidates if c.key.source != SELF_TRANSLATION]
        slots = [Slot(c.key.source, c.key.origin, c.key.sample) for c in candidates]
        if about and language != dominant:
            own = [c for c in grouped.get(dominant, {}).get(prompt_id, ()) if c.key.source == POLICY]
            candidates += own
            slots += [Slot(SELF_TRANSLATION, dominant, c.key.sample) for c in own]
        blocked = "about_translation" if about and language == dominant else None
        groups.append(PromptGroup(prompt_id, language, tuple(candidates), (), None, tuple(slots), blocked))
    return groups


def usable_sources(config: Config) -> tuple[tuple[str, ...], frozenset[str]]:
    """Gates and sources of the candidates that may enter a pair."""
    if config.scores:
        return ("ok",), scored_sources(config)
    names = frozenset(selector.partition("@")[0] for side in config.pairs_sides for selector in side)
    return ("ok", "duplicate"), names
