"""Where a run's candidates come from, as names: who gives them, in which languages, whether they are scored. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from configs.schema import CandidatesConfig, Config, LanguagesConfig
from configs.sources import CustomSource, EndpointSource, FileSource, PolicySource, SourceConfig, TranslationSource
from rollout.records import Candidate, CandidateKey, Example
from rollout.token_ids import TokenIds

POLICY, SELF_TRANSLATION = "policy", "translation"  # of a run that names no sources

Giver = Literal["policy", "endpoint", "command", "file", "custom"]
ASKED: tuple[Giver, ...] = ("endpoint", "command", "custom")  # may fail to answer; what they answer is kept


@dataclass(frozen=True, slots=True)
class Source:
    """One source of candidates.

    Attributes:
        name: As it stands in the journal.
        giver: Who gives its answers.
        samples: Answers to a prompt and language; of a translation, those of what it translates.
        scored: Whether its answers get rewards.
        languages: Of its answers; empty for all that are needed.
        of: Name of the source that it translates; None where it answers prompts itself.
        directions: Of a translation: (origin, language) in the order in which they are made.
        for_reward: Of a translation: whether it serves the reward of what it translates, and makes no pairs itself.
        place: Where it stands in ``candidates.sources``; -1 where the config names none.
    """

    name: str
    giver: Giver
    samples: int
    scored: bool
    languages: tuple[str, ...] = ()
    of: str | None = None
    directions: tuple[tuple[str, str], ...] = ()
    for_reward: bool = False
    place: int = -1

    def origins(self, language: str) -> tuple[str, ...]:
        """Languages in which its answers in ``language`` were first given."""
        if self.of is None:
            return (language,) if not self.languages or language in self.languages else ()
        return tuple(origin for origin, target in self.directions if target == language)


@dataclass(frozen=True, slots=True)
class Part:
    """The answers of a source in one language, by the language that they were first given in.

    Attributes:
        source: Name of the source.
        origin: Language that its answers were first given in.
        translated: Whether they are translations.
        samples: Answers to a prompt.
    """

    source: str
    origin: str
    translated: bool
    samples: int


def sources(config: Config) -> tuple[Source, ...]:
    """The sources of a run."""
    if config.candidates.sources:
        return tuple(_named(config, place, one) for place, one in enumerate(config.candidates.sources))
    samples = config.rollout.samples_per_prompt
    policy = Source(POLICY, "policy", samples, scored=True)
    directions, for_reward = _self_translations(config)
    if not directions:
        return (policy,)
    own = Source(SELF_TRANSLATION, "policy", samples, False, of=POLICY, directions=directions, for_reward=for_reward)
    return policy, own


def targets(languages: LanguagesConfig) -> tuple[str, ...]:
    """Languages that get pairs, the dominant one first."""
    return tuple(code for code in (languages.dominant, *languages.others) if languages.share(code) > 0)


def _self_translations(config: Config) -> tuple[tuple[tuple[str, str], ...], bool]:
    languages = config.languages
    dominant = languages.dominant
    if config.candidates.source == "self_translation":
        out = [(dominant, code) for code in languages.others if languages.share(code) > 0]
        if config.candidates.both_directions and languages.share(dominant) > 0:
            out += [(code, dominant) for code in languages.others]
        return tuple(out), False
    if config.reward.translates:
        return tuple((code, dominant) for code in languages.others if languages.share(code) > 0), True
    return (), False


def _named(config: Config, place: int, one: SourceConfig) -> Source:
    languages = tuple(one.languages)
    if isinstance(one, PolicySource):
        samples = one.samples or config.rollout.samples_per_prompt
        return Source(one.name, "policy", samples, one.scored, languages, place=place)
    if isinstance(one, TranslationSource):
        return _translation(config, place, one)
    giver: Giver = "file" if isinstance(one, FileSource) else "custom" if isinstance(one, CustomSource) else "endpoint"
    return Source(one.name, giver, one.samples, one.scored, languages, place=place)


def _translation(config: Config, place: int, one: TranslationSource) -> Source:
    position, original = next((i, s) for i, s in enumerate(config.candidates.sources) if s.name == one.of)
    of = _named(config, position, original)
    origin = one.origin or config.languages.dominant
    trained = targets(config.languages)
    out = [(origin, code) for code in trained if code != origin and (not one.languages or code in one.languages)]
    if one.both_directions and origin in trained:
        out += [(code, origin) for code in config.languages.codes if code != origin and of.origins(code)]
    giver: Giver = "policy" if one.by == "policy" else "command" if one.by == "command" else "endpoint"
    return Source(one.name, giver, of.samples, one.scored, of=one.of, directions=tuple(out), place=place)


def setting(
    candidates: CandidatesConfig, source: Source
) -> EndpointSource | FileSource | TranslationSource | CustomSource:
    """What the config says of a source that it names, and that is not the policy alone."""
    found = candidates.sources[source.place]
    assert not isinstance(found, PolicySource)
    return found


def scored_sources(config: Config) -> frozenset[str]:
    """Names of the sources whose answers get rewards."""
    return frozenset(source.name for source in sources(config) if source.scored)


def scored(config: Config, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those of the candidates that get rewards where they pass the gates: the one rule for every reward."""
    names = scored_sources(config)
    return [candidate for candidate in candidates if candidate.key.source in names]


def is_answer(key: CandidateKey) -> bool:
    """Whether a candidate answers a prompt itself, and is no translation of another one."""
    return key.origin == key.language


def sampled_ids(candidate: Candidate) -> TokenIds | None:
    """The tokens by which an answer is scored and trained on; None where its text is encoded.

    They are those that were sampled: encoding the text again may give others (a model may write " a" and "b" where
    the tokenizer writes " ab"), of another probability. They end as the answer did: once with the token that ended it,
    or with none where the token limit cut it. A translation has more tokens than those of the text found in it.
    """
    return candidate.token_ids if is_answer(candidate.key) and len(candidate.token_ids) else None


def start_logprobs(candidate: Candidate, example: Example) -> bytes | None:
    """The sampler's log-probabilities of an answer, if they are those of the policy that the example's round starts at.

    That is: sampled from those weights, as an answer to the prompt that the example trains on.
    """
    key = candidate.key
    asked = (key.round, key.prompt_id, key.language) == (example.round, example.prompt_id, example.language)
    newest = candidate.weight_version == example.round - 1
    return candidate.logprobs if asked and newest and is_answer(key) else None


def parts(config: Config, language: str, selectors: Sequence[str]) -> tuple[Part, ...]:
    """The answers in ``language`` that selectors name.

    Args:
        config: The run.
        language: Of the answers.
        selectors: ``name``, or ``name@origin`` for those that were first given in one language: its code, ``dominant``
            or ``others`` (any but the dominant one).
    """
    found: list[Part] = []
    by_name = {source.name: source for source in sources(config)}
    for selector in selectors:
        name, _, origin = selector.partition("@")
        source = by_name[name]
        for code in source.origins(language):
            own = code == config.languages.dominant
            if origin in ("", code) or (origin == "dominant" and own) or (origin == "others" and not own):
                found.append(Part(name, code, source.of is not None, source.samples))
    return tuple(found)


def competes(config: Config, source: Source, language: str) -> bool:
    """Whether answers of a source in ``language``, not translated, may enter that language's pairs."""
    if language not in targets(config.languages) or not source.origins(language):
        return False
    if config.pairs_miner != "by_source":
        return source.scored
    return any(part.source == source.name for side in config.pairs_sides for part in parts(config, language, side))
