"""Whether an answer's words are words of its language, by lists of the user's own and wordfreq's."""

from __future__ import annotations

import sys
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
    ],
)
def test_words_of_wordfreq(language: str, text: str, share: float, counted: int) -> None:
    value, parts = known_words(text, word_test({}, language), cut=False)
    assert (value, parts) == (pytest.approx(share), {"words": float(counted)})


def test_a_last_word_that_may_be_cut_off_does_not_count() -> None:
    for text, finish, share in (("Das Leben erfä", "length", 1.0), ("Das Leben erfä", "stop", 2 / 3)):
        one = candidate(language="de", text=text, finish_reason=finish)
        found = text_measure(WordsMeasure(), "?", one, LanguageDetector(["de", "en"]), 20)
        assert found is not None
        assert found[0] == pytest.approx(share)


@pytest.mark.parametrize("language", ["sw", "yo", "ja", "zh", "ko"])
def test_a_language_without_a_list_is_told_of_and_its_answers_are_alike(language: str) -> None:
    assert word_test({}, language) is None
    assert known_words("mbilu mbilu", None, cut=False) == (1.0, {"words": 0.0})
    assert checked(["en", language]) == [
        f"reward.terms.known: no word list for {language}, where every answer's words are worth 1; "
        f"reward.terms.known.files: {{{language}: FILE}} gives one"
    ]


def test_a_list_of_ones_own_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "sw.txt"
    path.write_text("\ufeffMaji\nni\n\n  muhimu \r\n", encoding="utf-8")
    assert checked(["en", "sw"], sw=path) == []
    assert known_words("Maji ni muhimu mbilu", word_test({"sw": path}, "sw"), cut=False)[0] == 3 / 4
    assert known_words("water", word_test({"en": path}, "en"), cut=False)[0] == 0


def test_lists_that_cannot_be_used_are_refused_with_their_place(tmp_path: Path) -> None:
    bad, empty = tmp_path / "bad.txt", tmp_path / "empty.txt"
    bad.write_bytes("uno\nseñor\n".encode("latin-1"))
    empty.write_text(" \n")
    with pytest.raises(UserError, match=r"bad\.txt:2: not UTF-8 at byte 6; save it as UTF-8"):
        checked(["en", "es"], es=bad)
    with pytest.raises(UserError, match=r"empty\.txt: the file is empty \(word list\)"):
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
    with pytest.raises(
        UserError, match=r"no list for mt among the files, and wordfreq is not installed; install isogl"
    ):
        checked(["en", "mt"], en=words)
