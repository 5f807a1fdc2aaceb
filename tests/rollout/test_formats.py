"""Data as it lies about: every form and every kind of file, as others publish them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, get_args

import pytest

from configs.errors import UserError
from configs.inputs import PreferenceForm, PromptForm
from configs.language_codes import same_language
from configs.schema import Config
from rollout.formats.files import columns_of, read_table, table_files
from rollout.formats.forms import PREFERENCES, PROMPTS
from rollout.languages import language_code
from rollout.preferences import Reading, read_preferences
from rollout.records import Message
from tests.kits.forms import turn, write


def offline(path: Path | str, codes: list[str] | None = None, **more: Any) -> Config:
    languages = {"codes": codes or [], "dominant": "en"}
    return Config.model_validate(
        {"model": {"policy": "x"}, "languages": languages, "offline": {"path": str(path), **more}}
    )


def read(path: Path | str, codes: list[str] | None = None, **more: Any) -> Reading:
    return read_preferences(offline(path, codes, **more))


HELPSTEER3 = [
    {"domain": "general", "language": "english", "context": [turn("user", "Name a fruit.")], "response1": "An apple.",
     "response2": "A car.", "overall_preference": -3, "individual_preference": [{"score": -3}]},
    {"domain": "multilingual", "language": "korean", "context": [turn("user", "a"), turn("assistant", "b"),
     turn("user", "c")], "response1": "나쁨", "response2": "좋음", "overall_preference": 2},
    {"domain": "code", "language": "python", "context": [turn("user", "Print 1.")], "response1": "print(1)",
     "response2": "echo 1", "overall_preference": -1, "individual_preference": []},
    {"domain": "stem", "language": "english", "context": [turn("user", "2+2?")], "response1": "4", "response2": "four",
     "overall_preference": 0, "individual_preference": []},
]  # fmt: skip


def test_helpsteer3(tmp_path: Path) -> None:
    found = read(write(tmp_path / "train.jsonl.gz", HELPSTEER3))
    assert found.forms == ("helpsteer3",)
    assert [(one.language, one.chosen, one.rejected) for one in found.rows] == [
        ("en", "An apple.", "A car."),
        ("ko", "좋음", "나쁨"),
        ("en", "print(1)", "echo 1"),
    ]
    assert found.rows[1].prompt == (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert found.left_out.lines() == [f"1  no preference (overall_preference 0) (first: {tmp_path}/train.jsonl.gz:4)"]


def battle(winner: str, language: str = "English", **more: Any) -> dict[str, Any]:
    chats = [[turn("user", "Hi"), turn("assistant", answer)] for answer in ("from a", "from b")]
    return {"question_id": f"q-{winner}", "model_a": "m1", "model_b": "m2", "winner": winner, "judge": "x",
            "conversation_a": chats[0], "conversation_b": chats[1], "language": language, **more}  # fmt: skip


def test_arena_battles(tmp_path: Path) -> None:
    later = [[turn("user", "1"), turn("assistant", a), turn("user", "2"), turn("assistant", a)] for a in "xy"]
    rows = [
        battle("model_a"),
        battle("model_b", "Portuguese", question_id="x"),
        battle("tie"),
        battle("tie (bothbad)"),
        battle("both_bad"),
        battle("model_a", "unknown"),
        battle("model_a", conversation_a=later[0], conversation_b=later[1]),
    ]
    found = read(write(tmp_path / "arena.parquet", rows), ["en", "pt"])
    assert found.forms == ("arena",)
    assert [(one.id, one.language, one.prompt, one.chosen) for one in found.rows] == [
        ("q-model_a@arena.parquet:1", "en", "Hi", "from a"),
        ("x@arena.parquet:2", "pt", "Hi", "from b"),
    ]
    assert found.left_out.counts == {
        "a tie": 3,
        "language 'unknown' is no language code": 1,
        "several turns, answered differently before the last": 1,
    }


def test_arena_battles_of_2025_have_contents_in_parts(tmp_path: Path) -> None:
    chats = [
        [turn("user", [{"type": "text", "text": "Cześć"}]), turn("assistant", [{"type": "text", "text": text}])]
        for text in ("a", "b")
    ]
    picture = [turn("user", [{"type": "image", "text": None}]), *chats[0][1:]]
    rows = [
        {"id": "1", "winner": "model_b", "language": "pl", "conversation_a": chats[0], "conversation_b": chats[1]},
        {"id": "2", "winner": "model_b", "language": "pl", "conversation_a": picture, "conversation_b": picture},
    ]
    found = read(write(tmp_path / "a.jsonl", rows))
    assert [(one.language, one.prompt, one.chosen, one.rejected) for one in found.rows] == [("pl", "Cześć", "b", "a")]
    assert found.left_out.total == 1


def test_ultrafeedback_binarized(tmp_path: Path) -> None:
    sides = [[turn("user", "Q"), turn("assistant", answer)] for answer in ("good", "bad", "bad")]
    base = {"prompt": "Q", "prompt_id": "0f1", "score_chosen": 8.0, "score_rejected": 2.0, "messages": sides[0]}
    rows = [base | {"chosen": sides[0], "rejected": sides[1]}, base | {"chosen": sides[1], "rejected": sides[2]}]
    found = read(write(tmp_path / "train_prefs.parquet", rows))
    assert found.forms == ("ultrafeedback",)
    assert [(one.id, one.prompt, one.chosen, one.rejected) for one in found.rows] == [
        ("0f1@train_prefs.parquet:1", "Q", "good", "bad")
    ]
    assert found.left_out.counts == {"chosen and rejected are equal": 1}


def test_orca_dpo_pairs_with_and_without_a_system_message(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"system": "Be brief.", "question": "Q1", "chosen": "a", "rejected": "b"},
        {"system": "", "question": "Q2", "chosen": "c", "rejected": "d"},
    ]
    found = read(write(tmp_path / "orca.csv", rows))
    assert found.forms == ("orca",)
    assert [one.prompt for one in found.rows] == [(Message("system", "Be brief."), Message("user", "Q1")), "Q2"]
    argilla = [{"system": "", "input": "Q", "chosen": "a", "rejected": "b", "status": status} for status in "xy"]
    argilla[1]["status"] = "tie"
    found = read(write(tmp_path / "argilla.jsonl", argilla))
    assert (len(found.rows), found.left_out.counts) == (1, {"a tie": 1})


def test_reward_bench_by_language_folders(tmp_path: Path) -> None:
    for tag in ("arb_Arab", "zho_Hans", "zho_Hant"):
        rows = [
            {"id": n, "language": tag, "prompt": "Q", "chosen": f"{tag} {n}", "rejected": "no", "chosen_model": "m",
             "rejected_model": "n", "source": "x", "category": "Chat"}
            for n in range(2)
        ]  # fmt: skip
        write(tmp_path / tag / "test-00000-of-00001.parquet", rows)
    found = read(tmp_path / "{lang}" / "test-00000-of-00001.parquet", ["ar", "zh", "zh-Hant", "en"])
    assert found.forms == ("reward-bench",)
    assert [(one.language, one.subset) for one in found.rows] == [("ar", "Chat")] * 2 + [("zh", "Chat")] * 2 + [
        ("zh-Hant", "Chat")
    ] * 2
    assert read(tmp_path / "{lang}").rows[0].chosen == "arb_Arab 0"


def test_all_left_out_is_refused_with_the_reasons(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [battle("tie"), battle("model_a", "Polish")])
    with pytest.raises(UserError) as error:
        read(path, ["en"])
    message = str(error.value)
    assert "offline.path: all 2 rows" in message
    assert "1  a tie" in message
    assert "language 'pl' is not in languages.codes" in message


def test_a_form_by_name_and_fields_by_name(tmp_path: Path) -> None:
    rows = [{"prompt_id": "p", "messages": [], "chosen": "good", "rejected": "bad", "question": "Q", "system": "S"}]
    path = write(tmp_path / "x.jsonl", rows)
    assert read(path, format="orca").forms == ("orca",)
    assert read(path, prompt_field="question").forms == ("plain",)
    with pytest.raises(UserError, match=r"x\.jsonl: is not of the form offline\.format arena: it has no column conv"):
        read(path, format="arena")


def test_the_forms_are_those_of_the_config() -> None:
    assert {"auto", "plain", *(form.name for form in PREFERENCES)} == set(get_args(PreferenceForm))
    assert {"auto", "plain", *(form.name for form in PROMPTS)} == set(get_args(PromptForm))


PLAIN: list[dict[str, Any]] = [
    {"id": "1", "prompt": 'one, "two"\nthree', "chosen": "good", "rejected": "bad", "language": "sw"},
    {"id": "2", "prompt": [turn("user", "Q")], "chosen": "good", "rejected": "bad", "language": "sw"},
]


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.csv", "a.csv.gz", "a.tsv", "a.parquet", "saved"]
)
def test_every_kind_of_file_holds_the_same_rows(tmp_path: Path, name: str) -> None:
    rows = PLAIN
    if name in ("a.parquet", "saved"):  # a column has one type
        rows = [PLAIN[0] | {"prompt": [turn("user", PLAIN[0]["prompt"])]}, PLAIN[1]]
    found = read(write(tmp_path / name, rows))
    assert [(one.id, one.prompt, one.language) for one in found.rows] == [
        ("1", 'one, "two"\nthree', "sw"),
        ("2", "Q", "sw"),
    ]
    assert found.forms == ("plain",)


def test_a_saved_data_set_with_several_splits_and_a_folder_of_shards(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    one = Dataset.from_list([{"prompt": f"{n}", "chosen": "a", "rejected": "b"} for n in range(4)])
    DatasetDict({"train": one, "test": one}).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(UserError, match=r"holds the splits train, test; name one, such as .*/both/train"):
        read(tmp_path / "both")
    assert len(read(tmp_path / "both" / "train").rows) == 4
    DatasetDict({"train": one}).save_to_disk(str(tmp_path / "one"))
    assert len(read(tmp_path / "one").rows) == 4
    one.save_to_disk(str(tmp_path / "shards"), num_shards=2)
    assert [row.prompt for row in read(tmp_path / "shards").rows] == ["0", "1", "2", "3"]
    (tmp_path / "shards" / "state.json").write_text('{"_data_files": [{"filename": "../../etc/passwd"}]}')
    with pytest.raises(UserError, match=r"state\.json: names no _data_files; save the data set again"):
        read(tmp_path / "shards")
    with pytest.raises(UserError, match=r"names no .* file; it has the folders both, one, shards"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"prompt,chosen,rejected\n", "the file is empty"),
        ("a.csv", b"prompt,chosen,prompt\nq,a,b\n", "a.csv:1: column 'prompt' is there twice"),
        ("a.csv", b"prompt,chosen,rejected\nq,a\n", "a.csv:2: has 2 cells where the first line names 3 columns"),
        ("a.csv", b'prompt,chosen,rejected\n"q\nr",a,b\nq,a,b,c\n', "a.csv:4: has 4 cells where"),
        ("a.csv", b'prompt,chosen,rejected\nq,"a"x,b\n', "a.csv:2: not valid CSV"),
        ("a.csv", b'prompt,chosen,rejected\nq,"a,b\n', "a.csv:2: not valid CSV"),
        ("a.csv", b"prompt,chosen,rejected\nq,\xff,b\n", "a.csv:2: not UTF-8"),
        ("a.csv", b",,\n1,2,3\n", "a.csv:1: has no column names"),
        ("a.jsonl.gz", b"no gzip", "cannot be unpacked with gzip"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 999, mtime=0)[:-9], "cannot be unpacked with gzip"),
        ("a.json", b"[1]", "a.json: entry 1: a number instead of an object"),
        ("a.json", b"[{]", "a.json: not valid JSON at column 3"),
        ("a.json", b"[]", "the file is empty"),
        ("a.arrow", b"no arrow at all", "cannot be read as Arrow"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as error:
        read(tmp_path / name)
    assert message in str(error.value)


def test_two_spellings_of_one_language_are_refused(tmp_path: Path) -> None:
    for name in ("sw", "swh_Latn", "notes-about", "en"):
        write(tmp_path / f"{name}.jsonl", PLAIN[:1])
    with pytest.raises(UserError, match=r"sw\.jsonl and .*swh_Latn\.jsonl are both 'sw'; remove one"):
        read(tmp_path / "{lang}.jsonl")
    with pytest.raises(UserError, match=r"must have \{lang\} once"):
        read(tmp_path / "{lang}" / "{lang}.jsonl")


@pytest.mark.parametrize(
    ("text", "code"),
    [("English", "en"), ("chinese", "zh"), ("Portuguese (Brazil)", "pt-BR"), ("swh_Latn", "sw"), ("und", None),
     ("unknown", None), ("Norwegian", "no"), ("Swahili ", "sw"), ("zho_Hant", "zh-Hant")],
)  # fmt: skip
def test_names_and_tags_of_languages(text: str, code: str | None) -> None:
    assert language_code(text) == code


def test_scripts_and_regions_are_kept_apart() -> None:
    assert same_language("zh-Hans", ["en", "zh"]) == "zh"
    assert same_language("zh-Hant", ["en", "zh"]) is None
    assert same_language("zh", ["zh-Hans", "zh-Hant"]) == "zh-Hans"
    assert same_language("pt-BR", ["pt"]) is None
    assert same_language("sr-Latn", ["sr"]) is None
    assert same_language("xx", ["x-odd", "en"]) is None


def test_columns_are_those_of_the_first_rows(tmp_path: Path) -> None:
    rows = read_table(write(tmp_path / "a.jsonl", [{"a": 1}, {"b": 1}]), "x")
    assert columns_of(rows) == {"a", "b"}
    assert columns_of(rows, looked_at=1) == {"a"}
    assert table_files(tmp_path, "f") == [tmp_path / "a.jsonl"]
