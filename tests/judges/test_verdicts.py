"""A judge's words as a verdict: forms in many languages and letters, and what must not be one."""

from __future__ import annotations

import itertools
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judges.reply import Reply, Token
from judges.verdicts import bare_label, last_verdict, whole_answer
from judges.wording import load_wording

FORMS = [
    "{}",
    " {}.\n",
    "**{}**",
    "({})",
    "[[{}]]",
    "`{}`",
    "- {}",
    "# {}",
    "{}</s>",
    "<|assistant|>{}<|eot_id|>",
    "$\\boxed{{{}}}$",
    "Final verdict: {}",
    "Verdict: Answer {}",
    "**Final Verdict:** {}",
    "Verdict - {}",
    "verdict = {}",
    "The verdict is {}",
    "\\boxed{{{}}}",
    "\\boxed{{\\text{{{}}}}}",
    "\\boxed{{\\text{{Answer {}}}}}",
    "\\boxed{{answer_{}}}",
    "answer_{}",
    "Answer {}",
    "Answer ({})",
    "Option {}.",
    "Response {}",
    "Output ({})",
    "Model {}",
    "My choice: {}",
    "Winner: {}",
    '{{"verdict": "{}"}}',
    "<answer>{}</answer>",
    "<verdict>answer_{}</verdict>",
    "<b>{}</b>",
    "The better answer is {}",
    "A better answer is {}.",
    "The best response is {}.",
    "So the better answer is {}",
    "I prefer {}.",
    "I would choose Answer {}",
    "Answer {} is better.",
    "Answer {} wins",
    "{} is the better answer",
    "{} is clearly better",
    "Answer {} is better\nIt explains why, and the other does not.",
    "{}\n\nIt is the more helpful one of them all.",
    "Final answer\n{}",
    "The correct choice is ({}).",
    "Endgültiges Urteil: {}",
    "Antwort {}",
    "Die bessere Antwort ist {}.",
    "Antwort {} ist besser.",
    "Veredicto final: {}",
    "La mejor respuesta es {}",
    "Respuesta {} es mejor",
    "Verdict final : {}",
    "La meilleure réponse est {}.",
    "A resposta é {}",
    "La risposta migliore è {}",
    "Вердикт: {}",
    "Ответ: {}",
    "Ответ {} лучше.",
    "Лучший ответ — {}",
    "Jibu bora ni {}",
    "Jibu: {}",
    "Uamuzi: {}",
    "答案：{}",
    "答案是{}",
    "最终判断：{}",
    "回答{}更好",
    "更好的回答是{}。",
    "答え：{}",
    "より良い回答は{}です",
    "{}の方が優れている",
    "判定：{}",
    "정답: {}",
    "더 나은 답변은 {}입니다",
    "คำตอบ: {}",
    "คำตอบที่ดีกว่าคือ {}",
    "উত্তর: {}",
    "উত্তর হল {}",
    "রায়: {}",
    "उत्तर: {}",
    "बेहतर उत्तर {} है",
    "الإجابة: {}",
    "الجواب هو {}",
    "الإجابة الأفضل هي {}",
    "Jawaban: {}",
    "Jawaban {} lebih baik",
    "Câu trả lời: {}",
    "Kết luận: {}",
    "Cevap: {}",
]
LETTERS = [("A", "B"), ("Ａ", "Ｂ"), ("А", "В"), ("Α", "Β"), ("Ꭺ", "Ᏼ"), ("𝐀", "𝐁"), ("Ⓐ", "Ⓑ"), ("🅰️", "🅱️")]
NOT_ONE = [
    "A good answer",
    "A better answer",
    "A better answer is",
    "A or B",
    "A/B",
    "A and B",
    "A, B",
    "A\nB",
    "not A",
    "Not: A",
    "The worse answer is A",
    "Worse: B",
    "Answer A is worse",
    "The answer is not B",
    "A is not better",
    "Neither A nor B",
    "B is better than B",
    "I prefer neither",
    "C",
    "",
    "  ",
    "\u200b",
    "Answer:",
    "Verdict: unclear",
    "A?",
    "A is better?",
    "Verdict: A?",
    "答案是A？",
    "The answer is a",
    "Answer A: it is short. Answer B: it is long.",
    "A.I.",
    "AB",
    "A1",
    "B-",
    "Vitamin A",
    "Plan B",
    "A's answer",
    "tie",
    "Verdict: tie",
    "<think>\nAnswer: A",
    "<think>A",
    "Both are good",
    "Answer A is better\nAnswer B is better",
    "А ответ лучше?",
    "La peor respuesta es A",
    "Ответ A хуже",
    "答案不是A",
    "A比B好",
    "В ответе",
    "Ни A, ни B",
    "Ответ не A",
    "Kein Urteil",
    "가",
    "أو",
]


@pytest.mark.parametrize(("letters", "first"), itertools.product(LETTERS, [True, False]))
def test_forms_of_a_verdict(letters: tuple[str, str], first: bool) -> None:
    label, other = letters if first else letters[::-1]
    wrong = {form.format(label): whole_answer(form.format(label)) for form in FORMS}
    wrong = {text: found for text, found in wrong.items() if found != ("A" if first else "B")}
    assert not wrong
    assert whole_answer(f"{label} is better than {other}.") == ("A" if first else "B")
    thought = f"<think>\nVerdict: {other}\n</think>\nVerdict: {label}"
    assert whole_answer(thought) == last_verdict(thought) == ("A" if first else "B")


@pytest.mark.parametrize("text", NOT_ONE)
def test_what_is_no_verdict(text: str) -> None:
    assert whole_answer(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Both have merit.\n\nVerdict: A", "A"),
        ("**Answer A:** is right.\n**Answer B:** is wrong.\n\n**Final verdict: Answer A**", "A"),
        ("Verdict: A\nOn second thought, B is right.\nVerdict: B", "B"),
        ("A is short and B is long. Verdict: tie", "tie"),
        ("Beide sind gut.\nUrteil: Unentschieden", "tie"),
        ("判定：平局", "tie"),
        ("Long reasons.\n\nB", "B"),
        ("Long reasons, so \\boxed{\\text{A}}", "A"),
        ("Long reasons. [[B]]", "B"),
        ("A is better. But B is right, which matters more", None),
        ("A is better.\nB has the facts right, though, so it should win.", None),
        ("Verdict: A or B", None),
        ("**A**\nIt is short.\n**B**\nIt is long.", None),
        ("Answer A\nis short.", None),
        ("", None),
    ],
)
def test_reasoned_verdicts(text: str, expected: str | None) -> None:
    assert last_verdict(text) == expected


def reply(words: str, *tokens: tuple[str, dict[str, float]]) -> Reply:
    made = tuple(Token(text, odds[text], odds) for text, odds in tokens)
    return Reply(words, made, 1, 1, "stop", 0)


def test_first_token_counts_where_it_is_the_whole_answer() -> None:
    odds = {"A": math.log(0.6), "B": math.log(0.2), "The": math.log(0.2)}
    sure = {
        "": 0.0,
        " better": 0.0,
        " answer": 0.0,
        " is": 0.0,
        " B": 0.0,
        "<|eot_id|>": 0.0,
        ".": 0.0,
        "</think>": 0.0,
    }
    label = load_wording("label")
    rest = [(text, sure) for text in (" better", " answer", " is", " B")]
    assert label.read(reply("A", ("A", odds))) == (pytest.approx(0.75), "logprobs")
    assert label.read(reply(" A.", ("A", odds), (".", sure), ("<|eot_id|>", sure))) == (pytest.approx(0.75), "logprobs")
    assert label.read(reply("A better answer is B", ("A", odds), *rest)) == (0.0, "words")
    assert label.read(reply("A better answer is B", ("A", odds), *rest), logprobs_only=True) is None
    # The tokens of its thoughts come first where the server cuts them out of the words only.
    assert label.read(reply("A", ("A", odds), (" better", sure), ("</think>", sure), (" B", sure))) == (1.0, "words")
    assert label.read(reply("B", ("A", odds))) == (0.0, "words")
    cyrillic = {"А": math.log(0.3), "В": math.log(0.1), "A": math.log(0.3)}
    assert label.read(reply("А", ("А", cyrillic))) == (pytest.approx(6 / 7), "logprobs")
    assert load_wording("reasoned").read(reply("A", ("A", odds))) == (1.0, "words")


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.text("ABabАВ answerisbettrnoty:.\n{}\\[]<>/", max_size=60)))
def test_any_text_is_read_or_not(text: str) -> None:
    for read in (whole_answer, last_verdict, bare_label):
        assert read(text) in ("A", "B", "tie", None)
    assert bare_label(text) is None or whole_answer(text) is not None


def test_long_text_is_read_in_time() -> None:
    begun = time.process_time()
    for text in (
        "the best " * 20_000,
        "a" * 200_000,
        "\\text{" * 30_000,
        "[[" * 50_000,
        "<think>" * 30_000,
        "A. " * 60_000,
    ):
        assert last_verdict(text) is None
        whole_answer(text)
    assert time.process_time() - begun < 20
