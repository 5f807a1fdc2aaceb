"""Prompts are assigned to languages before sampling; quotas, refills, and prompts that some languages lack."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from configs.errors import UserError
from configs.schema import Config
from rollout.assignment import Assignment, Passes, assigned, eligible, first_pass, refill, wanted_pairs
from rollout.pairs import mine_pairs
from rollout.plan import answer_chunks
from rollout.prompts import PromptSet
from rollout.quota import check_quota, quota_rows, short_lines
from rollout.records import Score
from tests.kits.rollout import QUESTIONS, candidate, make_config, make_prompts, write_lines

PLAIN: dict[str, Any] = {"reward__length_control": {"enabled": False}}
ONE = {"en": 1, "es": 1, "fr": 1}


def quota_config(pairs: Any = 9, **changes: Any) -> Config:
    quota = {"pairs_per_round": pairs, **changes.pop("quota", {})}
    return make_config(**PLAIN, languages={"codes": ["en", "es", "fr"], "quota": quota}, **changes)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptSet:
    return make_prompts(tmp_path_factory.mktemp("prompts"), make_config(), 20)


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> PromptSet:
    """20 ids, of which French has 6 and Spanish 12; three Spanish ones are in no other language."""
    folder = tmp_path_factory.mktemp("partial")
    have = {"en": range(20), "es": [*range(9), 20, 21, 22], "fr": range(6)}
    for code, ids in have.items():
        write_lines(folder / f"{code}.jsonl", [{"id": f"p{i}", "prompt": QUESTIONS[code].format(i)} for i in ids])
    return PromptSet.load(str(folder / "{lang}.jsonl"), make_config().languages, partial=True)


@given(
    st.dictionaries(st.sampled_from(["en", "es", "fr"]), st.integers(0, 9), min_size=1).filter(
        lambda d: any(d.values())
    ),
    st.sampled_from(["parallel", "disjoint"]),
    st.integers(0, 60),
    st.integers(1, 7),
)
@settings(deadline=None, max_examples=60)
def test_each_language_gets_what_it_needs_once(
    partial: PromptSet, need: dict[str, int], how: str, start: int, chunk: int
) -> None:
    pairs = {code: count for code, count in need.items() if count}
    config = quota_config(pairs, quota={"assignment": how, "refill": 2}, rollout__chunk_prompts=chunk)
    passes = first_pass(config, start, ONE)
    done = assigned(config, partial, 1, passes)
    usable = {code: {i for i, c in partial.rows if c == code} for code in ("en", "es", "fr")}
    for code, count in pairs.items():
        given = done.ids(code)
        assert len(set(given)) == len(given) <= count
        assert set(given) <= usable[code]
        assert (len(given) < count) == (code in done.exhausted)
        if how == "parallel":
            able = usable[code] & usable["en"]  # the implicit reward asks in English too
            assert len(given) == min(count, len(able))
    blocks = [prompt_id for block in done.blocks for prompt_id in block.order]
    assert len(set(blocks)) == len(blocks)  # no id is in two blocks, whose answers would be asked for twice
    if how == "disjoint":
        assert max(Counter(i for code in ONE for i in done.ids(code)).values()) == 1
    more = refill(config, passes, done, {})
    if more is not None:
        again = assigned(config, partial, 1, more)
        assert again.passes[0] == done.passes[0]
        assert len({i for block in again.blocks for i in block.order}) == sum(len(b.order) for b in again.blocks)
        assert assigned(config, partial, 1, Passes.from_json(more.to_json())) == again


@pytest.mark.parametrize("how", ["parallel", "disjoint"])
def test_a_journal_that_sorts_its_keys_gives_the_same_assignment(prompts: PromptSet, how: str) -> None:
    """Ties go by the languages' order, and the journal keeps JSON with sorted keys."""
    quota = {"pairs_per_round": 9, "assignment": how}
    config = make_config(**PLAIN, languages={"dominant": "fr", "codes": ["fr", "es", "en"], "quota": quota})
    passes = first_pass(config, 0, ONE)
    kept = Passes.from_json(json.loads(json.dumps(passes.to_json(), sort_keys=True)))
    assert [*kept.needs[0]] != [*passes.needs[0]]
    assert assigned(config, prompts, 1, kept) == assigned(config, prompts, 1, passes)


def test_rounds_follow_each_other_until_all_were_used(prompts: PromptSet) -> None:
    config = quota_config(12, quota={"assignment": "disjoint"})
    start, seen = 0, Counter[str]()
    for round in range(1, 6):
        done = assigned(config, prompts, round, first_pass(config, start, ONE))
        seen.update(i for block in done.blocks for i in block.order)
        start = done.end
    assert sum(seen.values()) == 60
    assert len(seen) == 20
    assert max(seen.values()) <= 5  # about as often as any other


@pytest.mark.parametrize(
    ("pairs", "more", "expected"),
    [
        (10, {}, {"en": 4, "es": 3, "fr": 3}),
        ({"es": 4}, {}, {"es": 4}),
        (10, {"shares": {"en": 0.5, "fr": 0}, "quota": {"balance": "shares"}}, {"en": 3, "es": 7}),
        (10, {"mix": "EN-1"}, {"en": 10}),
        (9, {"mix": "ML-all"}, {"en": 3, "es": 3, "fr": 3}),
    ],
)
def test_pairs_are_divided(pairs: Any, more: dict[str, Any], expected: dict[str, int]) -> None:
    quota = {"pairs_per_round": pairs, **more.pop("quota", {})}
    assert wanted_pairs(make_config(languages={"codes": ["en", "es", "fr"], "quota": quota, **more})) == expected


def test_a_mixture_samples_what_it_uses(prompts: PromptSet) -> None:
    for mix, most in (("EN-1", 9), ("ML-all", 9), (None, 27)):
        config = make_config(languages__mix=mix, rollout__prompts_per_round=9, rollout__samples_per_prompt=2)
        asked = sum(len(chunk.requests) for chunk in answer_chunks(config, prompts, 1))
        assert asked == 2 * most
    done = assigned(config, prompts, 1)
    split = assigned(make_config(languages__mix="ML-all", rollout__prompts_per_round=9), prompts, 1)
    assert sorted(i for code in ONE for i in split.ids(code)) == sorted(done.ids("en"))


def mined(config: Config, prompts: PromptSet, done: Assignment, bad: set[str]) -> Any:
    rows = [
        candidate(i, code, s, f"{code} {i} {s if code not in bad else 0}")
        for code in ONE
        for i in done.ids(code)
        for s in (0, 1)
    ]
    return mine_pairs(config, prompts, 1, rows, [Score(c.key, float(c.key.sample)) for c in rows], assignment=done)


def test_a_language_that_is_short_gets_further_prompts(prompts: PromptSet) -> None:
    config = quota_config(9, quota={"refill": 2})
    passes = first_pass(config, 0, ONE)
    done = assigned(config, prompts, 1, passes)
    assert mined(config, prompts, done, set()).new_by_language == {"en": 3, "es": 3, "fr": 3}
    found = mined(config, prompts, done, {"es"})
    assert quota_rows(config, done, found)["es"] == {
        "asked": 3, "got": 0, "prompts": 3, "passes": 1, "short": 3, "reason": "equal_text", "lost": {"equal_text": 3},
    }  # fmt: skip
    second = refill(config, passes, done, found.new_by_language)
    assert second is not None
    assert second.needs[1].keys() == {"es"}
    done = assigned(config, prompts, 1, second)
    assert len(done.ids("es")) == 20  # all that there are: the first three, and the rest
    assert "es" in done.exhausted
    full = mined(config, prompts, done, set())
    assert full.new_by_language == {"en": 3, "es": 3, "fr": 3}  # what is beyond the quota is cut
    assert full.counters["es"]["quota"] == 17
    assert refill(config, second, done, full.new_by_language) is None
    (line,) = short_lines(quota_rows(config, done, mined(config, prompts, done, {"es"})))
    assert line == "es is 3 of 3 pairs short after 20 prompts in 2 pass(es): there are no more prompts"


def test_only_prompts_that_can_give_pairs_are_assigned(partial: PromptSet) -> None:
    native = eligible(quota_config(9, reward__prompt="native"), partial)
    assert {code: len(ids) for code, ids in native.items()} == {"en": 20, "es": 12, "fr": 6}
    crosslingual = eligible(quota_config(9), partial)
    assert {code: len(ids) for code, ids in crosslingual.items()} == {"en": 20, "es": 9, "fr": 6}


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ({"pairs_per_round": {"de": 3}}, r"quota\.pairs_per_round\.de: not in codes"),
        ({"pairs_per_round": 0}, r"pairs_per_round: 0 is no number of pairs"),
        ({"pairs_per_round": {"es": 3}, "balance": "shares"}, r"balance: shares divides a number for all"),
        ({"pairs_per_round": 3, "assigment": "parallel"}, "assigment"),
    ],
)
def test_quotas_that_cannot_be_met_are_refused(quota: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        make_config(languages={"codes": ["en", "es", "fr"], "quota": quota})


def test_a_quota_for_a_language_without_prompts_is_refused(tmp_path: Path) -> None:
    for code, ids in {"en": range(3), "es": range(3), "fr": range(9, 12)}.items():
        write_lines(tmp_path / f"{code}.jsonl", [{"id": f"p{i}", "prompt": "Why?"} for i in ids])
    config = quota_config(9, prompts__train=str(tmp_path / "{lang}.jsonl"))
    with pytest.raises(UserError, match=r"quota: no prompt of language 'fr' can give a pair.* 3 exist in it"):
        check_quota(config, PromptSet.from_config(config))
