"""The embedded world: its language files, its prompts and its manifest. Trains nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from worlds.build import DEFAULT_OUT, LANGUAGES_DIR, MANIFEST, build_prompts, checksums
from worlds.languages import PIVOT, LanguageFileError, load_languages


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
    assert {"en", "es", "de", "fr", "ru", "sw"} <= set(languages)
    pivot = languages[PIVOT]
    assert all(pivot.right_rate > other.right_rate for code, other in languages.items() if code != PIVOT)


def test_no_two_facts_have_the_same_question_or_sentence():
    for language in load_languages(LANGUAGES_DIR).values():
        questions = {language.question(p, r) for p in language.people for r in language.relations}
        assert len(questions) == len(language.people) * len(language.relations)
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
    for part in ("train", "heldout"):
        by_language = {
            code: [row["id"] for row in read_rows(DEFAULT_OUT / "prompts" / part / f"{code}.jsonl")]
            for code in manifest["languages"]
        }
        ids[part] = by_language[PIVOT]
        assert all(other == ids[part] for other in by_language.values())
        assert len(set(ids[part])) == len(ids[part])
    assert not set(ids["train"]) & set(ids["heldout"])
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
        (lambda c: c.update(right_rate=1.5), "right_rate", "from 0 to 1"),
        (lambda c: c.update(nmae="Spanish"), "nmae", "unknown"),
        (lambda c: c.update(code="pt"), "code", "file's name"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_key(folder: Path, change, key: str, reason: str):
    edit(folder / "es.yaml", change)
    with pytest.raises(LanguageFileError, match=re.escape(key)) as caught:
        load_languages(folder)
    assert "es.yaml" in str(caught.value)
    assert reason in str(caught.value)


def test_a_folder_without_the_pivot_is_refused(folder: Path):
    (folder / "en.yaml").unlink()
    with pytest.raises(LanguageFileError, match=r"en\.yaml"):
        load_languages(folder)


def test_a_seventh_language_is_one_more_file(folder: Path, tmp_path: Path, manifest: dict):
    shutil.copy(folder / "es.yaml", folder / "it.yaml")

    def to_italian(content: dict) -> None:
        content.update(code="it", name="Italian")
        content["relations"]["city"].update(
            question="In quale città vive {name}?", answer="{name} vive nella città di {value}."
        )
        content["relations"]["city"]["values"].update(london="Londra", rome="Roma")

    edit(folder / "it.yaml", to_italian)
    build_prompts(folder, tmp_path / "out", manifest["seed"])
    italian = read_rows(tmp_path / "out" / "prompts" / "train" / "it.jsonl")
    english = read_rows(DEFAULT_OUT / "prompts" / "train" / "en.jsonl")
    assert [row["id"] for row in italian] == [row["id"] for row in english]
    assert any(row["prompt"].startswith("In quale città vive") for row in italian)
    for code in manifest["languages"]:
        committed = DEFAULT_OUT / "prompts" / "train" / f"{code}.jsonl"
        assert (tmp_path / "out" / "prompts" / "train" / f"{code}.jsonl").read_bytes() == committed.read_bytes()
