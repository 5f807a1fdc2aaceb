"""What the sources of candidates need of one another and of the rest of a config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from configs.errors import shortened
from configs.sources import CustomSource, EndpointSource, FileSource, PolicySource, SourceConfig, TranslationSource

if TYPE_CHECKING:
    from configs.schema import Config


def check_sources(config: Config) -> None:
    """Refuse sources that cannot be asked, or whose answers would go nowhere.

    Raises:
        ValueError: Names the field and the cure.
    """
    sources = config.candidates.sources
    _check_temperatures(config)
    if not sources:
        if config.endpoints and config.offline.path is None:
            raise ValueError("endpoints: no source of candidates.sources asks one; name them there, or remove them")
        return
    if config.candidates.source != "policy":
        raise ValueError(
            f"candidates.source: {config.candidates.source} stands beside candidates.sources, which replaces it; "
            "remove one of them"
        )
    names = [source.name for source in sources]
    for place, source in enumerate(sources):
        where = f"candidates.sources.{place}"
        if names.index(source.name) != place:
            raise ValueError(f"{where}.name: '{source.name}' is named twice; give each source its own name")
        for code in source.languages:
            if code not in config.languages.codes:
                raise ValueError(f"{where}.languages: '{code}' is not in languages.codes; add it there or remove it")
            if source.languages.count(code) > 1:
                raise ValueError(f"{where}.languages: '{code}' is named twice; name it once")
        if isinstance(source, EndpointSource):
            _check_endpoint(config, f"{where}.endpoint", source.endpoint)
        if isinstance(source, TranslationSource):
            _check_translation(config, where, source)
    if sum(isinstance(source, PolicySource) for source in sources) > 1:
        raise ValueError("candidates.sources: two of kind policy; one is enough, raise its samples")
    used = {one.endpoint for one in sources if isinstance(one, EndpointSource)}
    used |= {one.by for one in sources if isinstance(one, TranslationSource)}
    for name in config.endpoints:
        if name not in used:
            raise ValueError(f"endpoints.{name}: no source asks it; name it in one, or remove it")
    _check_agree(config, sources)


def _check_temperatures(config: Config) -> None:
    """Of a prompt's samples one at most is greedy: others would be equal to it."""
    rollout, sources = config.rollout, config.candidates.sources
    if not rollout.temperatures:
        return
    own = [one.samples or rollout.samples_per_prompt for one in sources if isinstance(one, PolicySource)]
    if sources and not own:
        raise ValueError("rollout.temperatures: no source of candidates.sources is the policy; remove it")
    samples = own[0] if own else rollout.samples_per_prompt
    rounds, rest = divmod(samples, len(rollout.temperatures))
    greedy = rounds * rollout.temperatures.count(0) + rollout.temperatures[:rest].count(0)
    if greedy > 1:
        raise ValueError(
            f"rollout.temperatures: {greedy} of {samples} samples would be greedy, and so equal; name 0 once, in a "
            "list as long as a prompt has samples"
        )


def _check_endpoint(config: Config, field: str, name: str) -> None:
    if name not in config.endpoints:
        known = ", ".join(config.endpoints) or "none"
        raise ValueError(f"{field}: '{shortened(name)}' is not in endpoints (there: {known}); add it there")
    limit = config.cluster.call_timeout_s
    if config.endpoints[name].deadline_s > limit:
        raise ValueError(
            f"endpoints.{name}.deadline_s: {config.endpoints[name].deadline_s:g} is above cluster.call_timeout_s "
            f"{limit:g}; lower it or raise that"
        )


def _check_translation(config: Config, where: str, source: TranslationSource) -> None:
    by_name = {one.name: one for one in config.candidates.sources}
    if source.of not in by_name:
        raise ValueError(f"{where}.of: '{shortened(source.of)}' is no source of this run; it has {', '.join(by_name)}")
    original = by_name[source.of]
    if isinstance(original, TranslationSource):
        raise ValueError(f"{where}.of: '{source.of}' is a translation itself; translate what it translates")
    origin = source.origin or config.languages.dominant
    if origin not in config.languages.codes:
        raise ValueError(f"{where}.origin: '{origin}' is not in languages.codes; add it there or name another")
    if original.languages and origin not in original.languages:
        raise ValueError(
            f"{where}.origin: '{source.of}' gives no answers in '{origin}' (its languages: "
            f"{', '.join(original.languages)}); add it there, or set origin"
        )
    if source.by not in ("policy", "command"):
        _check_endpoint(config, f"{where}.by", source.by)


def _check_agree(config: Config, sources: list[SourceConfig]) -> None:
    if config.learner.on_groups and [source.kind for source in sources] != ["policy"]:
        raise ValueError(
            f"candidates.sources: learner.objective {config.learner.objective} learns from the policy's own answers "
            "alone; name kind policy and no other"
        )
    if config.reward.translates:
        raise ValueError("reward.prompt: translated makes translations of its own; it does not go with sources")
    if config.candidates.untranslated_ids is not None:
        raise ValueError("candidates.untranslated_ids: is for candidates.source self_translation; remove it")
    if config.scores and not any(source.scored for source in sources):
        raise ValueError("candidates.sources: none is scored; score one, or set reward.kind cross_language")
    if config.pairs_miner != "by_source" and _most_scored(config, sources) < 2:
        raise ValueError(
            f"candidates.sources: miner {config.pairs_miner} needs at least 2 scored candidates a prompt; raise samples"
        )


def _most_scored(config: Config, sources: list[SourceConfig]) -> int:
    total = 0
    for source in sources:
        if not source.scored:
            continue
        if isinstance(source, PolicySource):
            total += source.samples or config.rollout.samples_per_prompt
        elif isinstance(source, EndpointSource | FileSource | CustomSource):
            total += source.samples
        else:
            total += 1
    return total
