"""`make real` without its runs: what is measured of an answer, which prompts are taken, and what the page says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.real import LANGUAGES, PROMPTS
from benchmarks.real.kept import Kept, Likelihood
from benchmarks.real.measurement import HERE, Measurement, elsewhere, load_settings
from benchmarks.real.measures import difference, distinct, halved, known, measure, slices, told
from benchmarks.real.page import Found, answers_page, page
from benchmarks.real.premise import REWARDS, preferences, rewards
from benchmarks.real.premise import page as premise_page
from benchmarks.real.prompts import take
from configs.errors import UserError
from configs.load import load_config
from rollout.language import LanguageDetector
from rollout.templates import crosslingual_instruction
from tests.kits.tiny import build_tiny_model

DETECTOR = LanguageDetector(LANGUAGES)
GERMAN = "Man sollte jeden Tag genug Wasser trinken, damit der Körper gut arbeiten kann und man gesund bleibt."
PROMPT = "?"
ENGLISH = "You should drink enough water every day, so that the body can work well and that you stay healthy."


def test_an_answer_that_changes_its_language_is_not_wholly_in_it() -> None:
    pure, foreign = measure(GERMAN, PROMPT, "de", DETECTOR), measure(ENGLISH, PROMPT, "de", DETECTOR)
    assert (pure.outcome, pure.wholly, pure.lines_pass, pure.words_pass, pure.switches) == (
        "right", True, True, True, False,
    )  # fmt: skip
    assert (foreign.outcome, foreign.detected, foreign.wholly, foreign.words_pass) == ("other", "en", False, False)
    two_lines = measure(f"{GERMAN}\n{GERMAN}\n{ENGLISH}", PROMPT, "de", DETECTOR)
    assert not two_lines.lines_pass
    assert two_lines.switches
    assert not two_lines.wholly
    within = measure(f"{GERMAN} {GERMAN} {GERMAN} {ENGLISH}", PROMPT, "de", DETECTOR)
    assert (within.lines_pass, within.wholly) == (True, False)  # one line, but a slice of it is English


def test_words_of_the_wrong_language_are_found_where_the_rest_is_right() -> None:
    assert measure("Вода очень важна для нашего здоровья и для хорошего сна.", PROMPT, "ru", DETECTOR).words_pass
    assert not measure("Вода очень важна для нашего health и для хорошего сна.", PROMPT, "ru", DETECTOR).words_pass
    assert measure("El agua es muy importante para la salud y para dormir bien.", PROMPT, "es", DETECTOR).words_pass


def test_repetition_is_a_share_of_distinct_n_grams() -> None:
    assert distinct("one two three four", 3) == 1.0
    assert distinct("a b a b a b a b", 2) == pytest.approx(2 / 7)
    assert distinct("word", 3) == 1.0
    for nothing in ("", " \n ", "```\ncode\n```"):
        assert slices(nothing) == []
    assert [len(part.split()) for part in slices("word " * 29)] == [12, 17]
    assert [len(part.split()) for part in slices("word " * 30)] == [12, 12, 6]


def test_an_answer_that_says_the_question_back_is_in_the_right_language_and_an_echo() -> None:
    question = "Wie viel Wasser sollte man jeden Tag trinken, und warum?"
    echo, answer = measure(question, question, "de", DETECTOR), measure(GERMAN, question, "de", DETECTOR)
    assert (echo.outcome, echo.echo) == ("right", 1.0)
    assert answer.echo < 0.2
    start = {"de": [answer, answer]}
    assert difference(start, {"de": [echo, answer]}, ["de"], "says_back").delta == pytest.approx(0.5)


def test_words_that_nobody_has_are_not_words_of_the_language() -> None:
    assert known(GERMAN, "de") == 1.0
    assert known("Die Ausfalter können das Leben erfährten, und die Ausfalter", "de") == pytest.approx(5 / 7)
    assert known("Wort", "de") == known("", "de") == 1.0  # nothing but a last word, which may be cut off
    assert known("Объядятся вода", "ru") == 0.0
    assert math.isnan(known("Maji ni muhimu", "sw"))
    swahili = {"de": [measure(GERMAN, PROMPT, "de", DETECTOR)], "sw": [measure("Maji ni", PROMPT, "sw", DETECTOR)]}
    assert told(swahili, ["de", "sw"], "known") == ["de"]
    assert told(swahili, ["de", "sw"], "echo") == ["de", "sw"]


def write(folder: Path, code: str, rows: list[dict[str, object]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{code}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_prompts_of_a_folder_are_taken_by_length_and_id(tmp_path: Path) -> None:
    for code in ("en", "de"):
        rows = [
            {"instruction_id": key, "instruction": f"{code} {'x' * size}"} for key, size in enumerate((1, 20, 30, 500))
        ]
        write(tmp_path / "in", code, rows)
    assert take(tmp_path / "in", ["en", "de"], (10, 100), 1, tmp_path / "out") == 2
    taken = [json.loads(line) for line in (tmp_path / "out" / "de.jsonl").read_text().splitlines()]
    assert len(taken) == 1
    assert taken[0]["id"] in ("1", "2")
    assert taken[0]["prompt"].startswith("de ")
    with pytest.raises(UserError, match=r"has no prompts in 'sw' \(sw\.jsonl\)"):
        take(tmp_path / "in", ["en", "sw"], (10, 100), 1, tmp_path / "out")
    write(tmp_path / "in", "sw", [{"id": "other", "prompt": "Habari ya asubuhi?"}])
    with pytest.raises(UserError, match="5 ids are in only one of 'en' and 'sw'"):
        take(tmp_path / "in", ["en", "sw"], (10, 100), 1, tmp_path / "out")


def test_settings_fit_the_shipped_prompts_and_the_training_loads(tmp_path: Path) -> None:
    for short in (False, True):
        settings = load_settings(short)
        assert set(settings.goal) < set(settings.languages) == set(LANGUAGES)
        for fields in settings.runs.values():
            load_config(HERE / "train.yaml", fields)
        measurement = Measurement(settings, tmp_path, PROMPTS / "train", PROMPTS / "heldout", tmp_path / str(short))
        said = measurement.prepare()
        assert f"{settings.heldout} of 201 heldout prompts" in said
        assert measurement.prepare() == said  # again, as after a stop
        assert measurement.count("train") == settings.train
    other = Measurement(load_settings(True), tmp_path, PROMPTS / "heldout", PROMPTS / "heldout", tmp_path / "True")
    with pytest.raises(UserError, match="holds a measurement with other settings or prompts"):
        other.prepare()


def test_the_page_says_which_goals_were_met() -> None:
    right, wrong = measure(GERMAN, PROMPT, "de", DETECTOR), measure(ENGLISH, PROMPT, "de", DETECTOR)
    english = measure(ENGLISH, PROMPT, "en", DETECTOR)
    start = {"en": [english] * 40, "de": [right] * 20 + [wrong] * 20}
    end = {"en": [english] * 40, "de": [right] * 38 + [wrong] * 2}
    shuffled = {"en": [english] * 40, "de": [right] * 19 + [wrong] * 21}
    systems = {"start": start, "terms": end, "shuffled": shuffled}
    ids = [str(number) for number in range(40)]
    words = {name: {"en": ["a", "b", "b"], "de": ["x"] * size} for name, size in zip(systems, (4, 2, 0), strict=True)}
    found = Found(["a fact"], ["en", "de"], ["de"], systems, {"terms": Kept(0.25, 0.4)}, ids, words)
    text = page("# Head", found)
    assert "- met: answers in another language down by half on the mean of de" in text
    assert "50.0 to 5.0 % (-90 %)" in text
    assert "- met: English" in text
    assert "- met: de: words in the language's word list not down by more than 3 points" in text
    assert "| de | 50.0 | 5.0 | -45.0 [" in text
    assert "| after | 25.0 | 40.0 |" in text
    assert "| en | 3 | 2 | 2 | 2 | b 66.7 % | b 66.7 % | b 66.7 % |" in text
    assert "| de | 0 | 0 | 0 | 0 | x 100.0 % | x 100.0 % | none |" in text
    worse = page("# Head", Found(["a fact"], ["en", "de"], ["de"], {**systems, "terms": shuffled}, {}, ids, words))
    assert "- **not met**: answers in another language" in worse
    assert difference(start, end, ["de"], "other").delta == pytest.approx(-0.45)
    assert halved(start, end, ["de"], 0.5).ci95[0] > 0 > halved(start, shuffled, ["de"], 0.5).ci95[1]
    prompts = {(code, key): f"prompt {key}" for code in ("en", "de") for key in ids}
    read = answers_page(found, prompts, {name: dict.fromkeys(prompts, "an answer") for name in systems})
    assert read.count("**prompt 9**") == 2
    assert "prompt 10" not in read
    assert "- before (right): an answer" in read


def test_english_preferences_are_the_answer_against_itself_made_worse() -> None:
    long = " ".join(f"word{number}" for number in range(30))
    prompts = {key: f"prompt {key}" for key in ("a", "b", "c")}
    made = preferences(prompts, {"a": long, "b": long, "c": "too short"})
    assert [pair["id"] for pair in made] == ["a", "b"]
    assert all(pair["chosen"] == long for pair in made)
    cut, mixed = (pair["rejected"].split() for pair in made)
    assert cut == long.split()[:10]
    assert sorted(mixed) == sorted(long.split())
    assert mixed != long.split()


def test_rewards_of_log_probabilities_are_what_they_are_called(tmp_path: Path) -> None:
    start = Likelihood(build_tiny_model(tmp_path / "start", seed=1), "float32")
    aligned = Likelihood(build_tiny_model(tmp_path / "aligned", seed=2), "float32")
    native, english, texts = ["¿Qué color?", "¿Qué casa?"], ["Which colour?", "Which house?"], ["azul", "la casa roja"]
    found = rewards((start, aligned), "es", native, english, texts)
    asked = [crosslingual_instruction(text, "Spanish") for text in english]
    for place in range(2):
        (own, tokens), (cross, _) = start.sums(native, texts)[place], start.sums(asked, texts)[place]
        assert found["native"][place] == pytest.approx(own / tokens)
        assert found["english-native"][place] == pytest.approx((cross - own) / tokens, abs=1e-5)
        assert found["rc"][place] == pytest.approx(aligned.sums(asked, texts)[place][0] - cross, abs=1e-4)
        assert found["rm"][place] == pytest.approx(aligned.sums(native, texts)[place][0] - own, abs=1e-4)
    assert set(found) == set(REWARDS)
    table = premise_page({"es": dict.fromkeys(REWARDS, (3, 4))}, ["a fact"])
    assert "| R_m: aligned less start, native prompt | 75 [30, 95] |" in table


def test_english_prompts_are_given_answers_in_other_languages_by_turns() -> None:
    texts = {("de", key): GERMAN for key in "abc"} | {("es", key): f"{ENGLISH} {ENGLISH} {ENGLISH}" for key in "abc"}
    french = "L'eau est très importante pour la santé, et il faut en boire assez chaque jour."
    texts |= {("fr", "a"): french, ("fr", "b"): french, ("fr", "c"): french}
    found = elsewhere(["a", "b", "c"], ["de", "es", "fr"], texts, DETECTOR)
    assert found == {"a": GERMAN, "b": french, "c": french}  # the Spanish ones are English
    none = {(code, "a"): ENGLISH for code in ("de", "es")}
    assert elsewhere(["a"], ["de", "es"], none, DETECTOR) == {}
