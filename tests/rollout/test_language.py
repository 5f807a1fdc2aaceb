"""The language detector with an expected language, and what counts as an answer."""

from __future__ import annotations

import unicodedata
from collections import Counter

import pytest

from benchmarks.mining import SENTENCES
from judges.verdicts import whole_answer
from rollout.gates import apply_gates
from rollout.language import LanguageDetector, answer_part, normalised, prose, visible
from rollout.language.cleaning import THINKING
from rollout.language.scripts import script_counts, script_of, scripts_of
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


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("en", "Els drets humans són universals i ningú no pot ser-ne privat sense un judici just."),  # ca
        ("es", "Mindenkinek joga van a gondolat szabadságához, továbbá a közösségben való művelődéshez."),  # hu
        ("sw", "Ihmisoikeudet ovat yleismaailmallisia, eikä ketään saa tuomita ilman oikeudenkäyntiä."),  # fi
        ("sw", "Drepturile omului sunt universale și nimeni nu poate fi condamnat fără un proces echitabil."),  # ro
    ],
)
def test_a_language_that_nobody_asked_for_is_found_by_its_letters(asked: str, text: str) -> None:
    assert LanguageDetector(RUN).judge(text, asked).outcome == "other"


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("en", "Beyoncé, Zoë, São Paulo, Gdańsk, Győr and Malmö are names that a writer of English spells like this."),
        ("sw", "Mji wa Malmö uko karibu na Göteborg, na watu wengi wanaishi huko kwa furaha kila mwaka."),
        ("de", "Die Städte Győr, Łódź und Málaga liegen weit voneinander entfernt und sind alle sehr schön."),
        ("es", "Las ciudades de Łódź, Győr y Malmö están muy lejos unas de otras, pero son muy bonitas."),
    ],
)
def test_names_with_foreign_letters_change_nothing(asked: str, text: str) -> None:
    assert LanguageDetector(RUN).judge(text, asked).outcome == "right"


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


def test_short_texts_get_the_verdict_that_all_languages_and_all_ngrams_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is far behind by trigrams is left out for speed alone: sentences, their pieces and shuffled ones."""
    pieces = {
        (code, asked, piece)
        for code, text in SENTENCES.items()
        for asked in SENTENCES
        if scripts_of(asked)[0] == scripts_of(code)[0]
        for piece in (text, text[: len(text) // 2], text[len(text) // 3 :], " ".join(sorted(text.split())))
    }
    detector = LanguageDetector(list(SENTENCES))
    fast = {one: detector.judge(one[2], one[1]) for one in sorted(pieces)}
    assert {check.outcome for check in fast.values()} == {"right", "other", "undecided"}
    monkeypatch.setattr("rollout.language.detector.of_the_likely", lambda *_: None)
    slow = LanguageDetector(list(SENTENCES))
    assert fast == {one: slow.judge(one[2], one[1]) for one in sorted(pieces)}


def test_letters_by_script_are_those_counted_one_by_one() -> None:
    text = " ".join(SENTENCES.values()) + " ＡＢＣ ｶﾅ ꙮ 𝔸 ١٢٣ 42 \u200b"
    assert script_counts(text) == Counter(script_of(char) for char in text if char.isalpha())
    assert script_counts("42 ?") == Counter()


THAI, ENGLISH = "นี่คือคำตอบของคำถามนี้", "these are the words of another language and there are many of them"


@pytest.mark.parametrize(
    "part",
    [
        f"````md\n```\n{ENGLISH}\n```\n````",  # a fence within a longer one
        f"~~~~\n~~~\n{ENGLISH}\n~~~~",
        f"```\n```python\n{ENGLISH}\n```",  # an end names no language
        f"1. ```sh\n   {ENGLISH}\n   ```",
        f"> ```\n> {ENGLISH}\n> ```",
        f"```\n{ENGLISH}",
        f"$$\n\\text{{{ENGLISH}}}\n= 18\n$$",
        f"\\[\n\\text{{{ENGLISH}}}\n\\]",
        f"\\begin{{align*}}\nx &= \\text{{{ENGLISH}}} \\\\\ny &= 1\n\\end{{align*}}",
        "Microsoft Azure, Google Cloud Platform, Amazon Web Services, iPhone, GPT-4, Zürich",
    ],
)
def test_what_has_no_language_over_lines(part: str) -> None:
    detector = LanguageDetector(["en", "th"])
    assert detector.judge(f"{THAI}\n{part}", "th").outcome == "right"
    assert detector.judge(f"{part}\n{ENGLISH}" if "```\nthese" not in part else ENGLISH, "th").outcome == "other"


def test_lines_without_letters_are_no_prose_with_and_without_marks() -> None:
    plain = f"  {THAI} \n\n 42 \r\n{ENGLISH}\x0b 7 "
    assert prose(plain) == prose(f"{plain}\n`x`") == [THAI, ENGLISH]


def test_code_in_one_line_begins_no_block() -> None:
    assert prose(f"```print('x')``` {THAI}\n{ENGLISH}") == [THAI, ENGLISH]
    # What is begun and never ends is text; so is all of a line of such beginnings, however long.
    assert prose(f"\\[ {ENGLISH}") == [f"\\[ {ENGLISH}"]
    assert prose(f"\\[x\\] {ENGLISH} \\(y\\)") == [ENGLISH]
    assert prose("a" * 9000 + " @") == ["a" * 9000 + " @"]
    assert prose(f"{ENGLISH} a.b-c+d@e-f.org x@y") == [f"{ENGLISH}   x@y"]
    assert prose(f"It costs $$ or more.\n\n{ENGLISH}\n\nThat is $$.")[1] == ENGLISH


def test_names_alone_make_no_answer_in_another_script() -> None:
    detector = LanguageDetector(["en", "zh", "th"])
    assert detector.judge("使用 PyTorch Lightning 和 DeepSpeed ZeRO 训练模型", "zh").outcome == "right"
    for text in ("Paris", "The Capital Of France Is Paris", "THIS IS NOT CHINESE", f"{ENGLISH} 训练模型"):
        assert detector.judge(text, "zh").outcome != "right"
    assert detector.judge("The Capital Of France Is Paris 是", "zh").outcome == "other"


@pytest.mark.parametrize(("begin", "end"), THINKING)
def test_reasoning_in_the_marks_of_many_models_is_no_part_of_an_answer(begin: str, end: str) -> None:
    assert answer_part(f"\n{begin}\nThe answer is Lyon.\n{end}\nParís") == "París"
    assert answer_part(f"{begin.upper()} The answer is Lyon.{end.upper()} París") == "París"
    assert answer_part(f"The answer is Lyon.{end}París") == "París"
    assert answer_part(f"{begin}The answer is") == ""
    assert whole_answer(f"{begin}\nVerdict: A\n{end}\nVerdict: B") == "B"
    assert whole_answer(f"{begin}\nVerdict: A") is None


def test_reasoning_is_no_part_of_an_answer() -> None:
    assert answer_part("<think>What is asked for?</think>\nParís") == "París"
    assert answer_part("begun in the prompt</think>París") == "París"
    assert answer_part("<think>never ended") == ""
    assert answer_part("Write <think> tags.") == "Write <think> tags."
    assert is_correct("<think>el año</think> París", "París")


def test_what_nobody_sees_and_other_forms_of_one_text() -> None:
    assert not visible("\u200b\u2060\ufeff \x00\n")
    assert not visible("\u3164\u115f\u1160\uffa0\u2800\ufe0f\u034f\u180b\U000e0101")  # drawn as nothing
    assert visible("❤\ufe0f")
    assert normalised(unicodedata.normalize("NFD", "  Sí,\u200b señor ")) == "Sí, señor"
    texts = ["\u200b\u200d", "Sí, se\ufffdor", "El niño comió", unicodedata.normalize("NFD", "El niño comió")]
    texts.append("<think>Sí o no")
    rows = [candidate(sample=index, text=text) for index, text in enumerate(texts)]
    judged = apply_gates(make_config().gates, rows, LanguageDetector(["en", "es"]))
    assert [row.gate for row in judged] == ["empty", "garbled", "ok", "duplicate", "empty"]
