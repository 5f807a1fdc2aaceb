"""Language of answers and of their lines."""

from __future__ import annotations

import pytest

from evaluation.fidelity import answer_fidelity, confusion, language_fidelity, prose, scripts
from rollout.language import LanguageDetector

EN = "The river was frozen and nobody could cross it."
ES = "El río estaba helado y nadie podía cruzarlo."
RU = "Река замёрзла, и никто не мог её перейти."


@pytest.fixture(scope="module")
def detector() -> LanguageDetector:
    return LanguageDetector(["en", "es", "ru"])


def test_a_foreign_line_is_found(detector: LanguageDetector) -> None:
    found = answer_fidelity(f"{ES}\n\n{EN}\n{ES}", "es", detector)
    assert found.detected == "es"
    assert found.lines == ("es", "en", "es")
    assert (found.wrong_lines, found.switches) == (1, True)
    clean = answer_fidelity(f"{ES}\n{ES}\n¡Sí!", "es", detector)
    assert clean.lines[2] is None
    assert (clean.wrong_lines, clean.switches) == (0, False)


def test_code_has_no_language(detector: LanguageDetector) -> None:
    fenced = "```python\n# this is a comment in English\n```"
    text = f"{ES}\n{fenced}\nver https://example.org/the-english-page `the code`\n$x + y$"
    assert prose(text) == [ES, "ver"]
    assert answer_fidelity(text, "es", detector).wrong_lines == 0
    assert prose("~~~\n```\nthe\n~~~\nfin") == ["fin"]
    assert prose("```\nnever closed") == []


def test_by_language(detector: LanguageDetector) -> None:
    texts = [("es", ES), ("es", f"{ES}\n{EN}"), ("es", EN), ("es", "12 + 7"), ("es", "¡Sí!"), ("ru", f"{RU}\n{RU}")]
    texts.append(("ru", "Река замёрзла, nobody could cross it."))
    figures = language_fidelity([answer_fidelity(text, code, detector) for code, text in texts])
    spanish = figures["es"]
    assert (spanish.answers, spanish.unsure, spanish.empty) == (5, 2, 1)
    assert (spanish.lines, spanish.unsure_lines) == (5, 1)
    assert spanish.right == pytest.approx(2 / 3)  # the mixed answer is mostly Spanish; its line tells
    assert spanish.right_lines == pytest.approx(2 / 4)
    assert spanish.switching == 1.0  # of the one answer with two decided lines
    assert spanish.script_confusion == 0.0
    assert figures["ru"].script_confusion == 0.5
    assert figures["ru"].switching == 0.0


def test_nothing_decided(detector: LanguageDetector) -> None:
    figures = language_fidelity([answer_fidelity("", "es", detector), answer_fidelity("7", "es", detector)])["es"]
    assert (figures.answers, figures.unsure, figures.empty, figures.lines) == (2, 2, 2, 0)
    assert (figures.right, figures.right_lines, figures.switching, figures.script_confusion) == (None,) * 4
    assert language_fidelity([]) == {}


def test_scripts() -> None:
    assert scripts("カタカナ ひらがな 漢字") == {"CJK": 10}
    assert scripts("Aя 1!") == {"LATIN": 1, "CYRILLIC": 1}


def test_confusion() -> None:
    table = confusion([("es", "es"), ("es", "en"), ("es", None), ("en", "en"), ("es", "und")])
    assert table == {"en": {"en": 1}, "es": {"en": 1, "es": 1, "und": 1, "unsure": 1}}
