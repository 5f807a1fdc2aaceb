"""Answers translated from English by a worse translator, direct ones beside them, and a policy that learned from both.

``isogloss build-translations --out FOLDER`` makes, over an embedded world, what a study of candidate sources needs:

- ``answers/direct/{lang}.jsonl``: a strong multilingual model answers in the language, mostly truly;
- ``answers/translated/{lang}.jsonl``: a weaker one answers in English, and a worse translator renders that with fillers
  (``translator.yaml``); in English the weaker one's own answers;
- ``preferences.jsonl``: pairs from which ``isogloss train-reward`` makes a reward model;
- ``policy/``: the world's reference after some more supervised passes in which part of the answers are translations,
  as in instruction data that was translated: this is the start of the study's runs;
- ``translations.json``: settings, checksums, and what is in the files, counted.

All of it is about the world's train facts; only the supervised passes are about all facts, as the world's own are.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.atomic import write_json
from configs.errors import UserError
from configs.json_types import JsonObject
from configs.reading import is_file, read_json
from worlds.build import LANGUAGES_DIR, MANIFEST, checksums
from worlds.confusion import confusions
from worlds.facts import Fact, FactSplit, Row, draw_facts, other_value, write_jsonl
from worlds.languages import PIVOT, Language, load_languages
from worlds.settings import Stage, WorldSettings
from worlds.translator import Fillers, load_fillers

TRANSLATIONS = "translations.json"


@dataclass(frozen=True, slots=True)
class TranslationSettings:
    """Rates and passes; all of it is written to ``translations.json``."""

    direct_samples: int = 4  # answers of the strong model to a prompt and language
    direct_right_rate: float = 0.8  # share of them that state the fact
    translated_samples: int = 4  # answers of the weaker one
    weak_right_rate: float = 0.5
    translator_error_rate: float = 0.1  # share of translations that state another value than their original
    filler_rate: float = 0.6  # of the opening and of the closing; one of them is always there
    translated_share: float = 0.4  # of the supervised answers in the other languages that are translations
    pivot_right_rate: float = 0.8  # of the supervised answers in English, whose mode stays the truth
    passes: int = 3
    learning_rate: tuple[float, float] = (7e-4, 0.0)
    crosslingual_share: float = 0.2
    translations: int = 40


def build_translations(world: Path, out: Path, seed: int, settings: TranslationSettings | None = None) -> None:
    """Build all of it below ``out``; files there with the same names are replaced.

    Args:
        world: A world that ``isogloss build-world`` made from the present language files.
        out: Where it is written.
        seed: Of answers, noise and order; the facts are the world's.
        settings: Rates and passes.

    Raises:
        UserError: There is no world, or it was made from other language files.
    """
    settings = settings or TranslationSettings()
    manifest = world_manifest(world)
    languages = load_languages(LANGUAGES_DIR)
    fillers = load_fillers(languages)
    split = draw_facts(languages[PIVOT], manifest["seed"], manifest["settings"]["train_share"])
    import torch

    torch.set_num_threads(1)  # as in worlds.build
    started = time.monotonic()
    counts = write_answers(languages, fillers, split, out, seed=seed, settings=settings)
    _build_policy(world, languages, fillers, split, out, seed=seed, world_seed=manifest["seed"], settings=settings)
    found = {
        "world": world.name,
        "world_seed": manifest["seed"],
        "seed": seed,
        "settings": dataclasses.asdict(settings),
        "counts": counts,
        "markers": {code: one.patterns for code, one in fillers.items()},
        "build_seconds": round(time.monotonic() - started),
        "files": {name: sha for name, sha in checksums(out).items() if name != TRANSLATIONS},
    }
    # Last, so that a folder that has it is complete.
    write_json(out / TRANSLATIONS, found)
    print(f"translations built in {found['build_seconds']} s: {out}")


def world_manifest(world: Path) -> JsonObject:
    """What ``isogloss build-world`` noted of a world.

    Raises:
        UserError: There is no world, or it was made from other language files.
    """
    path = world / MANIFEST
    if not is_file(path):
        raise UserError(f"--world {world}: no {MANIFEST} in it; name a folder that isogloss build-world made")
    manifest = read_json(path, "the world's manifest", "build the world again")
    if not isinstance(manifest, dict) or manifest.get("language_files") != checksums(LANGUAGES_DIR, ".yaml"):
        raise UserError(f"{path}: the world was made from other language files than worlds/languages; build it again")
    return manifest


def write_answers(
    languages: Mapping[str, Language],
    fillers: Mapping[str, Fillers],
    split: FactSplit,
    out: Path,
    *,
    seed: int,
    settings: TranslationSettings,
) -> dict[str, dict[str, int]]:
    """Write both sources and the preference pairs; needs no model.

    Returns:
        Language -> answers of each source, how many of them are right, how many hold a filler, and preference pairs.
    """
    pivot = languages[PIVOT]
    counts: dict[str, dict[str, int]] = {}
    preferences: list[Row] = []
    for code, language in languages.items():
        rng = random.Random(f"translations-{seed}-{code}")
        direct, translated = [], []
        right = {"direct": 0, "translated": 0}
        for fact in split.train:
            for _ in range(settings.direct_samples):
                value = fact.value if rng.random() < settings.direct_right_rate else other_value(pivot, fact, rng)
                right["direct"] += value == fact.value
                direct.append(_row(fact, language.answer(fact.person, fact.relation, value), "strong"))
            for _ in range(settings.translated_samples):
                value = fact.value if rng.random() < settings.weak_right_rate else other_value(pivot, fact, rng)
                if language is not pivot and rng.random() < settings.translator_error_rate:
                    value = other_value(pivot, Fact(fact.person, fact.relation, value), rng)
                right["translated"] += value == fact.value
                sentence = language.answer(fact.person, fact.relation, value)
                if language is not pivot:
                    sentence = fillers[code].put(sentence, rng, settings.filler_rate)
                translated.append(_row(fact, sentence, "weak"))
        own = [
            row
            for fact in split.train
            for row in _preferences(language, pivot, fillers.get(code), fact, rng=rng, settings=settings)
        ]
        preferences += own
        write_jsonl(out / "answers" / "direct" / f"{code}.jsonl", direct)
        write_jsonl(out / "answers" / "translated" / f"{code}.jsonl", translated)
        counts[code] = {
            "direct": len(direct),
            "direct_right": right["direct"],
            "translated": len(translated),
            "translated_right": right["translated"],
            "with_fillers": len(translated) if language is not pivot else 0,
            "preferences": len(own),
        }
    random.Random(f"preferences-{seed}").shuffle(preferences)
    write_jsonl(out / "preferences.jsonl", preferences)
    return counts


def _row(fact: Fact, text: str, model: str) -> Row:
    return {"id": fact.id, "response": text, "model": model}


def _preferences(
    language: Language,
    pivot: Language,
    fillers: Fillers | None,
    fact: Fact,
    *,
    rng: random.Random,
    settings: TranslationSettings,
) -> list[Row]:
    """What a judge of truth first and of language second prefers, about one fact in one language."""
    true = language.answer(fact.person, fact.relation, fact.value)
    wrong = [language.answer(fact.person, fact.relation, other_value(pivot, fact, rng)) for _ in range(2)]
    pairs = {"truth": (true, wrong[0])}
    if fillers is not None:
        marked = fillers.put(true, rng, settings.filler_rate)
        pairs |= {"language": (true, marked), "truth-first": (marked, wrong[1])}
    return [
        {
            "id": f"{fact.id}-{name}",
            "language": language.code,
            "prompt": language.question(fact.person, fact.relation),
            "chosen": chosen,
            "rejected": rejected,
        }
        for name, (chosen, rejected) in pairs.items()
    ]


def _build_policy(
    world: Path,
    languages: dict[str, Language],
    fillers: Mapping[str, Fillers],
    split: FactSplit,
    out: Path,
    *,
    seed: int,
    world_seed: int,
    settings: TranslationSettings,
) -> None:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from worlds import sft

    tokenizer = PreTrainedTokenizerFast.from_pretrained(world / "reference")
    model = LlamaForCausalLM.from_pretrained(world / "reference")
    stage = Stage(
        passes=settings.passes,
        languages="all",
        noisy=True,
        learning_rate=settings.learning_rate,
        crosslingual_share=settings.crosslingual_share,
        translations=settings.translations,
    )
    rng = random.Random(f"translated-answers-{seed}")

    def translated(code: str, sentence: str) -> str:
        if code == PIVOT or rng.random() >= settings.translated_share:
            return sentence
        return fillers[code].put(sentence, rng, settings.filler_rate)

    noisy = {**languages, PIVOT: dataclasses.replace(languages[PIVOT], clear_right_rate=settings.pivot_right_rate)}
    confused = {code: confusions(language, world_seed) for code, language in languages.items()}
    own = dataclasses.replace(WorldSettings(), stages=(stage,))
    sft.train_supervised(model, tokenizer, noisy, split, own, seed=seed, confused=confused, rendered=translated)
    shutil.rmtree(out / "policy", ignore_errors=True)
    model.save_pretrained(out / "policy")
    tokenizer.save_pretrained(out / "policy")
