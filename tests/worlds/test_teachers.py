"""The world's teachers as functions: what they say is counted against the facts."""

from __future__ import annotations

import re

import pytest

from configs.errors import UserError
from rollout.records import Prompt
from worlds.build import DEFAULT_OUT, LANGUAGES_DIR
from worlds.facts import draw_facts
from worlds.languages import PIVOT, load_languages
from worlds.teachers import direct, translated
from worlds.translator import load_fillers

WORLD = str(DEFAULT_OUT)
LANGUAGES = load_languages(LANGUAGES_DIR)
FACTS = draw_facts(LANGUAGES[PIVOT], 0, 0.6).train


def asked(code: str) -> tuple[list[Prompt], list[int]]:
    prompts = [Prompt(fact.id, code, "?", answer=None) for fact in FACTS for _ in range(4)]
    return prompts, [place % 4 for place in range(len(prompts))]


def right(code: str, answers: list[str | None]) -> float:
    gold = [LANGUAGES[code].answer(f.person, f.relation, f.value) for f in FACTS for _ in range(4)]
    return sum(answer == truth for answer, truth in zip(answers, gold, strict=True)) / len(gold)


@pytest.mark.parametrize("code", ["en", "sw"])
def test_a_teacher_is_right_at_its_rate_and_repeats_itself(code: str) -> None:
    prompts, samples = asked(code)
    answers = direct(prompts, samples, world=WORLD, right_rate=0.8)
    assert right(code, answers) == pytest.approx(0.8, abs=0.06)
    assert answers == direct(prompts, samples, world=WORLD, right_rate=0.8)
    assert answers != direct(prompts, samples, world=WORLD, right_rate=0.8, name="other")
    better = direct(prompts, samples, world=WORLD, right_rate=0.1, rates={code: 1.0})
    assert right(code, better) == 1.0
    assert direct([Prompt("no-fact", code, "?", answer=None)], [0], world=WORLD) == [None]


def test_translations_hold_a_filler_but_in_english() -> None:
    patterns = load_fillers(LANGUAGES)["sw"].patterns
    said = translated(*asked("sw"), world=WORLD)
    assert all(answer and any(re.search(one, answer) for one in patterns) for answer in said)
    assert right("en", translated(*asked("en"), world=WORLD)) == pytest.approx(0.45, abs=0.08)


def test_without_a_world_the_folder_is_named() -> None:
    with pytest.raises(UserError, match="nowhere"):
        direct([], [], world="nowhere")
