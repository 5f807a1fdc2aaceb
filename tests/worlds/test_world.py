"""The embedded world: its language files, its prompts and its manifest. Trains nothing."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cli import app
from configs.errors import UserError
from configs.inputs import LanguagesConfig
from evaluation.suites.read import load_suite
from rollout.prompts import PromptSet
from rollout.templates import crosslingual_instruction
from worlds.build import DEFAULT_OUT, LANGUAGES_DIR, MANIFEST, build_prompts, checksums
from worlds.confusion import confusions
from worlds.facts import Fact, draw_facts
from worlds.languages import PIVOT, LanguageFileError, load_languages
from worlds.settings import WorldSettings
from worlds.sft import make_pass, native_value


@pytest.fixture(scope="module")
def manifest() -> dict:
    return json.loads((DEFAULT_OUT / MANIFEST).read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LANGUAGES_DIR, tmp_path / "languages"))


def read_rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def edit(path: Path, change) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")


def test_language_files_validate_and_the_pivot_comes_first():
    languages = load_languages(LANGUAGES_DIR)
    assert next(iter(languages)) == PIVOT
    assert len(languages) >= 10
    pivot = languages.pop(PIVOT)
    assert pivot.confused is None
    assert all(other.confused is not None and other.confused.wrong_rate > 0.5 for other in languages.values())


def test_no_two_facts_have_the_same_question_or_sentence():
    for language in load_languages(LANGUAGES_DIR).values():
        wordings = range(len(language.relations["city"].questions))
        questions = {language.question(p, r, w) for p in language.people for r in language.relations for w in wordings}
        assert len(questions) == len(language.people) * len(language.relations) * len(wordings)
        for person in list(language.people)[:3]:
            for relation, form in language.relations.items():
                answers = {language.answer(person, relation, value) for value in form.values}
                assert len(answers) == len(form.values)


def test_committed_prompts_are_what_the_files_and_the_seed_give(tmp_path: Path, manifest: dict):
    build_prompts(LANGUAGES_DIR, tmp_path, manifest["seed"])
    made = checksums(tmp_path)
    assert made == {path: manifest["files"][path] for path in made}
    assert checksums(DEFAULT_OUT / "prompts").keys() == checksums(tmp_path / "prompts").keys()


def test_manifest_names_every_committed_file_with_its_checksum(manifest: dict):
    assert checksums(DEFAULT_OUT) == manifest["files"]
    assert checksums(LANGUAGES_DIR, ".yaml") == manifest["language_files"]


def test_ids_are_parallel_and_the_splits_share_none(manifest: dict):
    ids = {}
    for part in ("train", "heldout", "values", "wordings"):
        by_language = {
            code: [row["id"] for row in read_rows(DEFAULT_OUT / "prompts" / part / f"{code}.jsonl")]
            for code in manifest["languages"]
        }
        ids[part] = by_language[PIVOT]
        assert all(other == ids[part] for other in by_language.values())
        assert len(set(ids[part])) == len(ids[part])
    assert not set(ids["train"]) & set(ids["heldout"])
    assert not {*ids["train"], *ids["heldout"]} & set(ids["values"])
    assert set(ids["wordings"]) <= set(ids["train"])
    anchors = read_rows(DEFAULT_OUT / "anchor.jsonl")
    assert len({row["id"] for row in anchors}) == len(anchors)
    assert {row["id"].rpartition("-")[0] for row in anchors} == set(ids["train"])
    assert {row["language"] for row in anchors} == {PIVOT}
    assert all(row["chosen"] != row["rejected"] for row in anchors)


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        (lambda c: c["relations"]["city"]["values"].pop("tokyo"), "relations.city.values.tokyo", "missing"),
        (lambda c: c["relations"].pop("drink"), "relations.drink", "missing"),
        (lambda c: c["relations"]["month"].pop("answer"), "relations.month.answer", "missing"),
        (lambda c: c["relations"]["city"].update(answer="{name}."), "relations.city.answer", "{value}"),
        (lambda c: c["relations"]["colour"]["values"].update(red="azul"), "relations.colour.values", "azul"),
        (lambda c: c["relations"]["colour"]["values"].update(red=False), "relations.colour.values.red", "quotes"),
        (lambda c: c["relations"]["colour"]["values"].update(pink="rosa"), "colour.values.pink", "no such key"),
        (lambda c: c.update(clear_right_rate=1.5), "clear_right_rate", "from 0 to 1"),
        (lambda c: c["confused"].update(share=-0.1), "confused.share", "from 0 to 1"),
        (lambda c: c["confused"].update(wrong_rate=0.7), "confused", "add up to 1.06"),
        (lambda c: c["confused"].update(worng_rate=0.7), "confused.worng_rate", "unknown"),
        (lambda c: c["relations"]["city"].update(questions=[]), "relations.city.questions", "list of wordings"),
        (lambda c: c["relations"]["city"]["questions"].pop(), "relations.city.questions", "2 wordings"),
        (lambda c: c["relations"]["city"].update(question="{name}?"), "relations.city.question", "older form"),
        (lambda c: c.update(nmae="Spanish"), "nmae", "unknown"),
        (lambda c: c.update(code="pt"), "code", "file's name"),
        (lambda c: c["relations"]["city"].update(answer="{name} {value} {place}"), "relations.city.answer", "{place}"),
        (
            lambda c: c["relations"]["city"].update(answer="{name} {value} {}"),
            "relations.city.answer",
            "{} is no place",
        ),
        (
            lambda c: c["relations"]["city"].update(questions=["{name!r}?", "{name}?"]),
            "relations.city.questions.0",
            "{name!r}",
        ),
        (
            lambda c: c["relations"]["city"].update(questions=["{name:>9}?", "{name}?"]),
            "relations.city.questions.0",
            "{name:>9}",
        ),
        (
            lambda c: c["relations"]["city"].update(questions=["{name.x} {name}", "{name}?"]),
            "relations.city.questions.0",
            "{name.x}",
        ),
        (
            lambda c: c["relations"]["city"].update(questions=["{name} }", "{name}?"]),
            "relations.city.questions.0",
            "twice",
        ),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_key(folder: Path, change, key: str, reason: str):
    edit(folder / "es.yaml", change)
    with pytest.raises(LanguageFileError, match=re.escape(key)) as caught:
        load_languages(folder)
    assert "es.yaml" in str(caught.value)
    assert reason in str(caught.value)


def test_build_world_ends_in_one_line_and_writes_nothing_where_a_file_is_wrong(folder: Path, tmp_path: Path):
    edit(folder / "sw.yaml", lambda c: c["relations"]["month"].update(questions=["{name} {place}?", "{name}?"]))
    done = CliRunner().invoke(app, ["build-world", "--languages", str(folder), "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, UserError)  # `main` makes a line and exit code 2 of it
    assert "sw.yaml: relations.month.questions.0: {place} is no place to fill" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_build_world_has_no_default_that_could_overwrite_the_committed_world():
    done = CliRunner().invoke(app, ["build-world"])
    assert done.exit_code == 2
    assert "--out" in done.output


@pytest.mark.parametrize("rate", ["1.5", "-0.1", "nan"])
def test_a_rate_that_is_no_share_is_refused_before_anything_is_written(tmp_path: Path, rate: str):
    done = CliRunner().invoke(app, ["build-world", "--out", str(tmp_path / "out"), "--crosslingual-rate", rate])
    assert isinstance(done.exception, UserError)
    assert f"--crosslingual-rate {rate}" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_answers_under_the_english_instruction_are_true_at_the_rate_asked_for():
    languages = load_languages(LANGUAGES_DIR)
    split = draw_facts(languages[PIVOT], 0, 0.6)
    confused = {code: confusions(language, 0) for code, language in languages.items()}
    german = languages["de"]
    for rate in (0.97, 0.6):
        settings = dataclasses.replace(WorldSettings(), crosslingual_right_rate=rate)
        stage = dataclasses.replace(settings.stages[-1], crosslingual_share=1.0)
        made = make_pass(languages, split, confused, stage, settings, rng=random.Random(0))
        true = {
            crosslingual_instruction(languages[PIVOT].question(fact.person, fact.relation, wording), "German"): (
                german.answer(fact.person, fact.relation, fact.value)
            )
            for fact in split.train
            for wording in (0, 1)
        }
        right = [example.assistant == true[example.user] for example in made if example.user in true]
        assert sum(right) / len(right) == pytest.approx(rate, abs=0.07)


def test_a_world_of_the_first_form_is_refused_with_the_command_that_builds_it_again(tmp_path: Path):
    world = tmp_path / "old world"
    shutil.copytree(DEFAULT_OUT / "prompts", world / "prompts")
    manifest = json.loads((DEFAULT_OUT / MANIFEST).read_text(encoding="utf-8"))
    (world / MANIFEST).write_text(json.dumps(manifest))
    pattern = str(world / "prompts" / "train" / "{lang}.jsonl")
    codes = LanguagesConfig(codes=["en", "de"])
    assert PromptSet.load(pattern, codes).ids
    del manifest["settings"]["crosslingual_heldout"]
    (world / MANIFEST).write_text(json.dumps({**manifest, "seed": 7}))
    for refused in (
        lambda: PromptSet.load(pattern, codes),
        lambda: load_suite("world", str(world / "prompts" / "heldout")),
    ):
        with pytest.raises(UserError, match=r"build-world --out '.*old world-new' --seed 7"):
            refused()


def test_a_folder_without_the_pivot_is_refused(folder: Path):
    (folder / "en.yaml").unlink()
    with pytest.raises(LanguageFileError, match=r"en\.yaml"):
        load_languages(folder)


def test_a_further_language_is_one_more_file(folder: Path, tmp_path: Path, manifest: dict):
    shutil.copy(folder / "es.yaml", folder / "pt.yaml")

    def to_portuguese(content: dict) -> None:
        content.update(code="pt", name="Portuguese")
        content["relations"]["city"].update(
            questions=["Em que cidade vive {name}?", "Qual é a cidade de {name}?"],
            answer="{name} vive na cidade de {value}.",
        )

    edit(folder / "pt.yaml", to_portuguese)
    build_prompts(folder, tmp_path / "out", manifest["seed"])
    portuguese = read_rows(tmp_path / "out" / "prompts" / "train" / "pt.jsonl")
    english = read_rows(DEFAULT_OUT / "prompts" / "train" / "en.jsonl")
    assert [row["id"] for row in portuguese] == [row["id"] for row in english]
    assert any(row["prompt"].startswith("Em que cidade vive") for row in portuguese)
    for code in manifest["languages"]:
        committed = DEFAULT_OUT / "prompts" / "train" / f"{code}.jsonl"
        assert (tmp_path / "out" / "prompts" / "train" / f"{code}.jsonl").read_bytes() == committed.read_bytes()


def test_a_language_takes_a_value_for_one_other_at_the_rates_of_its_file():
    languages = load_languages(LANGUAGES_DIR)
    pivot, german = languages[PIVOT], languages["de"]
    assert german.confused is not None
    confused = {code: confusions(language, 3) for code, language in languages.items()}
    assert confused[PIVOT] == {relation: {} for relation in pivot.relations}
    for relation, values in confused["de"].items():
        assert len(values) == round(german.confused.share * len(pivot.relations[relation].values))
        assert len(set(values.values())) == len(values)  # one rule a value, and no two values for the same
        assert all(value != other for value, other in values.items())
    assert confused["de"] != confused["es"]
    assert confused["de"] == confusions(german, 3) != confusions(german, 4)

    value, other = next(iter(confused["de"]["city"].items()))
    clear = next(v for v in pivot.relations["city"].values if v not in confused["de"]["city"])
    rng = random.Random(0)
    told = Counter(native_value(german, pivot, Fact("anna", "city", value), confused["de"], rng) for _ in range(4000))
    assert told[other] / 4000 == pytest.approx(german.confused.wrong_rate, abs=0.03)
    assert told[value] / 4000 == pytest.approx(german.confused.right_rate, abs=0.03)
    told = Counter(native_value(german, pivot, Fact("anna", "city", clear), confused["de"], rng) for _ in range(4000))
    assert told[clear] / 4000 == pytest.approx(german.clear_right_rate, abs=0.02)


def test_held_out_facts_never_stand_under_the_english_instruction():
    languages = load_languages(LANGUAGES_DIR)
    split = draw_facts(languages[PIVOT], 0, 0.6)
    confused = {code: confusions(language, 0) for code, language in languages.items()}
    forms = {
        fact: {
            crosslingual_instruction(languages[PIVOT].question(fact.person, fact.relation, wording), "German")
            for wording in (0, 1)
        }
        for fact in split.all
    }
    for also, expected in ((False, {*split.train}), (True, {*split.all})):
        settings = dataclasses.replace(WorldSettings(), crosslingual_heldout=also)
        stage = dataclasses.replace(settings.stages[-1], crosslingual_share=1.0)
        made = make_pass(languages, split, confused, stage, settings, rng=random.Random(0))
        asked = {example.user for example in made}
        assert {fact for fact in split.all if forms[fact] & asked} == expected


def test_rows_say_which_value_they_are_about_and_whether_it_is_confused():
    rows = read_rows(DEFAULT_OUT / "prompts" / "heldout" / "sw.jsonl")
    assert {row["affected"] for row in rows} == {"yes", "no"}
    assert all(row["value"].split("-")[0] == row["id"].split("-")[1] for row in rows)
    assert {row["affected"] for row in read_rows(DEFAULT_OUT / "prompts" / "heldout" / "en.jsonl")} == {"no"}
    trained = {row["value"] for row in read_rows(DEFAULT_OUT / "prompts" / "train" / "en.jsonl")}
    assert {row["value"] for row in rows} <= trained
    assert not trained & {row["value"] for row in read_rows(DEFAULT_OUT / "prompts" / "values" / "en.jsonl")}
