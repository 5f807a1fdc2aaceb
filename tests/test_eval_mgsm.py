"""Numbers in many languages, the answer of a solution, and accuracy with the off-target rate."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from evaluation.mgsm import MgsmAnswer, extract_answer, is_right, score_mgsm
from evaluation.numbers import parse_number
from rollout.detect import LanguageDetector

LABELLED = Path(__file__).parent / "data" / "mgsm_answers.jsonl"
OUT_OF_REACH = {"The answer is eighteen."}  # numbers in words


def test_labelled_answers() -> None:
    rows = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]
    wrong = []
    for row in rows:
        gold = None if row["answer"] is None else Fraction(row["answer"])
        if extract_answer(row["text"], row["language"]).value != gold:
            wrong.append(row["text"])
    assert len(rows) >= 300
    assert len({row["language"] for row in rows}) >= 8
    assert 1 - len(wrong) / len(rows) >= 0.995, wrong
    assert set(wrong) == OUT_OF_REACH


@pytest.mark.parametrize(
    ("text", "language", "value"),
    [
        ("2,125", "en", 2125),
        ("2.125", "en", Fraction("2.125")),
        ("2.125", "de", 2125),
        ("2,125", "de", 2125),
        ("0,125", "de", Fraction("0.125")),
        ("2,5", "fr", Fraction("2.5")),
        ("1 2", "en", 1),
        ("10 500", "ru", 10500),
        ("10 500", "en", 10),
        ("1,14,200", "bn", 114200),
        ("১,১৪,২০০", "bn", 114200),
        ("１２３", "ja", 123),
        ("7/0", "en", 7),
        ("1 2/0", "en", 1),
        ("H2O", "en", None),
        ("²", "en", None),
        ("", "en", None),
        ("1" * 400, "en", int("1" * 400)),
    ],
)
def test_numbers(text: str, language: str, value: int | Fraction | None) -> None:
    assert parse_number(text, language) == value


@pytest.mark.parametrize(
    ("text", "how"),
    [
        (r"The answer is 3. #### 4 \boxed{5}", "boxed"),
        ("The answer is 3.\n#### 4", "hashes"),
        ("It is **2**. The answer is 3.", "phrase"),
        ("It is **2** of 9.", "bold"),
        ("It is 2.", "last"),
        ("It is two.", "none"),
        (r"\boxed{unclosed 5", "boxed"),
        (r"\boxed{}", "none"),
    ],
)
def test_precedence(text: str, how: str) -> None:
    assert extract_answer(text, "en").how == how


def test_gold_answers() -> None:
    assert is_right("Das sind 2.125 Eier.", "2,125", "de")
    assert not is_right("Das sind 2.126 Eier.", "2,125", "de")
    with pytest.raises(ValueError, match="no number"):
        is_right("5", "five", "en")


def test_score() -> None:
    texts = [
        ("a", "Ella gana dieciocho dólares al día en el mercado. La respuesta es 18.", "18"),
        ("b", "She makes eighteen dollars every day at the farmers' market. The answer is 18.", "18"),
        ("c", "No sé cuál es la respuesta a este problema tan difícil.", "18"),
        ("d", "19", "18"),
    ]
    result = score_mgsm([MgsmAnswer(i, "es", t, g) for i, t, g in texts], LanguageDetector(["en", "es"]))["es"]
    assert (result.accuracy, result.items, result.no_answer, result.unsure) == (0.5, 4, 1, 1)
    assert result.off_target == pytest.approx(1 / 3)
    assert result.ci95[0] < 0.5 < result.ci95[1]
    assert result.how == {"last": 1, "none": 1, "phrase": 2}
    with pytest.raises(ValueError, match="twice"):
        score_mgsm([MgsmAnswer("a", "es", "1", "1")] * 2, LanguageDetector(["en", "es"]))
