"""Prompts as they lie about: one file or many, chats, suites of others; and a chat's way through a round."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.plan.preflight import check_inputs
from actors.train.dry_run import check_readable
from configs.errors import UserError
from configs.schema import PromptsConfig
from evaluation.heldout import heldout_chunks
from judges.tournament import tournament
from rollout.plan import answer_chunks
from rollout.prompts import PromptSet
from rollout.records import CandidateKey, Message, SampleGroup
from rollout.rewards import baseline_prompt, reward_prompt
from rollout.store import Store
from rollout.store_export import export_parquet
from tests.kits.forms import turn, write
from tests.kits.rollout import candidate, make_config
from tests.kits.run import small_config


def prompts(pattern: Path | str, codes: list[str] | None = None, limit: int | None = None, **fields: Any) -> PromptSet:
    languages = make_config(languages={"codes": codes or ["en", "sw"], "dominant": (codes or ["en"])[0]}).languages
    return PromptSet.load(str(pattern), languages, PromptsConfig(**fields), limit=limit)


def test_one_file_with_a_language_column(tmp_path: Path) -> None:
    rows = [
        {"id": n, "prompt": f"{tag} {n}", "language": tag, "system": "Be kind." if n else ""}
        for n in range(2)
        for tag in ("eng_Latn", "Swahili", "fr")
    ]
    found = prompts(write(tmp_path / "all.csv", rows))
    assert found.ids == ("0", "1")
    assert found.get("0", "sw").text == "Swahili 0"
    assert found.get("1", "sw").turns == (Message("system", "Be kind."), Message("user", "Swahili 1"))
    assert found.location("1", "sw") == f"{tmp_path}/all.csv:6"
    assert found.left_out.counts == {"language 'fr' is not in languages.codes": 2}
    with pytest.raises(UserError, match=r"has no prompt in language 'de'; add some"):
        prompts(tmp_path / "all.csv", ["en", "de"])
    write(tmp_path / "none.csv", [{"id": 1, "prompt": "x"}])
    with pytest.raises(UserError, match=r"none\.csv:2: field 'language' is missing.*or put \{lang\} into the path"):
        prompts(tmp_path / "none.csv")


def test_an_incomplete_parallel_set(tmp_path: Path) -> None:
    write(tmp_path / "en.jsonl", [{"id": n, "prompt": f"q{n}"} for n in range(4)])
    write(tmp_path / "swh_Latn.jsonl", [{"id": n, "prompt": f"s{n}"} for n in (3, 1, 9)])
    pattern = tmp_path / "{lang}.jsonl"
    with pytest.raises(
        UserError, match=r"2 id\(s\) .* missing in language 'sw'.*or set prompts\.incomplete: leave_out"
    ):
        prompts(pattern)
    found = prompts(pattern, incomplete="leave_out")
    assert found.ids == ("1", "3")
    assert found.left_out.counts == {"its id is missing in sw": 2, "its id is missing in en": 1}
    write(tmp_path / "swh_Latn.jsonl", [{"id": 9, "prompt": "s"}])
    with pytest.raises(UserError, match="no id is there in all of en, sw"):
        prompts(pattern, incomplete="leave_out")


def test_prompts_as_messages(tmp_path: Path) -> None:
    chat = [turn("system", "Be kind."), turn("user", "1"), turn("assistant", "2"), turn("user", "3")]
    write(tmp_path / "en.parquet", [{"id": "a", "messages": [*chat, turn("assistant", "4")]}])
    write(tmp_path / "sw.parquet", [{"id": "a", "messages": chat}])
    found = prompts(tmp_path / "{lang}.parquet")
    assert found.forms == ("messages",)
    assert found.get("a", "en").turns == found.get("a", "sw").turns == tuple(Message(**one) for one in chat)
    write(tmp_path / "en.jsonl", [{"id": "a", "prompt": chat}])
    sharegpt = [{"from": "system", "value": ""}, {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    write(tmp_path / "sw.jsonl", [{"id": "a", "conversations": sharegpt}])
    found = prompts(tmp_path / "{lang}.jsonl")
    assert found.forms == ("plain", "messages")
    assert found.get("a", "sw").turns == "Q"
    for bad, message in (
        ([turn("assistant", "x")], "has no user's turn at its end"),
        ([turn("tool", "x")], "message 1: unknown role tool"),
        ("x", "field 'messages' is a text instead of a list"),
    ):
        write(tmp_path / "sw.jsonl", [{"id": "a", "messages": bad}])
        with pytest.raises(UserError, match=message):
            prompts(tmp_path / "{lang}.jsonl")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"history": [["a", "b"]]}, "field 'history' would be left out of the prompt; put it into 'prompt'"),
        ({"system_prompt": "x"}, "field 'system_prompt' would be left out .*; set prompts.system_field: system_prompt"),
        ({"system": 3}, "field 'system' is a number"),
        ({"prompt": [turn("user", "a"), turn("assistant", "b")]}, "must end with a user's turn; cut the answer off"),
        ({"prompt": [turn("system", "a"), turn("user", "b")], "system": "c"}, "and the system turn .* are different"),
    ],
)
def test_prompts_that_would_be_read_in_part(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    for code in ("en", "sw"):
        write(tmp_path / f"{code}.jsonl", [{"id": 1, "prompt": "Q", **row}])
    with pytest.raises(UserError, match=message):
        prompts(tmp_path / "{lang}.jsonl")


def test_suites_of_others_as_prompts(tmp_path: Path) -> None:
    dolly = [
        {"id": 100 + n, "inputs": f"{tag} {n}", "targets": "t", "language": tag, "script": "Latn", "source_id": n}
        for tag in ("eng", "swh", "fra")
        for n in range(2)
    ]
    found = prompts(write(tmp_path / "dolly.parquet", dolly))
    assert (found.forms, found.ids, found.get("1", "sw").text) == (("aya",), ("0", "1"), "swh 1")

    for code in ("en", "sw"):
        hard = [{"question_id": f"h{n}", "cluster": "c", "category": "x", "prompt": f"{code} {n}"} for n in range(2)]
        write(tmp_path / "hard" / code / "test-00000-of-00001.parquet", hard)
    found = prompts(tmp_path / "hard" / "{lang}")
    assert (found.forms, found.ids, found.get("h1", "sw").text) == (("arena-hard",), ("h0", "h1"), "sw 1")

    for code in ("fr", "de"):
        asked = [{"prompt": f"Reply in {code}.\n{n}", "source": "okapi", "language": code} for n in range(2)]
        write(tmp_path / "confusion" / f"{code}.csv", asked)
    found = prompts(tmp_path / "confusion" / "{lang}.csv", ["fr", "de"])
    assert (found.forms, found.ids) == (("language-confusion",), ("okapi/1", "okapi/2"))

    for code in ("en", "sw"):
        write(tmp_path / f"{code}.json", [{"id": 1, "instruction": "Add.", "input": "1 2", "output": "3"}])
    found = prompts(tmp_path / "{lang}.json")
    assert (found.forms, found.get("1", "en").text) == (("alpaca",), "Add.\n\n1 2")


SYSTEM = Message("system", "Be kind.")


def chats(folder: Path) -> PromptSet:
    for code in ("en", "sw"):
        write(folder / f"{code}.jsonl", [{"id": n, "prompt": f"{code} {n}", "system": "Be kind."} for n in range(2)])
    return prompts(folder / "{lang}.jsonl")


def test_a_chat_is_sampled_scored_and_judged_as_one(tmp_path: Path) -> None:
    config = make_config(languages={"codes": ["en", "sw"]}, candidates={}, reward={})
    found = chats(tmp_path)
    asked = (SYSTEM, Message("user", "sw 0"))
    for chunks in (answer_chunks(config, found, 1), heldout_chunks(config, found, 0)):
        assert asked in {request.prompt for chunk in chunks for request in chunk.requests}
    answers = [candidate("0", "sw", sample, text=f"jibu {sample}") for sample in range(2)]
    lingual = reward_prompt(config.languages, config.reward.logprobs["reward"], found, answers[0])
    assert lingual[0] == SYSTEM
    assert isinstance(lingual[1], Message)
    assert lingual[1].content.startswith("Answer only in Swahili")
    assert lingual[1].content.endswith("en 0")
    native = make_config(languages={"codes": ["en", "sw"]}, reward={"prompt": "native"})
    assert reward_prompt(native.languages, native.reward.logprobs["reward"], found, answers[0]) == asked
    likelihood = make_config(
        languages={"codes": ["en", "sw"]}, reward={"kind": "likelihood", "prompt": "crosslingual", "subtract": "native"}
    )
    assert baseline_prompt(likelihood.languages, likelihood.reward.logprobs["reward"], found, answers[0]) == asked
    items, _, _ = tournament(config, found, answers)
    assert items[0].instruction == "system: Be kind.\nuser: sw 0"


def test_a_group_of_a_chat_comes_back_from_the_journal(tmp_path: Path) -> None:
    keys = tuple(CandidateKey(1, "0", "sw", "policy", "sw", sample) for sample in range(2))
    asked = (SYSTEM, Message("user", "sw 0"))
    group = SampleGroup("r0001/sw/0", 1, "0", "sw", asked, ("a", "b"), (0.0, 1.0), 0, keys)
    groups = [group, replace(group, id="r0001/sw/1", prompt=json.dumps(asked))]
    with Store.open(tmp_path / "store.sqlite", "digest") as store:
        assert store.put_groups(1, groups)
        assert store.groups(1) == groups
        export_parquet(store, tmp_path)


def test_a_template_that_refuses_a_system_turn_is_named_with_the_prompt(tmp_path: Path) -> None:
    chats(tmp_path)
    small = ["languages.codes=[en, sw]", f"prompts.train={tmp_path}/{{lang}}.jsonl", "prompts.heldout=null"]
    assert check_inputs(small_config(tmp_path, *small)).prompts.get("0", "sw").before == (SYSTEM,)
    folder = tmp_path / "model"
    shutil.copytree("worlds/default/policy", folder)
    template = folder / "chat_template.jinja"
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    template.write_text(refuses + template.read_text())
    with pytest.raises(UserError) as error:
        check_inputs(small_config(tmp_path, *small, f"model.policy={folder}"))
    assert str(error.value).startswith(f"{tmp_path}/en.jsonl:1: {folder}: its chat template refuses the prompt's turns")
    assert "(they are system, user)" in str(error.value)


def test_a_dry_run_shows_three_rows_and_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": n, "prompt": f"[bold]{tag}[/] {n}", "language": tag, "system": "Be kind."}
        for n in range(2)
        for tag in ("eng_Latn", "Swahili", "fr")
    ]
    path = write(tmp_path / "all.csv", rows)
    check_readable(
        small_config(tmp_path, "languages.codes=[en, sw]", f"prompts.train={path}", "prompts.heldout=null"), False
    )
    shown = capsys.readouterr().out
    assert "prompts.train: form plain, read as\n  0 (en)  system: Be kind. user: [bold]eng_Latn[/] 0\n" in shown
    assert shown.count("system: Be kind.") == 3
    assert f"left out: 2  language 'fr' is not in languages.codes (first: {path}:4)" in shown


def test_a_frame_and_a_system_turn(tmp_path: Path) -> None:
    for code in ("en", "sw"):
        own = [turn("system", "My own."), turn("user", "x")]
        write(tmp_path / f"{code}.jsonl", [{"id": 1, "prompt": "{prompt} \\boxed{}"}, {"id": 2, "prompt": own}])
    pattern = tmp_path / "{lang}.jsonl"
    found = prompts(pattern, frame="In {language}: {prompt} {}!", system={"sw": "Jibu kwa {language}."})
    assert found.get("1", "sw").turns == (
        Message("system", "Jibu kwa Swahili."),
        Message("user", "In Swahili: {prompt} \\boxed{} {}!"),
    )
    assert found.get("2", "sw").before == (Message("system", "My own."),)
    assert found.get("1", "en").turns == "In English: {prompt} \\boxed{} {}!"
    only = prompts(pattern, frame={"sw": "({prompt})"})
    assert [only.get("2", code).text for code in ("en", "sw")] == ["x", "(x)"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prompts.frame=no place"], r"prompts\.frame.*has \{prompt\} 0 times instead of once"),
        (["prompts.frame='{prompt}{prompt}'"], r"has \{prompt\} 2 times instead of once"),
        (["prompts.frame={xx: '{prompt}'}"], r"prompts\.frame\.xx: is no language of the run; add it to languages"),
        (["prompts.system=' '"], r"prompts\.system.*is empty; leave it out"),
        (
            ["prompts.frame='{prompt} ({language})'"],
            r"prompts\.frame: \{language\} names .* set reward\.prompt to nati",
        ),
    ],
)
def test_frames_that_cannot_be_meant(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small_config(tmp_path, *overrides)
    small_config(tmp_path, "prompts.frame='{prompt} ({language})'", "reward.prompt=native")
