"""Suites of others in the files that they are published in, suites of one's own with other fields, and pass rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.evals.evaluate import EvalRequest, run_eval
from configs.errors import UserError
from configs.load import load_section
from configs.schema import PromptsConfig
from evaluation.fidelity import answer_fidelity
from evaluation.pass_rates import line_passes, word_passes, words
from evaluation.suites.figures import Figure, pass_figures
from evaluation.suites.mgsm_prompts import WORDS
from evaluation.suites.read import load_suite
from evaluation.suites.records import Answer, Suite
from rollout.language import LanguageDetector
from rollout.records import Message
from tests.kits.forms import turn, write


def asked(suite: Suite) -> dict[str, list[tuple[str, object]]]:
    return {code: [(item.id, item.prompt) for item in suite.of(code)] for code in suite.languages}


def test_m_arenahard(tmp_path: Path) -> None:
    for code, prompt in (("ar", "اكتب قصيدة"), ("zh", "写一首诗"), ("en", "Write a poem")):
        rows = [
            {"question_id": key, "category": "arena-hard-v0.1", "cluster": "Poetry", "prompt": f"{prompt} {key}"}
            for key in ("328c149e", "9b8c2d30")
        ]
        write(tmp_path / code / "test-00000-of-00001.parquet", rows)
    suite = load_suite("m-arenahard", str(tmp_path), languages=["zh", "en"])
    assert asked(suite)["zh"] == [("328c149e", "写一首诗 328c149e"), ("9b8c2d30", "写一首诗 9b8c2d30")]
    assert not suite.has_gold
    assert load_suite("m-arenahard", str(tmp_path / "{lang}")).languages == ("ar", "en", "zh")
    alone = load_suite("m-arenahard", str(tmp_path / "zh"), languages=["zh"])
    assert alone.items == tuple(suite.of("zh"))
    with pytest.raises(UserError, match="--languages sw: m-arenahard .*; there are ar, en, zh"):
        load_suite("m-arenahard", str(tmp_path), languages=["sw"])


def test_dolly_of_aya(tmp_path: Path) -> None:
    def row(number: int, language: str, script: str, text: str) -> dict[str, Any]:
        key = {"id": 1000 + number, "source_id": 7 + number, "inputs": text, "targets": "t"}
        return {**key, "language": language, "script": script}

    edited = [row(n, "arb", "Arab", f"by people {n}") for n in range(2)]
    write(tmp_path / "dolly_human_edited" / "test-00000-of-00001.parquet", edited)
    machine = [row(n, *tag, f"machine {n}") for tag in (("arb", "Arab"), ("swh", "Latn")) for n in range(2)]
    machine.append(row(0, "zho", "Hant", "machine Hant"))
    write(tmp_path / "dolly_machine_translated" / "test-00000-of-00001.parquet", machine)
    write(tmp_path / "aya_human_annotated" / "test-00000-of-00001.parquet", [row(0, "yor", "Latn", "Báwo?")])
    assert asked(load_suite("aya", str(tmp_path))) == {
        "ar": [("7", "by people 0"), ("8", "by people 1")],
        "sw": [("7", "machine 0"), ("8", "machine 1")],
        "zh-Hant": [("7", "machine Hant")],
    }
    assert asked(load_suite("aya", str(tmp_path / "dolly_machine_translated"), languages=["ar"])) == {
        "ar": [("7", "machine 0"), ("8", "machine 1")]
    }
    assert load_suite("aya", str(tmp_path / "aya_human_annotated")).languages == ("yo",)
    write(tmp_path / "other" / "x.jsonl", [{"id": 1, "prompt": "x", "language": "sw"}])
    with pytest.raises(UserError, match=r"x\.jsonl: has no column inputs, targets, which rows of CohereLabs/aya_eval"):
        load_suite("aya", str(tmp_path / "other"))


def test_language_confusion_prompts(tmp_path: Path) -> None:
    for code, name in (("fr", "French"), ("ja", "Japanese")):
        rows = [
            {"prompt": f"Reply in {name}. {text}", "location": "Start", "phrasing": "reply in", "language": code,
             "source": "okapi"}
            for text in ("Explain tides.\nTopic: water", "Why is the sky blue?")
        ]  # fmt: skip
        write(tmp_path / "crosslingual" / "okapi" / f"{code}.csv", rows)
    mono = [{"prompt": "Pourquoi le ciel est-il bleu ?", "source": "native", "language": "fr"}]
    write(tmp_path / "monolingual" / "native" / "fr.csv", mono)
    both = load_suite("language-confusion", str(tmp_path), languages=["fr"])
    assert [item.id for item in both.items] == ["crosslingual/okapi/1", "crosslingual/okapi/2", "monolingual/native/1"]
    cross = load_suite("language-confusion", str(tmp_path / "crosslingual"))
    assert asked(cross)["ja"][0] == ("okapi/1", "Reply in Japanese. Explain tides.\nTopic: water")
    assert load_suite("language-confusion", str(tmp_path / "crosslingual/okapi/{lang}.csv")).languages == ("fr", "ja")
    with pytest.raises(UserError, match="needs --data .*; it is test_sets/monolingual and .* of for-ai/language-conf"):
        load_suite("language-confusion", None)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="at any depth"):
        load_suite("language-confusion", str(tmp_path / "none"))


def test_a_suite_of_ones_own_may_have_other_fields(tmp_path: Path) -> None:
    rows = [{"key": n, "question": f"Q{n}", "truth": n, "tongue": tag} for n in range(2) for tag in ("Swahili", "eng")]
    path = write(tmp_path / "mine.csv", rows)
    file = tmp_path / "fields.yaml"
    file.write_text("prompts: {id_field: key, text_field: question, answer_field: truth, language_field: tongue}\n")
    fields = load_section(file, "prompts", PromptsConfig, ["prompts.system=Be kind."])
    suite = load_suite("custom", str(path), prompts=fields)
    assert asked(suite)["sw"][1] == ("1", (Message("system", "Be kind."), Message("user", "Q1")))
    assert [item.gold for item in suite.items] == ["0", "1"] * 2
    assert suite.items[0].instruction == "Q0"  # what a judge is shown
    chat = [turn("system", "S"), turn("user", "a"), turn("assistant", "b"), turn("user", "c")]
    write(tmp_path / "chats" / "swh_Latn.jsonl.gz", [{"id": 1, "messages": chat}])
    (one,) = load_suite("custom", str(tmp_path / "chats")).items
    assert (one.language, one.prompt) == ("sw", tuple(Message(**part) for part in chat))
    write(tmp_path / "twice" / "sw.jsonl", rows[:1])
    write(tmp_path / "twice" / "swh_Latn.csv", rows[:1])
    with pytest.raises(UserError, match=r"sw\.jsonl and .*swh_Latn\.csv are both 'sw'; remove one"):
        load_suite("custom", str(tmp_path / "twice"))
    for overrides, message in (
        (
            ("prompts.text_field=question",),
            "prompts.text_field: --suite mgsm takes prompts.frame, prompts.system alone",
        ),
        (("learner.beta=1",), "only judge.field=value and prompts.field=value may follow the model"),
    ):
        with pytest.raises(UserError, match=message):
            run_eval(EvalRequest("mgsm", answers=path, data=str(tmp_path), overrides=overrides))


def test_a_frame_takes_the_place_of_the_suites_words(tmp_path: Path) -> None:
    write(tmp_path / "sw.jsonl", [{"query": "Tano {language}?", "response": "7"}])
    write(tmp_path / "fi.jsonl", [{"query": "Viisi?", "response": "7"}])
    frame = PromptsConfig(frame="Solve in {language}: {prompt}")
    assert asked(load_suite("mgsm", str(tmp_path), prompts=frame)) == {
        "fi": [("1", "Solve in Finnish: Viisi?")],
        "sw": [("1", "Solve in Swahili: Tano {language}?")],
    }
    own = load_suite("mgsm", str(tmp_path), languages=["sw"], prompts=PromptsConfig(system={"sw": "Kwa {language}."}))
    assert own.items[0].prompt == (
        Message("system", "Kwa Swahili."),
        Message("user", f"{WORDS['sw'].instruction}\n\nTano {{language}}?"),
    )
    with pytest.raises(UserError, match="--shots 1: prompts.frame is put in place of the suite's words"):
        load_suite("mgsm", str(tmp_path), languages=["sw"], shots=1, prompts=frame)


RUSSIAN = "Приливы вызывает притяжение Луны, которая обращается вокруг Земли."


@pytest.mark.parametrize(
    ("text", "language", "by_line", "by_word"),
    [
        (RUSSIAN, "ru", True, True),
        (f"{RUSSIAN}\nThe tides are caused by the pull of the Moon.", "ru", False, None),
        (f"{RUSSIAN}\nOf the Moon.", "ru", True, True),  # a line of three words counts as little as in the benchmark
        (RUSSIAN.replace("Луны", "luna"), "ru", True, False),
        (RUSSIAN.replace("Луны", "Moon"), "ru", True, True),  # a name
        (RUSSIAN.replace("Луны", "`moon`"), "ru", True, True),  # code has no language
        ("潮汐是由月球的引力引起的，它每天涨落两次。", "zh", True, True),
        ("潮汐是由月球的 gravity 引起的，它每天涨落两次。", "zh", True, False),
        ("Las mareas se deben a la atracción de la Luna sobre el agua.", "es", True, None),
        ("Да.", "ru", None, None),
        ("", "ru", None, None),
    ],
)
def test_line_and_word_pass(text: str, language: str, by_line: bool | None, by_word: bool | None) -> None:
    found = answer_fidelity(text, language, LanguageDetector(["en", "es", "ru", "zh"]))
    assert line_passes(text, found) is by_line
    assert (word_passes(text, language) if by_line else None) is by_word


def test_words_of_scripts_without_spaces() -> None:
    assert words("one two  three") == 3
    assert words("潮汐每天涨落两次") == 1 + 4


def test_pass_rates_by_language(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "language": code, "source": "okapi"} for n in range(4) for code in ("ru", "es")]
    suite = load_suite("language-confusion", str(write(tmp_path / "all.csv", rows)))
    spanish = "Las mareas se deben a la atracción de la Luna sobre el agua."
    english = "The tides are caused by the pull of the Moon on the water."
    said = {
        "ru": [RUSSIAN, RUSSIAN.replace("Луны", "luna"), english, "Да."],
        "es": [spanish, spanish, spanish, english],
    }
    answers = {
        item.key: Answer(said[item.language][index]) for code in said for index, item in enumerate(suite.of(code))
    }
    detector = LanguageDetector(["en", "es", "ru"])
    found = {key: answer_fidelity(answer.text, key[0], detector) for key, answer in answers.items()}
    figures = {(figure.name, figure.language): figure for figure in pass_figures(suite, answers, found)}

    def shown(name: str, code: str) -> tuple[Any, ...]:
        figure: Figure = figures[name, code]
        return figure.value, figure.items, figure.counts

    assert shown("line_pass_rate", "ru") == (pytest.approx(200 / 3), 3, {"no_line_decided": 1})
    assert shown("line_pass_rate", "es") == (75.0, 4, {"no_line_decided": 0})
    assert shown("word_pass_rate", "ru") == (50.0, 2, {"latin_script": 0})
    assert shown("word_pass_rate", "es") == (None, 0, {"latin_script": 3})
    assert shown("word_pass_rate", "all")[0] == 50.0
    assert figures["line_pass_rate", "ru"].ci95 is not None
