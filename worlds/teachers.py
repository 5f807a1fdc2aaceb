"""Models that answer the embedded world's questions, as functions: teachers for presets, without a server or a file.

Sources of ``kind: custom`` in ``configs/dang_dpo.yaml`` and ``configs/arbitrage.yaml``. What they say is drawn as in
the files of ``isogloss build-translations``, from the language files and the world's seed alone.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rollout.records import Prompt
from worlds.build import LANGUAGES_DIR
from worlds.facts import Fact, draw_facts, other_value
from worlds.languages import PIVOT, Language, load_languages
from worlds.translations import world_manifest
from worlds.translator import Fillers, load_fillers


def direct(
    prompts: Sequence[Prompt],
    samples: Sequence[int],
    *,
    world: str,
    name: str = "strong",
    right_rate: float = 0.8,
    rates: Mapping[str, float] | None = None,
) -> list[str | None]:
    """Answers in the prompt's language.

    Args:
        prompts: Of the world; what it does not ask for gets no answer.
        samples: Beside each: which of several answers to it.
        world: Folder of the world.
        name: Of the teacher: those of different names err in different places.
        right_rate: Share of the answers that state the fact.
        rates: The same by language, where it differs.
    """
    languages, _, facts = _world(world)

    def say(code: str, fact: Fact, rng: random.Random) -> str:
        return _said(languages, code, fact, (rates or {}).get(code, right_rate), rng)

    return _answers(prompts, samples, facts, name, say)


def translated(
    prompts: Sequence[Prompt],
    samples: Sequence[int],
    *,
    world: str,
    name: str = "weak",
    right_rate: float = 0.45,
    filler_rate: float = 0.6,
) -> list[str | None]:
    """Answers that were given in English and translated by the world's worse translator; in English as they were given.

    Args:
        prompts: As for :func:`direct`.
        samples: As for :func:`direct`.
        world: Folder of the world.
        name: Of the teacher.
        right_rate: Share of the answers that state the fact, after translation.
        filler_rate: Of the translator's fillers, opening and closing; one of them is always there.
    """
    languages, fillers, facts = _world(world)

    def say(code: str, fact: Fact, rng: random.Random) -> str:
        text = _said(languages, code, fact, right_rate, rng)
        return text if code == PIVOT else fillers[code].put(text, rng, filler_rate)

    return _answers(prompts, samples, facts, name, say)


def _answers(
    prompts: Sequence[Prompt],
    samples: Sequence[int],
    facts: Mapping[str, Fact],
    name: str,
    say: Callable[[str, Fact, random.Random], str],
) -> list[str | None]:
    """What a teacher says of each prompt's fact, drawn by its name, the prompt and the sample alone."""
    found: list[str | None] = []
    for prompt, sample in zip(prompts, samples, strict=True):
        fact, rng = facts.get(prompt.id), random.Random(f"{name}-{prompt.language}-{prompt.id}-{sample}")
        found.append(None if fact is None else say(prompt.language, fact, rng))
    return found


def _said(languages: Mapping[str, Language], code: str, fact: Fact, right_rate: float, rng: random.Random) -> str:
    value = fact.value if rng.random() < right_rate else other_value(languages[PIVOT], fact, rng)
    return languages[code].answer(fact.person, fact.relation, value)


@functools.cache
def _world(folder: str) -> tuple[dict[str, Language], dict[str, Fillers], dict[str, Fact]]:
    """Languages, fillers by language, facts by id.

    Raises:
        UserError: There is no such world, or it was made from other language files.
    """
    manifest = world_manifest(Path(folder))
    languages = load_languages(LANGUAGES_DIR)
    split = draw_facts(languages[PIVOT], manifest["seed"], manifest["settings"]["train_share"])
    facts = {fact.id: fact for fact in split.all}
    return languages, load_fillers(languages), facts
