"""Language of answers and of their lines."""

from __future__ import annotations

import pytest

from evaluation.fidelity import answer_fidelity, confused_scripts, confusion, scripts
from rollout.language import LanguageDetector, prose

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


def test_unusual_scripts(detector: LanguageDetector) -> None:
    texts = [f"{RU}\n{RU}", "Река замёрзла, nobody could cross it.", "7"]
    assert confused_scripts("ru", [answer_fidelity(text, "ru", detector) for text in texts]) == [False, True, None]


def test_scripts() -> None:
    assert scripts("カタカナ ひらがな 漢字") == {"CJK": 10}
    assert scripts("Aя 1!") == {"LATIN": 1, "CYRILLIC": 1}


def test_confusion() -> None:
    table = confusion([("es", "es"), ("es", "en"), ("es", None), ("en", "en"), ("es", "und")])
    assert table == {"en": {"en": 1}, "es": {"en": 1, "es": 1, "und": 1, "unsure": 1}}
