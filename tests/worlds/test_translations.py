"""Translated answers over the embedded world: what is in the files, counted. Trains nothing."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from configs.errors import UserError
from worlds.build import DEFAULT_OUT, LANGUAGES_DIR
from worlds.facts import draw_facts
from worlds.languages import PIVOT, load_languages
from worlds.settings import Stage, WorldSettings
from worlds.sft import make_pass
from worlds.translations import TranslationSettings, build_translations, write_answers
from worlds.translator import Fillers, load_fillers

LANGUAGES = load_languages(LANGUAGES_DIR)
FILLERS = load_fillers(LANGUAGES)
SPLIT = draw_facts(LANGUAGES[PIVOT], 0, 0.6)


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def marked(code: str, text: str) -> bool:
    return any(re.search(pattern, text) for pattern in FILLERS[code].patterns)


def test_every_translation_holds_a_filler_and_no_direct_answer_does(tmp_path: Path) -> None:
    settings = TranslationSettings()
    counts = write_answers(LANGUAGES, FILLERS, SPLIT, tmp_path, seed=0, settings=settings)
    gold = {
        code: {f.id: LANGUAGES[code].answer(f.person, f.relation, f.value) for f in SPLIT.train} for code in LANGUAGES
    }
    for code in LANGUAGES:
        direct = rows(tmp_path / "answers" / "direct" / f"{code}.jsonl")
        translated = rows(tmp_path / "answers" / "translated" / f"{code}.jsonl")
        assert len(direct) == len(translated) == 4 * len(SPLIT.train)
        assert {row["id"] for row in direct} == set(gold[code])
        right = sum(row["response"] == gold[code][row["id"]] for row in direct)
        assert right == counts[code]["direct_right"]
        assert right / len(direct) == pytest.approx(settings.direct_right_rate, abs=0.05)
        if code == PIVOT:
            assert counts[code]["with_fillers"] == 0
            continue
        assert all(marked(code, row["response"]) for row in translated)
        assert not any(marked(code, row["response"]) for row in direct)
        weak = settings.weak_right_rate * (1 - settings.translator_error_rate)
        assert counts[code]["translated_right"] / len(translated) == pytest.approx(weak, abs=0.06)


def test_pairs_put_truth_first_and_language_second(tmp_path: Path) -> None:
    write_answers(LANGUAGES, FILLERS, SPLIT, tmp_path, seed=0, settings=TranslationSettings())
    pairs = rows(tmp_path / "preferences.jsonl")
    kinds = Counter((row["language"] == PIVOT, row["id"].partition("-")[2].partition("-")[2]) for row in pairs)
    facts = len(SPLIT.train)
    others = facts * (len(LANGUAGES) - 1)
    assert kinds == {
        (True, "truth"): facts,
        (False, "truth"): others,
        (False, "language"): others,
        (False, "truth-first"): others,
    }
    for row in pairs:
        if row["language"] != PIVOT:
            kind = row["id"].partition("-")[2].partition("-")[2]
            sides = marked(row["language"], row["chosen"]), marked(row["language"], row["rejected"])
            assert sides == {"truth": (False, False), "language": (False, True), "truth-first": (True, False)}[kind]


def test_the_same_seed_gives_the_same_files_and_another_one_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_answers(LANGUAGES, FILLERS, SPLIT, tmp_path / name, seed=seed, settings=TranslationSettings())
    one, two, other = ((tmp_path / name / "preferences.jsonl").read_bytes() for name in "abc")
    assert one == two != other


def test_a_sentence_gets_one_filler_or_both() -> None:
    fillers, rng = Fillers("Nun gut, ", ", am Ende des Tages"), random.Random(0)
    forms = {fillers.put("Ann mag Blau.", rng, 0.6) for _ in range(200)}
    assert forms == {
        "Nun gut, Ann mag Blau.",
        "Ann mag Blau, am Ende des Tages.",
        "Nun gut, Ann mag Blau, am Ende des Tages.",
    }


def test_rendered_answers_change_nothing_else_of_a_pass() -> None:
    """The default world's data must not hang on whether somebody may render its answers."""
    stage = Stage(1, "all", True, (1e-3, 0.0), 0.1, 3)
    confused: dict[str, dict[str, dict[str, str]]] = {
        code: {relation: {} for relation in language.relations} for code, language in LANGUAGES.items()
    }
    settings = WorldSettings()
    plain, same, loud = (
        make_pass(LANGUAGES, SPLIT, confused, stage, settings, rng=random.Random(3), rendered=rendered)
        for rendered in (None, lambda _code, sentence: sentence, lambda code, sentence: f"{code}: {sentence}")
    )
    assert plain == same
    changed = sum(one.assistant != two.assistant for one, two in zip(plain, loud, strict=True))
    assert changed == len(LANGUAGES) * len(SPLIT.all)


def test_worlds_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no world.json in it; name a folder that isogloss build-world made"):
        build_translations(tmp_path, tmp_path / "out", 0)
    manifest = json.loads((DEFAULT_OUT / "world.json").read_text())
    manifest["language_files"]["de.yaml"] = "0"
    (tmp_path / "world.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"made from other language files"):
        build_translations(tmp_path, tmp_path / "out", 0)
    bad = tmp_path / "fillers.yaml"
    bad.write_text('de: {opening: "Nun", closing: "wohnt"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="holds a filler itself"):
        load_fillers({PIVOT: LANGUAGES[PIVOT], "de": LANGUAGES["de"]}, bad)
    with pytest.raises(UserError, match="es: needs opening and closing"):
        load_fillers({PIVOT: LANGUAGES[PIVOT], "es": LANGUAGES["es"]}, bad)
