"""Rewards that are added up: what each text measure says, scales and weights, and the worker over several terms."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.observe.metrics_rows import round_counts
from actors.reward.worker import RewardWorker, ScoredCandidates
from configs.errors import UserError
from configs.load import load_config
from configs.measures import EchoMeasure, FormatMeasure, LengthMeasure, OverlongMeasure
from rollout.groups import mine_groups
from rollout.language import LanguageDetector
from rollout.pairs import MinedPairs, mine_pairs
from rollout.records import Candidate, Score
from rollout.terms import combined, term_means
from rollout.text_measures import echoed, language_confidence, slices, text_measure, unrepeated
from rollout.words import words
from tests.kits.rollout import candidate, make_config, make_prompts

DETECTOR = LanguageDetector(["en", "es", "de", "ru", "zh", "th", "el"])
SPANISH = "El gato duerme tranquilo sobre la alfombra mientras la lluvia cae despacio en el jardín de la casa."
ENGLISH = "The cat sleeps quietly on the carpet while the rain falls slowly in the garden behind the house."
TERMS: dict[str, Any] = {
    "kind": "terms",
    "terms": {
        "tongue": {"kind": "language"},
        "fresh": {"kind": "repetition", "weight": 0.3},
        "seen": {"kind": "length", "low": 5, "weight": 0.0},
    },
}


def confidence(text: str, code: str, slice_words: int = 12) -> float:
    return language_confidence(DETECTOR, text, code, slice_words)[0]


def test_confidence_is_graded_over_slices() -> None:
    assert confidence(SPANISH, "es") > 0.9
    assert confidence(ENGLISH, "es") < 0.05
    half = confidence(f"{SPANISH} {ENGLISH}", "es", 18)
    assert 0.4 < half < 0.6, "begins in one language and ends in another"
    assert 0.6 < confidence(f"{SPANISH} {SPANISH} {ENGLISH}", "es", 18) < 0.75


@pytest.mark.parametrize(
    ("text", "code", "low", "high"),
    [
        ("Η γάτα κοιμάται ήσυχα πάνω στο χαλί και βρέχει έξω.", "el", 0.99, 1.0),
        ("Η γάτα κοιμάται. The cat sleeps on the mat here.", "el", 0.0, 0.45),
        ("猫在地毯上安静地睡觉，外面下着小雨，花园里很安静。", "zh", 0.99, 1.0),
        ("ねこはカーペットの上でしずかにねています。", "zh", 0.0, 0.01),
        ("แมวนอนหลับอย่างเงียบๆ บนพรมในขณะที่ฝนตกในสวน", "th", 0.99, 1.0),
        ("Кошка спокойно спит на ковре, пока в саду идёт дождь.", "ru", 0.8, 1.0),
        (ENGLISH, "ru", 0.0, 0.0),
        ("42", "es", 0.5, 0.5),
        ("```\nprint(1)\n```", "es", 0.5, 0.5),
    ],
)
def test_confidence_by_script(text: str, code: str, low: float, high: float) -> None:
    assert low <= confidence(text, code) <= high


def test_slices_cover_the_text_once() -> None:
    text = " ".join(f"w{n}" for n in range(29))
    assert [len(piece.split()) for piece in slices(text, 12)] == [14, 15]
    assert " ".join(slices(text, 12)) == text
    assert [len(piece) for piece in slices("猫在地毯上安静地睡觉" * 5, 4)] == [12, 13, 12, 13]
    assert slices("", 12) == []
    assert slices("uno", 12) == ["uno"]


def looped_by_definition(found: list[str], longest: int) -> float:
    """Every start and period, tried one by one."""
    marks = [False] * len(found)
    for period in range(1, longest + 1):
        for start in range(len(found)):
            times = 1
            while found[start : start + period] == found[start + times * period : start + (times + 1) * period] != []:
                if len(found[start : start + period]) < period:
                    break
                times += 1
            if times >= 3:
                for place in range(start + period, start + times * period):
                    marks[place] = True
    return sum(marks) / len(found)


@pytest.mark.parametrize(
    ("text", "distinct", "loops"),
    [
        ("uno dos tres cuatro cinco", 1.0, 0.0),
        ("ja ja ja ja ja ja", 0.25, 5 / 6),
        ("a b c a b c a b c", 3 / 7, 6 / 9),
        ("uno dos uno dos tres cuatro", 1.0, 0.0),
        ("猫猫猫猫", 0.5, 3 / 4),
        ("sí", 1.0, 0.0),
        ("", 1.0, 0.0),
        ("!" * 10, 1 / 8, 9 / 10),  # without words, characters
        ("😀 😀 😀 😀", 0.5, 3 / 4),
        ("a" * 100, 1 / 98, 99 / 100),  # of letters, but no word
    ],
)
def test_repetition_is_distinct_ngrams_less_loops(text: str, distinct: float, loops: float) -> None:
    value, parts = unrepeated(text, 3, 20)
    assert parts == {"distinct": pytest.approx(distinct), "loops": pytest.approx(loops)}
    assert value == pytest.approx(distinct - loops)
    if found := words(text):
        assert parts["loops"] == pytest.approx(looped_by_definition(found, 20))


def test_a_loop_costs_a_long_answer_more_than_its_ngrams() -> None:
    long = " ".join(f"w{n}" for n in range(60)) + " otra vez lo mismo" * 4
    value, parts = unrepeated(long, 3, 20)
    assert parts["distinct"] > 0.8
    assert value < parts["distinct"] - 0.1


def measured(measure: Any, text: str, tokens: int = 3, finish: str = "stop") -> float:
    one = replace(candidate(text=text), token_ids=tuple(range(tokens)), finish_reason=finish)  # type: ignore[arg-type]
    found = text_measure(measure, "What is it?", one, DETECTOR, 20)
    assert found is not None
    return found[0]


def test_length_overlong_and_format() -> None:
    length = LengthMeasure(low=4, high=6)
    values = [measured(length, " ".join(["x"] * n)) for n in (0, 2, 4, 6, 9, 12, 30)]
    assert values == [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    assert measured(LengthMeasure(high=2, unit="tokens"), "x", tokens=3) == 0.5
    penalty = OverlongMeasure(buffer=10)
    assert [measured(penalty, "x", n) for n in (5, 10, 15, 20, 21)] == [0.0, 0.0, -0.5, -1.0, -1.0]
    assert measured(penalty, "x", 5, finish="length") == -1.0
    boxed = FormatMeasure(pattern=r"\\boxed\{.+\}\Z")
    answers = ("so \\boxed{3}", "\\boxed{3} so", "<think>\\boxed{3}</think> 3")
    assert [measured(boxed, text) for text in answers] == [1, 0, 0]


@pytest.mark.parametrize(
    ("prompt", "text", "share"),
    [
        ("¿Qué es un gato?", "Qué es un gato.", 1.0),
        ("¿Qué es un gato?", "Un animal pequeño que duerme", 0.0),
        ("¿Qué es un gato?", "¿Qué es un gato? Es un animal pequeño", 2 / 6),
        ("¿Qué es un gato?", "un gato", 1.0),  # shorter than an n-gram: its whole
        ("¿Qué es un gato?", "gato un", 0.0),
        ("gato", "gato gato gato", 0.0),  # a loop, but not an echo
        ("猫是什么？", "猫是什么", 1.0),
        ("¿Qué?", "", 0.0),
        ("", "algo es algo", 0.0),
    ],
)
def test_echo_is_the_share_of_the_answer_that_the_prompt_has(prompt: str, text: str, share: float) -> None:
    assert echoed(prompt, text, 3) == pytest.approx(share)
    found = text_measure(EchoMeasure(), prompt, candidate(text=text), DETECTOR, 20)
    assert found is not None
    assert found[0] == pytest.approx(1 - share)


def score(value: dict[str, float], sample: int, prompt: str = "p0") -> Score:
    parts = {f"term.{name}": number for name, number in value.items()}
    return Score(candidate(prompt_id=prompt, sample=sample).key, 0.0, parts)


def test_group_scale_is_each_terms_own_before_they_are_added() -> None:
    """The formula as written down in GDPO and TRL: z of each reward in its group, then the weighted sum."""
    terms = {
        "a": {"kind": "repetition", "normalise": "group", "weight": 2.0},
        "b": {"kind": "length", "low": 1, "normalise": "group", "weight": -1.0},
        "c": {"kind": "language"},
    }
    config = make_config(reward={"kind": "terms", "terms": terms})
    values = {"p0": [(1, 10, 0.1), (2, 30, 0.2), (4, 20, 0.3)], "p1": [(5, 5, 0.0), (7, 5, 0.0)]}
    rows = [
        score({"a": a, "b": b, "c": c}, sample, prompt)
        for prompt, group in values.items()
        for sample, (a, b, c) in enumerate(group)
    ]

    def z(group: Sequence[float], place: int) -> float:
        return (group[place] - statistics.mean(group)) / (statistics.stdev(group) + 1e-4)

    expected = [
        2 * z([row[0] for row in group], place) - z([row[1] for row in group], place) + group[place][2]
        for group in values.values()
        for place in range(len(group))
    ]
    assert [one.reward for one in combined(config.reward, rows)] == pytest.approx(expected)
    # Without it the second term's unit, ten times as large, would decide alone.
    once = combined(config.reward, rows, {rows[0].key: 2})
    thrice = combined(config.reward, [*rows[:1], *rows], {})
    assert once[1].reward == pytest.approx(thrice[2].reward), "a duplicate counts as often as it was drawn"


def test_batch_scale_is_over_all_answers_of_the_round() -> None:
    terms = {"a": {"kind": "repetition", "normalise": "batch"}}
    config = make_config(reward={"kind": "terms", "terms": terms})
    rows = [score({"a": float(n)}, n, f"p{n % 2}") for n in range(6)]
    deviation = statistics.stdev(range(6)) + 1e-4
    found = combined(config.reward, rows)
    assert [one.reward for one in found] == pytest.approx([(n - 2.5) / deviation for n in range(6)])
    assert combined(make_config().reward, rows) is rows, "a reward without terms"


def judged(config: Any, tmp_path: Path, given: list[Candidate]) -> tuple[ScoredCandidates, MinedPairs]:
    prompts = make_prompts(tmp_path, config)
    subject = RewardWorker(config.model_dump(mode="json"), prompts, tmp_path, None, 0)
    found = subject.score(given)
    return found, mine_pairs(config, prompts, 1, found.candidates, found.scores)


GIVEN = [SPANISH, ENGLISH, f"{SPANISH} y y y y y y y y", ""]


def test_worker_adds_terms_up_and_keeps_each(tmp_path: Path) -> None:
    config = make_config(reward=TERMS, gates={"language": False}, rollout={"samples_per_prompt": 4})
    given = [candidate(sample=i, text=text) for i, text in enumerate(GIVEN)]
    found, mined = judged(config, tmp_path, given)
    assert found.skipped == {("es", "gated"): 1}, "counted once, not once a term"
    for one in found.scores:
        assert one.reward == pytest.approx(one.parts["term.tongue"] + 0.3 * one.parts["term.fresh"])
        assert one.parts["term.fresh"] == pytest.approx(one.parts["fresh.distinct"] - one.parts["fresh.loops"])
    (pair,) = mined.pairs
    assert (pair.chosen, pair.rejected) == (SPANISH, ENGLISH)
    rows = round_counts(found.candidates, found.scores, mined)["reward_terms"]
    assert rows == term_means(found.scores)
    assert {name: list(row) for name, row in rows.items()} == {"fresh": ["es"], "seen": ["es"], "tongue": ["es"]}
    assert rows["seen"]["es"] == 1.0, "measured with weight 0"


def test_groups_are_mined_on_the_terms_scales(tmp_path: Path) -> None:
    reward = {"kind": "terms", "terms": {"fresh": {"kind": "repetition", "normalise": "group"}}}
    config = make_config(
        reward=reward, gates={"language": False}, learner__objective="rloo", rollout__prompts_per_round=6
    )
    texts = ["uno dos tres", "ja ja ja ja", "uno dos tres"]
    found, _ = judged(config, tmp_path, [candidate(sample=i, text=text) for i, text in enumerate(texts)])
    prompts = make_prompts(tmp_path, config)
    (group,) = mine_groups(config, prompts, 1, found.candidates, found.scores).groups
    assert sum(group.rewards) == pytest.approx(0, abs=1e-6), "over the draws, the duplicate among them"
    assert group.rewards[0] == group.rewards[2] == pytest.approx(0.577, abs=1e-3)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ("{}", "reward.terms: Dictionary should have at least 1 item"),
        ("null", "reward.terms: is null (or empty)"),
        ("{a: {kind: tongue}}", "reward.terms.a.kind: Input should be 'language'"),
        ("{a: {weight: 1}}", "reward.terms.a.kind: missing; add it"),
        ("{a: 3}", "reward.terms.a: Input should be a valid dictionary"),
        (
            "{a: {kind: language, ngram: 3}}",
            "reward.terms.a.ngram: is for kind repetition or echo, and this is language; remove",
        ),
        ("{a: {kind: language, wieght: 3}}", "reward.terms.a.wieght: unknown field"),
        ("{a: {kind: language, weight: 0}}", "reward.terms: every weight is 0"),
        ("{'a b': {kind: language}}", "reward.terms.a b: String should match pattern"),
        ("{a: {kind: length}}", "reward.terms.a.low: neither low nor high is set"),
        ("{a: {kind: format, pattern: '('}}", "reward.terms.a.pattern: no regular expression"),
        ("{a: {kind: judge}, b: {kind: judge}}", "reward.terms: a and b ask the same judge"),
        (
            "{a: {kind: likelihood, policy: initial}, b: {kind: implicit}}",
            "reward.terms: terms made of log-probabilities share their models, and these have different policy (a:",
        ),
        ("{a: {kind: judge}}", "judge.base_url: reward.kind judge needs it"),
    ],
)
def test_terms_that_cannot_be(terms: str, expected: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(Path("configs/demo.yaml"), ["reward.kind=terms", f"reward.terms={terms}"])
    assert expected in str(error.value)


def test_layers_over_terms() -> None:
    base = ["reward.kind=terms", "reward.terms={a: {kind: repetition, ngram: 4}, b: {kind: language, weight: 2}}"]
    config = load_config(Path("configs/demo.yaml"), [*base, "reward.terms.b.weight=3"])
    assert config.reward.model_dump()["terms"]["b"]["weight"] == 3
    other = load_config(Path("configs/demo.yaml"), [*base, "reward.terms.c={kind: overlong, buffer: 4}"])
    assert list(other.reward.model_dump()["terms"]) == ["a", "b", "c"]
