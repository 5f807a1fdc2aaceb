"""From scored candidates to preference pairs. Every prompt that gives none is counted, by language and reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from configs.schema import Config, LanguagesConfig, PairsConfig
from rollout.anchors import Anchor, anchor_pairs
from rollout.assignment import Assignment, assigned, wanted_pairs
from rollout.length_control import Fit
from rollout.miners import Choice, Miner, PromptGroup, make_miner
from rollout.miners.pools import Counters, by_prompt, pooled, scored_groups, unscored_groups, usable_sources
from rollout.prompts import PromptSet
from rollout.records import Candidate, CandidateKey, Example, Pair, SampleGroup, Score
from rollout.rewards import FLUENCY, round_rewards
from rollout.seeds import stable_seed
from rollout.sources import targets

E = TypeVar("E", bound=Example)

ALL = "all"  # where refusals of pooled languages are counted


@dataclass(frozen=True)
class MinedPairs:
    """The pairs (or, for RLOO, sample groups) of a round and how they came about.

    Attributes:
        pairs: Sorted by id; mined ones, replayed ones and anchors.
        counters: language -> reason -> count; "pairs" and "groups" are those kept, every other name is a refusal.
        alphas: language -> length control (implicit reward only).
        lengths: language -> means over the kept mined pairs: "chosen_characters", "rejected_characters",
            "chosen_tokens", "rejected_tokens" (end of turn included), "margin" (chosen less rejected score). Over
            sample groups: "answers" a group, "characters" and "tokens" an answer.
        groups: Sorted by id.
        agreement: language -> "compared" pairs whose sides the sources decided, of them those in which the reward is
            "disagreeing"; nothing where the reward decides.
    """

    pairs: tuple[Pair, ...]
    counters: dict[str, dict[str, int]]
    alphas: dict[str, Fit] = field(default_factory=dict)
    lengths: dict[str, dict[str, float]] = field(default_factory=dict)
    groups: tuple[SampleGroup, ...] = ()
    agreement: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def new_by_language(self) -> dict[str, int]:
        """Examples that this round's candidates gave, without replayed ones and anchors."""
        found: Counter[str] = Counter(group.language for group in self.groups)
        found.update(pair.language for pair in self.pairs if pair.source == "mined")
        return dict(found)

    @property
    def examples(self) -> tuple[Example, ...]:
        """What is trained on: one of the two kinds."""
        return self.groups or self.pairs


def mine_pairs(
    config: Config,
    prompts: PromptSet,
    round_number: int,
    candidates: Sequence[Candidate],
    scores: Sequence[Score],
    *,
    anchors: tuple[Anchor, ...] = (),
    untranslated: frozenset[str] = frozenset(),
    earlier: Sequence[Pair] = (),
    assignment: Assignment | None = None,
) -> MinedPairs:
    """All pairs of a round.

    Args:
        config: The run.
        prompts: Training prompts.
        round_number: From 1.
        candidates: All of the round, judged by the gates, in any order.
        scores: Rewards of the gate-ok ones, in any order; not used where the run scores nothing.
        anchors: All anchors of the run.
        untranslated: Ids of prompts about translation.
        earlier: Pairs of the rounds that ``pairs.replay`` draws from.
        assignment: The round's prompts; None for those of a round without a quota.
    """
    assignment = assignment or assigned(config, prompts, round_number)
    rewards = round_rewards(config, scores)
    mining = _Mining(config, prompts, {score.key: score.reward for score in rewards})
    fluency = {score.key: score.parts[FLUENCY] for score in scores} if config.pairs.fluency_floor else None
    languages = targets(config.languages)
    gates, names = usable_sources(config)
    if config.scores:
        candidates = [candidate for candidate in candidates if candidate.key in mining.values]
    grouped = by_prompt(candidates, gates, names)
    groups: list[PromptGroup] = []
    for language in languages:
        ids = assignment.ids(language)
        if config.scores:
            own = grouped.get(language, {})
            found, alpha = scored_groups(
                config,
                round_number,
                language,
                ids,
                own,
                values=mining.values,
                counters=mining.counters,
                fluency=fluency,
            )
            if alpha is not None:
                mining.alphas[language] = alpha
        else:
            found = unscored_groups(config.languages, language, ids, grouped, untranslated)
        groups += found
    if config.pairs.pool == "all":
        mining.mine(ALL, make_miner(config, ""), pooled(groups, languages))
    else:
        for language in languages:
            mining.mine(language, make_miner(config, language), [g for g in groups if g.language == language])
    mined = mining.kept(round_number, languages)
    replayed = replayed_pairs(config, round_number, earlier, len(mined))
    for pair in replayed:
        mining.counters.add(pair.language, "replayed_pairs")
    drawn = anchor_pairs(config, anchors, round_number)
    for pair in drawn:
        mining.counters.add(pair.language, "anchor_pairs")
    pairs = tuple(sorted([*mined, *replayed, *drawn], key=lambda pair: pair.id))
    lengths = _lengths(mined, {candidate.key: candidate for candidate in candidates})
    return MinedPairs(pairs, dict(mining.counters), mining.alphas, lengths, agreement=mining.agreement)


class _Mining:
    """What accumulates over the languages of a round."""

    def __init__(self, config: Config, prompts: PromptSet, values: dict[CandidateKey, float]) -> None:
        self._config = config
        self._prompts = prompts
        self._pairs: list[Pair] = []
        self.values = values
        self.counters = Counters()
        self.alphas: dict[str, Fit] = {}
        self.agreement: dict[str, dict[str, int]] = {}

    def mine(self, counted: str, miner: Miner, groups: Sequence[PromptGroup]) -> None:
        """Take the pairs of some prompts; refusals are counted under ``counted``."""
        compared = disagreeing = 0
        for group in groups:
            found = miner(group)
            for reason, count in found.refused.items():
                self.counters.add(counted, reason, count)
            compared += found.compared
            disagreeing += found.disagreeing
            self._pairs += [self._pair(group, choice) for choice in found.choices]
        if compared:
            self.agreement[counted] = {"compared": compared, "disagreeing": disagreeing}

    def kept(self, round_number: int, languages: Sequence[str]) -> list[Pair]:
        """The pairs within each language's share or quota."""
        mined: list[Pair] = []
        for language in languages:
            found = [pair for pair in self._pairs if pair.language == language]
            kept = in_share(self._config, round_number, language, found)
            self.counters.add(language, left_by(self._config.languages), len(found) - len(kept))
            self.counters.add(language, "pairs", len(kept))
            mined += kept
        return mined

    def _pair(self, group: PromptGroup, choice: Choice) -> Pair:
        chosen, rejected = group.candidates[choice.chosen], group.candidates[choice.rejected]
        language = group.language or chosen.key.language
        scored = bool(group.rewards)
        name = f"r{chosen.key.round:04d}/{language}/{group.prompt_id}{choice.suffix}"
        # There are no scores to permute where the sources decide the sides: the control permutes the sides.
        if self._config.reward.shuffle and not scored and stable_seed("shuffle", self._config.run.seed, name) % 2:
            chosen, rejected = rejected, chosen
        versions = [one.weight_version for one in (chosen, rejected) if one.weight_version is not None]
        return Pair(
            id=name,
            round=chosen.key.round,
            prompt_id=group.prompt_id,
            language=language,
            source="mined",
            prompt=self._prompts.get(group.prompt_id, language).turns,
            chosen=chosen.text,
            rejected=rejected.text,
            chosen_score=group.rewards[choice.chosen] if scored else 1.0,
            rejected_score=group.rewards[choice.rejected] if scored else 0.0,
            weight_version=min(versions, default=0),  # what no policy of the run wrote is never stale
            chosen_key=chosen.key,
            rejected_key=rejected.key,
        )


def in_share(config: Config, round_number: int, language: str, examples: Sequence[E]) -> list[E]:
    """A seeded subset: as many as the language's quota, else ``share * len(examples)``, rounded half up.

    A larger share or quota is a superset. Under ``languages.mix`` all are kept: fewer prompts were sampled for.
    """
    if config.languages.quota is not None:
        count = wanted_pairs(config).get(language, 0)
    elif config.languages.mix is not None:
        count = len(examples)
    else:
        count = int(config.languages.share(language) * len(examples) + 0.5)
    return sorted(examples, key=lambda one: stable_seed("share", config.run.seed, round_number, language, one.id))[
        :count
    ]


def left_by(languages: LanguagesConfig) -> str:
    """What examples beyond those of :func:`in_share` are counted as."""
    return "share" if languages.quota is None else "quota"


def replayed_rounds(pairs: PairsConfig, round_number: int) -> range:
    """Earlier rounds whose mined pairs may be trained on again in ``round_number``."""
    return range(max(1, round_number - pairs.replay.rounds), round_number)


def replayed_pairs(config: Config, round_number: int, earlier: Sequence[Pair], new: int) -> list[Pair]:
    """Mined pairs of earlier rounds, ``pairs.replay.share`` of all together with ``new`` new ones.

    A seeded draw without replacement; fewer where there are fewer. Their scores and the weight version that they were
    sampled with stay; log-probabilities under the loss reference are computed anew, as that may have moved.
    """
    share, rounds = config.pairs.replay.share, replayed_rounds(config.pairs, round_number)
    if share == 0:
        return []
    known = [pair for pair in earlier if pair.source == "mined" and pair.round in rounds]
    count = min(int(new * share / (1 - share) + 0.5), len(known))
    drawn = sorted(known, key=lambda pair: stable_seed("replay", config.run.seed, round_number, pair.id))[:count]
    return [
        replace(
            pair,
            id=f"r{round_number:04d}/replay/{pair.id}",
            round=round_number,
            source="replay",
            reference_chosen=None,
            reference_rejected=None,
        )
        for pair in drawn
    ]


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
