"""Numbers in many languages, the answer of a solution, and accuracy with the off-target rate."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from evaluation.mgsm import extract_answer, is_right
from evaluation.numbers import find_numbers, normalise, parse_number
from tests.kits.mgsm import shares

LABELLED = Path("tests/data/mgsm_answers.jsonl")
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
        ("10 500", "en", 10500),
        ("70 000", "bn", 70000),
        ("1 200 300,5", "de", Fraction("1200300.5")),
        ("2020 300", "en", 2020),
        ("12 3000", "en", 12),
        ("18，16", "zh", 18),
        ("18，160", "zh", 18160),
        ("2 million 500 thousand", "en", 2_500_000),
        ("2 million, 500 thousand", "en", 2_500_000),
        ("2 million, 500 of them", "en", 2_000_000),
        ("3 thousand 50", "en", 3050),
        ("500 thousand 2 million", "en", 500_000),
        ("1 crore 20 lakh 50 thousand", "en", 12_050_000),
        ("२ लाख ५० हज़ार", "hi", 250_000),
        ("2,5 млн 300 тыс.", "ru", 2_800_000),
        ("milioni 2 na elfu 500", "sw", 2_500_000),
        ("elfu 5 na laki 2", "sw", 5000),
        ("2百万", "zh", 2_000_000),
        ("10^4", "en", 10),
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
    ("text", "value"),
    [
        ("x = -18", -18),
        ("x = - 18", -18),
        ("5 + (- 18)", -18),
        ("9 * - 18", -18),
        ("-18", -18),
        ("It fell to -18", -18),
        ("−$18", -18),
        ("$-18", -18),
        ("- 18", 18),
        ("* - 18", 18),
        ("profit - 18", 18),
        ("profit – 18", 18),
        ("Gewinn-18", 18),
        ("利益－18", 18),
        ("লাভ -18", -18),
        ("লাভি-18", 18),
        ("20-18", 18),
        ("(20) - 18", 18),
    ],
)
def test_signs(text: str, value: int) -> None:
    assert list(find_numbers(normalise(text), "en"))[-1].value == value


@pytest.mark.parametrize(
    ("text", "language", "value"),
    [
        ("Final answer: 18 eggs × $2 = $36", "en", 36),
        ("The answer is 18 = 9 * 2", "en", 18),
        ("The answer is 18 dollars = 1800 cents", "en", 18),
        ("The answer is 18, because 16 - 3 - 4 = 9 and 9 - 2 = 7.", "en", 18),
        ("The answer is eighteen (18).", "en", 18),
        ("Answer the question: she has 5 apples and gets 3, so 8.", "en", 8),
        ("Answer: Rs. 2,50,000 (Rs. 1,25,000 each)", "en", 250_000),
        ("Resposta – 18", "pt", 18),
        ("정답 － 18", "ko", 18),
        ("الإجابة - ١٨ (٩ × ٢)", "ar", 18),
        ("సమాధానం – 18", "te", 18),
        ("उत्तर\n१८", "hi", 18),
        ("【答案】18元（16-3=13）", "zh", 18),
        ("答案是12人一共花18元", "zh", 18),
        ("Answer\n------\n18", "en", 18),
        ("### Answer\n```\n18\n```", "en", 18),
        ("**Final Answer:**\n\n\\[ 18 \\]", "en", 18),
        (r"\boxed{9 \times 2 = 18\text{ m}^{2}}", "en", 18),
        (r"\boxed{70\;000}", "en", 70_000),
        ("We get\n18", "en", 18),
    ],
)
def test_announced_numbers(text: str, language: str, value: int) -> None:
    assert extract_answer(text, language).value == value


def test_generated_solutions() -> None:
    """At least 99 % of each form, and of each language; the forms and how they come are in the kit."""
    by_form, by_language, wrong = shares(25, seed=3)
    assert len(by_form) == 17
    assert len(by_language) == 10
    low = {key: share for key, share in (by_form | by_language).items() if share < 0.99}
    assert not low, wrong[:10]


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
