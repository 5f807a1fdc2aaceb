"""Suites: their prompts, files of answers, figures, cache; all but real generation."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from evaluation.length_controlled import too_few
from evaluation.mgsm import extract_answer
from evaluation.suites.answers import read_answers, write_answers
from evaluation.suites.cache import EvalCache
from evaluation.suites.detect import fidelities
from evaluation.suites.figures import (
    Figure,
    accuracy_figures,
    difference_figures,
    fidelity_figures,
    length_figures,
    mark,
    missing,
    win_figures,
)
from evaluation.suites.mgsm_prompts import EXAMPLE_ANSWERS, WORDS, maths_prompt
from evaluation.suites.read import load_suite
from evaluation.suites.records import Answer, Answers, Decoding, Suite
from evaluation.suites.weights import model_checksum
from evaluation.winrate import Comparison


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def by_name(figures: list[Figure]) -> dict[tuple[str, str], Figure]:
    return {(figure.name, figure.language): figure for figure in figures}


@pytest.fixture
def custom(tmp_path: Path) -> Suite:
    """Four prompts in two languages, with gold answers."""
    for code in ("en", "es"):
        rows = [{"id": f"p{n}", "prompt": f"{code} question {n}", "answer": f"{n}"} for n in range(4)]
        write(tmp_path / "custom" / f"{code}.jsonl", rows)
    return load_suite("custom", str(tmp_path / "custom"))


def answered(suite: Suite, right: int = 4) -> Answers:
    """The first ``right`` prompts of each language are answered rightly."""
    return {item.key: Answer(item.gold or "" if int(item.id[1:]) < right else "no") for item in suite.items}


# --- prompts ------------------------------------------------------------------------------------------------------


def test_world_is_there_without_data() -> None:
    suite = load_suite("world", None, languages=["sw", "en"], limit=3)
    assert suite.languages == ("sw", "en")
    assert [item.language for item in suite.items] == ["sw"] * 3 + ["en"] * 3
    assert suite.has_gold
    assert suite.items[0].where.endswith("sw.jsonl:1")


def test_forms_of_data(tmp_path: Path) -> None:
    rows = [{"id": 1, "instruction": "uno"}, {"id": 2, "instruction": "dos"}]
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "es.json").write_text(json.dumps(rows), encoding="utf-8")
    folder = load_suite("x-alpacaeval", str(tmp_path / "x"))
    pattern = load_suite("x-alpacaeval", str(tmp_path / "x" / "{lang}.json"))
    assert [item.instruction for item in folder.items] == ["uno", "dos"]
    assert [item.key for item in pattern.items] == [item.key for item in folder.items] == [("es", "1"), ("es", "2")]
    assert not folder.has_gold
    one = write(tmp_path / "all.jsonl", [{"id": "a", "language": code, "prompt": code} for code in ("en", "fr", "es")])
    assert load_suite("custom", str(one)).languages == ("en", "fr", "es")
    assert load_suite("custom", str(one), languages=["es", "en"]).languages == ("es", "en")
    alone = write(tmp_path / "alone.jsonl", [{"id": "a", "prompt": "x"}])
    assert load_suite("custom", str(alone), languages=["de"]).items[0].language == "de"


def test_maths_prompts(tmp_path: Path) -> None:
    write(tmp_path / "sw.jsonl", [{"query": "Tano na mbili?", "response": "1,007"}])
    zero = load_suite("mgsm", str(tmp_path)).items[0]
    assert zero.prompt == f"{WORDS['sw'].instruction}\n\nTano na mbili?"
    assert (zero.instruction, zero.gold, zero.id) == ("Tano na mbili?", "1,007", "1")
    two = str(load_suite("mgsm", str(tmp_path), shots=2).items[0].prompt)
    assert two.count("Swali: ") == 3
    assert two.endswith("Swali: Tano na mbili?\nSuluhisho:")


@pytest.mark.parametrize("code", sorted(WORDS))
def test_worked_examples_end_in_their_answer(code: str) -> None:
    for (question, solution), gold in zip(WORDS[code].examples, EXAMPLE_ANSWERS, strict=True):
        found = extract_answer(solution, code)
        assert (found.value, found.how) == (Fraction(gold), "phrase"), solution
        assert maths_prompt("?", code, 3).count(question) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "gsm"}, "--suite gsm: unknown; there are world, mgsm"),
        ({"name": "custom", "data": None}, "needs --data"),
        ({"name": "custom", "shots": 1}, "only --suite mgsm has worked examples"),
        ({"name": "mgsm", "shots": 4}, "0 to 3 worked examples"),
        ({"name": "custom", "languages": ["en", "en"]}, "named twice"),
        (
            {"name": "custom", "languages": ["it"]},
            r"--languages it: custom at .* has no such language; there are en, es",
        ),
        ({"name": "custom", "data": "nowhere/{lang}.jsonl"}, "no such file in any language"),
        ({"name": "custom", "data": "nowhere"}, "no such file"),
    ],
)
def test_bad_arguments(custom: Suite, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_suite(**{"data": custom.data, **arguments})


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("custom", [{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}], r"en.jsonl:2: id 'a' was already used at"),
        ("custom", [{"id": "a"}], r"en.jsonl:1: field 'prompt' is missing"),
        ("custom", [{"id": "a", "prompt": " "}], "field 'prompt' is empty"),
        ("custom", [{"id": "a", "prompt": "x", "language": "es"}], "language is 'es' where 'en' was expected"),
        (
            "custom",
            [{"id": "a", "prompt": "x", "answer": "1"}, {"id": "b", "prompt": "y"}],
            "jsonl:2: has no gold answer",
        ),
        ("mgsm", [{"query": "x", "response": "five"}], "response is 'five' instead of a number"),
        ("mgsm", [{"query": "x"}], "field 'response' is missing"),
    ],
)
def test_bad_rows(tmp_path: Path, name: str, rows: list[dict[str, Any]], message: str) -> None:
    write(tmp_path / "en.jsonl", rows)
    with pytest.raises(UserError, match=message):
        load_suite(name, str(tmp_path))


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no file of a language"):
        load_suite("custom", str(tmp_path))
    (tmp_path / "en.json").write_text('[{"id": 1, "prompt": "x"}, 2]', encoding="utf-8")
    with pytest.raises(UserError, match=r"en.json: entry 2: a number instead of an object"):
        load_suite("custom", str(tmp_path))
    (tmp_path / "en.json").write_text("[{\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"en.json:2: not valid JSON"):
        load_suite("custom", str(tmp_path))
    write(tmp_path / "fi.jsonl", [{"query": "x", "response": "1"}])
    with pytest.raises(UserError, match="mgsm has no instruction in it; there are bn, de"):
        load_suite("mgsm", str(tmp_path), languages=["fi"])
    one = write(tmp_path / "all.jsonl", [{"id": "a", "language": "klingon", "prompt": "x"}])
    with pytest.raises(UserError, match="'klingon' is no language code"):
        load_suite("custom", str(one))


# --- files of answers ---------------------------------------------------------------------------------------------


def rows_of(suite: Suite) -> list[dict[str, Any]]:
    return [{"id": item.id, "language": item.language, "answer": "x"} for item in suite.items]


def test_answers_come_back(custom: Suite, tmp_path: Path) -> None:
    answers = {item.key: Answer("" if item.id == "p1" else f"¡{item.id}!", "length", 3) for item in custom.items}
    write_answers(tmp_path / "a.jsonl", custom, answers, {custom.items[0].key: {"right": True}})
    assert read_answers(tmp_path / "a.jsonl", custom) == {key: Answer(a.text) for key, a in answers.items()}
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])["right"] is True


def test_one_language_need_not_be_named(tmp_path: Path) -> None:
    write(tmp_path / "es.json.jsonl", [{"id": "a", "prompt": "x"}])
    suite = load_suite("custom", str(tmp_path / "es.json.jsonl"), languages=["es"])
    path = write(tmp_path / "answers.jsonl", [{"id": "a", "response": "hola"}])
    assert read_answers(path, suite) == {("es", "a"): Answer("hola")}


def test_missing_extra_and_repeated_answers(custom: Suite, tmp_path: Path) -> None:
    rows = rows_of(custom)
    path = tmp_path / "a.jsonl"
    write(path, rows[:5])
    with pytest.raises(UserError, match=r"3 of 8 prompts have no answer: 'p1' \(es\), .*es.jsonl:2"):
        read_answers(path, custom)
    write(path, [*rows, {"id": "p9", "language": "en", "answer": "x"}, {"id": "p9", "language": "en", "answer": "x"}])
    with pytest.raises(UserError, match=r"a.jsonl:9: id 'p9' \(en\) is no prompt of custom; 2 answer"):
        read_answers(path, custom)
    write(path, [*rows, {"id": "p1", "language": "fr", "answer": "x"}])
    with pytest.raises(UserError, match=r"a.jsonl:9: .* \(asked are en, es\)"):
        read_answers(path, custom)
    write(path, [*rows, rows[2], rows[3]])
    with pytest.raises(UserError, match=r"a.jsonl:9: id 'p2' \(en\) was already answered in line 3; 2 answer"):
        read_answers(path, custom)
    write(path, [{"id": "p0", "answer": "x"}])
    with pytest.raises(UserError, match="a.jsonl:1: field 'language' is missing"):
        read_answers(path, custom)
    write(path, [{"id": "p0", "language": "en", "answer": None}])
    with pytest.raises(UserError, match="a.jsonl:1: field 'answer' is null"):
        read_answers(path, custom)


def test_empty_answers_are_counted_and_wrong(custom: Suite, tmp_path: Path) -> None:
    rows = rows_of(custom)
    for row in rows:
        row["answer"] = "" if row["id"] == "p0" else row["id"][1:]
    answers = read_answers(write(tmp_path / "a.jsonl", rows), custom)
    figures = by_name(accuracy_figures(custom, answers, mark(custom, answers)))
    assert figures["accuracy", "en"].value == 75.0
    assert figures["accuracy", "all"].counts == {"right": 6, "empty": 2, "truncated": 0}


# --- figures ------------------------------------------------------------------------------------------------------


def test_accuracy_and_difference(custom: Suite) -> None:
    ours, theirs = answered(custom), answered(custom, 1)
    marks = mark(custom, ours), mark(custom, theirs)
    figures = by_name([*accuracy_figures(custom, ours, marks[0]), *difference_figures(custom, *marks)])
    every = figures["accuracy", "all"]
    assert (every.value, every.items, every.method) == (100.0, 8, "wilson")
    assert every.ci95 is not None
    assert every.ci95[0] == pytest.approx(51.01, abs=0.01)  # Wilson's for 4 of 4: each prompt once
    gain = figures["accuracy_difference", "en"]
    assert (gain.value, gain.counts) == (75.0, {"better": 3, "worse": 0, "equal": 1})
    assert figures["accuracy_difference", "all"].ci95 == pytest.approx((25.0, 100.0), abs=26)


def test_maths_without_a_number(tmp_path: Path) -> None:
    write(tmp_path / "de.jsonl", [{"query": "a", "response": "18"}, {"query": "b", "response": "2,125"}])
    suite = load_suite("mgsm", str(tmp_path))
    answers = {("de", "1"): Answer("Keine Ahnung."), ("de", "2"): Answer("Das sind 2.125 Eier.")}
    marks = mark(suite, answers)
    (figure,) = accuracy_figures(suite, answers, marks)
    assert (figure.value, figure.counts["no_answer"]) == (50.0, 1)
    assert marks.extracted["de", "2"] == "2125"


def test_fidelity(custom: Suite, tmp_path: Path) -> None:
    spanish, english = "El río estaba helado y nadie podía cruzarlo.", "The river was frozen and nobody could cross."
    texts = {"p0": spanish, "p1": f"{spanish}\n{english}\n{spanish}", "p2": english, "p3": "7"}
    answers = {item.key: Answer(texts[item.id]) for item in custom.items}
    with EvalCache.open(tmp_path / "c.sqlite") as cache:
        found = fidelities(answers, ["en", "es"], cache)
        again = fidelities(answers, ["en", "es"], cache)
        assert again == found
        assert len(cache._db.execute("SELECT * FROM notes").fetchall()) == 8
    figures = by_name(fidelity_figures(custom, found))
    assert figures["right_language", "es"].value == pytest.approx(200 / 3)
    assert figures["right_language", "es"].counts == {"unsure": 1, "without_letters": 1}
    assert (figures["right_lines", "es"].value, figures["right_lines", "es"].items) == (60.0, 5)
    assert figures["right_lines", "en"].value == 40.0
    assert figures["right_lines", "all"].value == 50.0
    assert figures["code_switching", "es"].value == 100.0
    assert figures["code_switching", "es"].counts == {"fewer_than_two_lines": 3}
    assert length_figures(custom, answers)[-1].items == 8


def test_win_rates_stand_with_their_counts() -> None:
    def verdicts(code: str, preferences: list[float | None]) -> list[Comparison]:
        return [Comparison(f"p{i}", code, p, 100 + i, 90 + (7 * i) % 31) for i, p in enumerate(preferences)]

    rows = [*verdicts("en", [2.0, 2.0, 1.0, None] * 10), *verdicts("es", [1.5, 1.0] * 20)]
    figures = by_name(win_figures(rows, {}))
    assert figures["win_rate", "en"].value == pytest.approx(200 / 3)
    assert figures["win_rate", "en"].method == "wilson"
    assert figures["win_rate", "es"].method == "bootstrap"
    counts = {"wins": 20, "ties": 20, "losses": 30, "inconsistent": 0, "failed": 10}
    assert figures["win_rate", "all"].counts == counts
    alone = figures["lc_win_rate", "en"]
    assert (alone.value, alone.ci95, alone.items) == (None, None, 0)
    assert alone.counts["other_models"] == 0
    assert ("lc_win_rate", "all") not in figures
    assert missing(win_figures(rows, {})) == [f"en, es: {too_few(0)}"]
    others = {
        str(k): [*verdicts("en", [2.0, 1.0, 1.0, 2.0] * (10 - k % 3)), *verdicts("es", [1.0, 1.5, 2.0] * 10)]
        for k in range(9)
    }
    figures = by_name(win_figures(rows, others))
    controlled = figures["lc_win_rate", "en"]
    assert controlled.counts == {"wins": 20, "ties": 0, "losses": 10, "inconsistent": 0, "failed": 10} | {
        "left_out": 10,
        "difficulty_models": 9,
        "other_models": 9,
    }
    every = figures["lc_win_rate", "all"]
    assert every.value == pytest.approx((controlled.value + figures["lc_win_rate", "es"].value) / 2)  # type: ignore[operator]
    assert every.ci95 is not None
    assert every.ci95[0] < every.value < every.ci95[1]  # type: ignore[operator]
    others = {str(k): verdicts("en", [2.0, 1.0, 1.0, 2.0] * 10) for k in range(9)}
    english = win_figures(rows, others)
    assert by_name(english)["lc_win_rate", "en"].counts["difficulty_models"] == 9
    assert by_name(english)["lc_win_rate", "es"].value is None
    assert ("lc_win_rate", "all") not in by_name(english)
    assert missing(english) == [f"es: {too_few(0)}"]
    failed = win_figures(verdicts("en", [None, None]), {})
    assert [(figure.value, figure.counts["failed"]) for figure in failed] == [(None, 2)]


# --- cache --------------------------------------------------------------------------------------------------------


def test_the_key_of_an_answer(custom: Suite) -> None:
    one, other = custom.items[0], custom.items[1]
    greedy = Decoding(0.0, 1.0, 32, "float32", False, 0)
    warm = Decoding(1.0, 1.0, 32, "float32", False, 0)
    keys = {
        greedy.key("w", one),
        greedy.key("v", one),
        greedy.key("w", other),
        Decoding(0.0, 1.0, 33, "float32", False, 0).key("w", one),
        Decoding(0.0, 1.0, 32, "bfloat16", False, 0).key("w", one),
        Decoding(0.0, 1.0, 32, "float32", True, 0).key("w", one),
        warm.key("w", one),
        Decoding(1.0, 1.0, 32, "float32", False, 1).key("w", one),
        Decoding(0.0, 1.0, 32, "float32", False, 0, chat_template="{{ x }}").key("w", one),
        Decoding(0.0, 1.0, 32, "float32", False, 0, template_values={"thinking": False}).key("w", one),
    }
    assert len(keys) == 10
    # As it was before there were chats, templates and their values: answers that are kept stay known.
    assert greedy.key("w", replace(one, prompt="q")) == "bc01c00e097ab253f89d8f3a857e0b76"
    assert Decoding(0.0, 1.0, 32, "float32", False, 5).key("w", one) == greedy.key("w", one)


def test_the_first_answer_stays(tmp_path: Path) -> None:
    with EvalCache.open(tmp_path / "deep" / "c.sqlite") as cache:
        cache.put_answers({f"k{n}": Answer(f"{n}", "stop", n) for n in range(1200)})
        cache.put_answers({"k7": Answer("other")})
    with EvalCache.open(tmp_path / "deep" / "c.sqlite") as cache:
        found = cache.get_answers([f"k{n}" for n in range(1300)])
    assert len(found) == 1200
    assert found["k7"] == Answer("7", "stop", 7)


def test_a_file_that_is_no_cache(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(UserError, match="cannot be used .* remove the file"), EvalCache.open(path):
        pass
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="version 99"), EvalCache.open(path):
        pass
    with (
        pytest.raises(UserError, match="cannot be used .* another folder with --cache"),
        EvalCache.open(path / "below"),
    ):
        pass


def test_checksum_of_a_model(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    with EvalCache.open(tmp_path / "c.sqlite") as cache:
        with pytest.raises(UserError, match=r"has no config.json"):
            model_checksum(model, cache)
        (model / "config.json").write_text("{}", encoding="utf-8")
        with pytest.raises(UserError, match=r"has no \*.safetensors"):
            model_checksum(model, cache)
        (model / "model.safetensors").write_bytes(b"a" * 1000)
        seen = [model_checksum(model, cache)]
        assert model_checksum(model, cache) == seen[0]
        (model / "model.safetensors").write_bytes(b"b" * 1001)
        seen.append(model_checksum(model, cache))
        (model / "chat_template.jinja").write_text("{{ x }}", encoding="utf-8")
        seen.append(model_checksum(model, cache))
        (model / "notes.md").write_text("x", encoding="utf-8")
        assert model_checksum(model, cache) == seen[-1]
    assert len(set(seen)) == 3
