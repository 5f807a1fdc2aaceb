"""The language detector with an expected language, and what counts as an answer."""

from __future__ import annotations

import unicodedata

import pytest

from rollout.gates import apply_gates
from rollout.language import LanguageDetector, answer_part, normalised, visible
from rollout.rewards import is_correct
from tests.kits.rollout import candidate, make_config

RUN = ["en", "es", "fr", "de", "ru", "sw"]


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("es", "Todos os seres humanos nascem livres e iguais em dignidade e em direitos."),  # pt
        ("es", "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti."),  # it
        ("de", "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren."),  # nl
        ("ru", "Всі люди народжуються вільними і рівними у своїй гідності та правах."),  # uk
        ("ru", "Всички хора се раждат свободни и равни по достойнство и права."),  # bg
        ("sw", "Semua orang dilahirkan merdeka dan mempunyai martabat dan hak-hak yang sama."),  # id
        ("sr-Latn", "Сва људска бића рађају се слободна и једнака у достојанству и правима."),
        ("hi", "Sabhi manushya swatantra paida hote hain aur unke adhikar saman hain."),
        ("zh-Hans", "人人生而自由，在尊嚴和權利上一律平等。他們賦有理性和良心。"),
    ],
)
def test_neighbours_and_foreign_scripts_are_other(asked: str, text: str) -> None:
    assert LanguageDetector([*RUN, *([] if asked in RUN else [asked])]).judge(text, asked).outcome == "other"


def test_without_a_model_a_text_is_undecided_but_english_is_found_out() -> None:
    detector = LanguageDetector(["en", "ha"])
    assert detector.undetectable == ("ha",)
    assert detector.judge("Abuja ita ce babban birnin tarayyar Najeriya.", "ha").outcome == "undecided"
    english = "The capital of the country lies near the sea and is very beautiful in summer."
    assert detector.judge(english, "ha")[:2] == ("other", "en")


def test_code_is_no_language_and_short_han_is_decided() -> None:
    code = "```python\n" + "for number in range(10):\n    print('hello there', number)\n" * 4 + "```"
    assert LanguageDetector(["en", "th"]).judge(f"นี่คือคำตอบของคำถามนี้\n{code}", "th").outcome == "right"
    assert LanguageDetector(["en", "zh"]).judge("北京大学", "zh").outcome == "right"


def test_reasoning_is_no_part_of_an_answer() -> None:
    assert answer_part("<think>What is asked for?</think>\nParís") == "París"
    assert answer_part("begun in the prompt</think>París") == "París"
    assert answer_part("<think>never ended") == ""
    assert answer_part("Write <think> tags.") == "Write <think> tags."
    assert is_correct("<think>el año</think> París", "París")


def test_what_nobody_sees_and_other_forms_of_one_text() -> None:
    assert not visible("\u200b\u2060\ufeff \x00\n")
    assert normalised(unicodedata.normalize("NFD", "  Sí,\u200b señor ")) == "Sí, señor"
    texts = ["\u200b\u200d", "Sí, se\ufffdor", "El niño comió", unicodedata.normalize("NFD", "El niño comió")]
    texts.append("<think>Sí o no")
    rows = [candidate(sample=index, text=text) for index, text in enumerate(texts)]
    judged = apply_gates(make_config().gates, rows, LanguageDetector(["en", "es"]))
    assert [row.gate for row in judged] == ["empty", "garbled", "ok", "duplicate", "empty"]
