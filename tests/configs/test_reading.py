"""Files and values of strangers: the one layer that reads them, and what its users make of it."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from configs.errors import UserError
from configs.language_codes import code_cure, is_code, refusal, standard_code
from configs.load import load_config
from configs.reading import files_in, gib_apart, is_file, is_folder, kind, parse_json, read_bytes, read_json, shown
from evaluation.annotations import annotation_table
from evaluation.suites.cache import EvalCache
from evaluation.suites.records import Answer
from evaluation.suites.verdicts import read_others
from judges.cache import Answer as Verdict
from judges.cache import VerdictCache
from rollout.jsonl import LONGEST_ID, id_of, text_of
from rollout.languages import language_name


@pytest.mark.parametrize(
    "name", ["a\0b", "\ud800", "n" * 300, "/".join(["p" * 200] * 30), "/dev/zero", "/dev/null", "."]
)
def test_a_path_that_is_no_files_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as refused:
        read_bytes(tmp_path / name, "anchor pairs")
    assert len(str(refused.value)) < 1000
    assert "\0" not in str(refused.value)
    assert not is_file(tmp_path / name)
    assert not files_in(tmp_path / name, "*.x")
    assert is_folder(tmp_path / name) == (name == ".")


def test_a_pipe_that_nobody_writes_to_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: is a pipe, socket or device"):
        read_bytes(tmp_path / "pipe", "answers")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "x:1 column 2|not valid JSON at column 2"),
        ('{"a":\n 1,}', r"^x:2: not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"n": ' + "7" * 5000 + "}", "a number of thousands of digits"),
    ],
)
def test_json_that_cannot_be_read(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        parse_json(text, "x", "write it again")


def test_what_a_message_repeats_is_cut_and_printable() -> None:
    assert shown("z" * 10**7) == "z" * 200 + "…"
    assert shown("a\x1b[31m\u202eb\ud800\n") == r"a\x1b[31m\u202eb\ud800\n"
    assert len(shown({"k": "v" * 10**6}, 40)) == 41
    values: list[object] = [None, True, 1.5, [], {}]
    assert [kind(value) for value in values] == [
        "null", "true or false", "a number", "a list", "an object"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "cure"),
    [
        (None, "is null; fill it in or remove"),
        (12, "is a number instead of a text; put it in quotes"),
        (False, "is true or false instead of a text; put it in quotes"),
        (["a"], "is a list instead of a text; write the text itself"),
        ({"a": 1}, "is an object instead of a text; write the text itself"),
    ],
)
def test_the_cure_is_that_of_the_value(value: object, cure: str) -> None:
    with pytest.raises(UserError, match=f"f:1: field 'prompt' {cure}"):
        text_of({"prompt": value}, "prompt", "f:1")


def test_an_id_of_a_thousand_characters_is_none() -> None:
    assert id_of({"id": "x" * LONGEST_ID}, "id", "f:1") == "x" * LONGEST_ID
    with pytest.raises(UserError, match="f:1: field 'id' has 1001 characters, an id at most 1000"):
        id_of({"id": "x" * (LONGEST_ID + 1)}, "id", "f:1")


@pytest.mark.parametrize(
    ("text", "standard"),
    [
        ("pt_BR", "pt-BR"),
        ("arb_Arab", "ar"),
        ("eng_Latn", "en"),
        ("zho_Hant", "zh-Hant"),
        ("swh_Latn", "sw"),
        ("PT-br", "pt-BR"),
        ("sr_latn", "sr-Latn"),
        ("zh-hant", "zh-Hant"),
        ("eng", "en"),
        ("ENG", "en"),
        ("zho_Hans", "zh-Hans"),
        ("kor_Hang", "ko"),
        ("srp_Cyrl", "sr"),
        ("kas_Deva", "ks-Deva"),
        ("arz_Arab", "arz"),
        ("yue_Hant", "yue"),
        ("tl", "tl"),
        ("English", None),
        ("xx_YY", None),
        ("", None),
        ("z" * 10**6, None),
    ],
)
def test_what_another_spelling_of_a_code_means(text: str, standard: str | None) -> None:
    assert standard_code(text) == standard
    assert standard is None or code_cure(text) == f"write {standard}"
    assert is_code(text) == (text in ("zh-hant", "eng", "tl"))
    assert len(refusal(text)) < 200


def test_a_config_takes_a_tag_in_any_spelling() -> None:
    config = load_config(Path("configs/demo.yaml"), ["languages.codes=[EN, pt_BR, swh_Latn, zho_Hant]"])
    assert config.languages.codes == ["en", "pt-BR", "sw", "zh-Hant"]
    with pytest.raises(UserError, match="a language is named twice"):
        load_config(Path("configs/demo.yaml"), ["languages.codes=[en, eng, sw]"])
    with pytest.raises(UserError, match="'en-' is no language code"):
        load_config(Path("configs/demo.yaml"), ["languages.codes=[en, en-]"])


def test_an_unknown_name_is_asked_for_with_its_own_cure() -> None:
    with pytest.raises(UserError, match=r"'zh-hant'; write zh-Hant, which is Traditional Chinese, or add one"):
        language_name("zh-hant", {})
    with pytest.raises(UserError, match="'de-CH'; add one, .* like German for de"):
        language_name("de-CH", {})
    with pytest.raises(UserError, match="'yi'; add one"):
        language_name("yi", {})
    assert language_name("zh-hant", {"zh-hant": "Chinese"}) == "Chinese"


ROW = "item,preference,baseline_chars,model_chars\n"


def test_a_foreign_csv_among_others_is_left_out_and_said(tmp_path: Path) -> None:
    model, others = tmp_path / "m.csv", tmp_path / "others"
    others.mkdir()
    model.write_text(ROW + "a,1,10,12\nb,2,11,9\n")
    (others / "known.csv").write_text(ROW + "a,2,10,20\nb,2,11,30\n")
    (others / "prices.csv").write_text("day;price\n1;2\n")
    said: list[str] = []
    table = annotation_table([model], others, "en", resamples=20, say=said.append)
    assert len(table) == 1
    assert len(said) == 1
    assert "prices.csv:1: column item is missing" in said[0]
    assert said[0].startswith("left out: ")
    done = CliRunner().invoke(app, ["win-rate", str(model), "--others", str(others)])
    assert done.exit_code == 0, done.output
    assert "prices.csv" in done.stderr
    (others / "known.csv").write_text(ROW + "a,7,10,20\n")  # of ours, and wrong: nothing to pass over
    with pytest.raises(UserError, match=r"known\.csv:2: preference is 7"):
        annotation_table([model], others, "en", resamples=20, say=said.append)
    (model).write_text("day;price\n1;2\n")
    with pytest.raises(UserError, match=r"m\.csv:1: column item is missing"):
        annotation_table([model], None, "en", resamples=20)


@pytest.mark.parametrize("cell", ["inf", "1e400", "-3"])
def test_a_length_is_a_number_of_characters(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(ROW + f"a,1,10,{cell}\n")
    with pytest.raises(UserError, match=r"m\.csv:2: model_chars is .*; a length is a number of characters"):
        annotation_table([path], None, "en", resamples=20)


@pytest.mark.parametrize(
    ("column", "value"),
    [("preference", "half"), ("preference", 7.0), ("preference", b"\1"), ("source", "x"), ("words", b"A"),
     ("prompt_tokens", "many"), ("completion_tokens", -1)],
)  # fmt: skip
def test_a_damaged_verdict_is_not_taken(tmp_path: Path, column: str, value: object) -> None:
    path = tmp_path / "v.sqlite"
    with VerdictCache(path) as cache:
        cache.put(b"k", "j", "label/1", "en", Verdict(0.25, "logprobs", "A", 3, 1))
        assert cache.get([b"k"])[b"k"].preference == 0.25
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE verdicts SET {column} = ?", (value,))
    with VerdictCache(path) as cache, pytest.raises(UserError, match="damaged verdict .*remove the file"):
        cache.get([b"k"])


@pytest.mark.parametrize("change", ["DROP TABLE answers", "ALTER TABLE answers RENAME COLUMN text TO words",
                                    "UPDATE answers SET text = x'ff'", "UPDATE answers SET tokens = 'x'"])  # fmt: skip
def test_a_damaged_cache_of_answers_says_so(tmp_path: Path, change: str) -> None:
    path = tmp_path / "e.sqlite"
    with EvalCache.open(path) as cache:
        cache.put_answers({"a": Answer("x", "stop", 3)})
    with sqlite3.connect(path) as db:
        db.execute(change)
    with EvalCache.open(path) as cache, pytest.raises(UserError, match=r"e\.sqlite: the cache .*remove the file"):
        cache.get_answers(["a"])


def test_an_earlier_evaluation_that_names_a_prompt_twice(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"suite": "custom", "against": {"answers": "x"}}))
    row = {"id": 1, "language": "en", "preference": 1.0, "baseline_chars": 10**400}
    path = tmp_path / "verdicts.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="verdicts.jsonl:1: baseline_chars is no finite number"):
        read_others([tmp_path], "custom", "x")
    path.write_text((json.dumps(row | {"baseline_chars": 3}) + "\n") * 2)
    with pytest.raises(UserError, match=r"verdicts.jsonl:2: id '1' \(en\) occurs twice"):
        read_others([tmp_path], "custom", "x")
    (tmp_path / "result.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="nested too deeply"):
        read_others([tmp_path], "custom", "x")
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "none.json", "a result", "evaluate again")


def test_sizes_are_told_apart() -> None:
    assert gib_apart(0.0154, 0.0246) == ("0.015", "0.025")
    assert gib_apart(0.0234, 0.0241) == ("0.023", "0.024")
    assert gib_apart(1.5, 20) == ("1.50", "20.00")
    assert gib_apart(1.0, 1.0) == ("1.000000000", "1.000000000")
