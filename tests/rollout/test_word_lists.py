"""Whether an answer's words are words of its language, by lists of the user's own and wordfreq's."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.measures import WordsMeasure
from rollout.language import LanguageDetector
from rollout.text_measures import known_words, text_measure
from rollout.word_lists import check_word_lists, word_test
from tests.kits.rollout import candidate, make_config


def checked(codes: list[str], **files: Path) -> list[str]:
    terms = {"known": {"kind": "words", "files": {code: str(path) for code, path in files.items()}}}
    languages: dict[str, Any] = {"dominant": codes[0], "codes": codes}
    return check_word_lists(make_config(languages=languages, reward={"kind": "terms", "terms": terms}))


@pytest.mark.parametrize(
    ("language", "text", "share", "counted"),
    [
        ("de", "Die Ausfalter können das Leben erfährten", 4 / 6, 6),
        ("de", "Die Straße ist groß, die STRASSE ist groß.", 1.0, 4),  # distinct, and whatever the case
        ("fr", "L'eau est touchement délicé", 2 / 4, 4),  # a letter by itself is none
        ("pt-BR", "A água é muito boa", 1.0, 3),
        ("ru", "Объядятся вода", 1 / 2, 2),
        ("en", "42 + 17 = 59", 1.0, 0),
        ("en", "", 1.0, 0),
        # Letters with marks are one word each: real ones are known, invented ones are not.
        ("hi", "हिन्दी भारत में सबसे अधिक बोली जाने वाली भाषा है", 1.0, 10),
        ("hi", "हीकटो मूपशा गिलबे नौझटी सेकुमा", 0.0, 5),
        ("ta", "தமிழ் ஒரு மொழி", 1.0, 3),
        ("ar", "كِتَابٌ", 1.0, 1),
        ("fa", "می\u200cشود", 1.0, 1),
        ("de", unicodedata.normalize("NFD", "Größe"), 1.0, 1),
        ("uk", "комп'ютерів м’ясо", 1.0, 2),
        ("tr", "İstanbul Isparta Irak İngilizce", 1.0, 4),
        ("hr", "Voda je dobra", 1.0, 3),
        ("en", "haha" * 100, 1.0, 0),  # no word, but a loop of letters
    ],
)
def test_words_of_wordfreq(language: str, text: str, share: float, counted: int) -> None:
    value, parts = known_words(text, word_test({}, language), cut=False, language=language)
    assert (value, parts) == (pytest.approx(share), {"words": float(counted)})


def test_a_last_word_that_may_be_cut_off_does_not_count() -> None:
    for text, finish, share in (("Das Leben erfä", "length", 1.0), ("Das Leben erfä", "stop", 2 / 3)):
        one = candidate(language="de", text=text, finish_reason=finish)
        found = text_measure(WordsMeasure(), "?", one, LanguageDetector(["de", "en"]), 20)
        assert found is not None
        assert found[0] == pytest.approx(share)


@pytest.mark.parametrize("language", ["sw", "yo", "ko", "lb"])
def test_a_language_without_a_list_is_told_of_and_its_answers_are_alike(language: str) -> None:
    assert word_test({}, language) is None
    assert known_words("mbilu mbilu", None, cut=False) == (1.0, {"words": 0.0})
    assert checked(["en", language]) == [
        f"reward.terms.known: no word list for {language}, where every answer's words are worth 1; "
        f"reward.terms.known.files: {{{language}: FILE}} gives one"
    ]


@pytest.mark.parametrize("language", ["zh", "zh-Hant", "ja", "th", "my"])
def test_a_language_without_spaces_has_no_words_to_look_up(language: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("猫\n", encoding="utf-8")
    assert word_test({}, language) is None
    assert checked(["en", language]) == [
        f"reward.terms.known: {language} is written without spaces between words, so that none can be looked up; every "
        "answer's words are worth 1 there"
    ]
    with pytest.raises(UserError, match=rf"known\.files: '{language}' is written without spaces .* remove it"):
        checked(["en", language], **{language: tmp_path / "list.txt"})


def test_a_code_of_ones_own_has_no_list() -> None:
    assert word_test({}, "de-1a") is None


@pytest.mark.parametrize(
    "lines",
    [
        "the\t123\nhaus,7\n",
        "# words\nThe/S\nHaus/Sn\n",
        "the-haus\n",
        "THE\nHAUS\n",
        unicodedata.normalize("NFD", "thé the haus"),
    ],
)
def test_lists_of_other_forms_are_understood(lines: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(lines, encoding="utf-8")
    is_word = word_test({"sw": path}, "sw")
    assert known_words("The Haus.", is_word, cut=False) == (1.0, {"words": 2.0})
    assert known_words("123 sn s", is_word, cut=False) == (0.0, {"words": 1.0})


def test_a_list_of_ones_own_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "sw.txt"
    path.write_text("\ufeffMaji\nni\n\n  muhimu \r\n", encoding="utf-8")
    assert checked(["en", "sw"], sw=path) == []
    assert known_words("Maji ni muhimu mbilu", word_test({"sw": path}, "sw"), cut=False)[0] == 3 / 4
    assert known_words("water", word_test({"en": path}, "en"), cut=False)[0] == 0


def test_lists_that_cannot_be_used_are_refused_with_their_place(tmp_path: Path) -> None:
    bad, empty = tmp_path / "bad.txt", tmp_path / "empty.txt"
    bad.write_bytes("uno\nseñor\n".encode("latin-1"))
    empty.write_text("123\n !!\n")
    with pytest.raises(UserError, match=r"bad\.txt:2: not UTF-8 at byte 6; save it as UTF-8"):
        checked(["en", "es"], es=bad)
    with pytest.raises(UserError, match=r"known: .*empty\.txt: no word in it \(word list\); put one on each line"):
        checked(["en", "es"], es=empty)
    with pytest.raises(UserError, match=r"none\.txt: .*correct the path in the config"):
        checked(["en", "es"], es=tmp_path / "none.txt")
    with pytest.raises(UserError, match=r"reward\.terms\.known\.files: 'de' is not in languages\.codes"):
        checked(["en", "es"], de=bad)
    with pytest.raises(UserError, match="there is no word list for sw, yo, so that no answer is better; name files"):
        checked(["sw", "yo"])


def test_without_wordfreq_every_language_needs_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = tmp_path / "words.txt"
    words.write_text("one\n")
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    assert checked(["en", "mt"], en=words, mt=words) == []
    says = r"terms\.known: there is no list for mt among the files, and wordfreq, .*, is not installed; install isogl"
    with pytest.raises(UserError, match=says):
        checked(["en", "mt"], en=words)
