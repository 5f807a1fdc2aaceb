"""Miners by name: which answers of a prompt become pairs, what is refused and counted, and pairs of earlier rounds."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from configs.errors import UserError
from rollout.miners import Choice, PromptGroup, Slot, try_miner
from rollout.miners.by_source import by_source_matched, by_source_ranked
from rollout.miners.ranked import best_worst, target
from rollout.pairs import mine_pairs
from rollout.prompts import PromptSet
from rollout.records import Candidate, Score
from rollout.rewards import FLUENCY
from rollout.sources import Part, parts
from tests.kits.rollout import candidate, lidr_config, make_config, make_prompts

PLAIN: dict[str, Any] = {"reward__length_control": {"enabled": False}}
REWARDS = st.lists(st.integers(-20, 20).map(lambda value: value / 4), min_size=2, max_size=9)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptSet:
    return make_prompts(tmp_path_factory.mktemp("prompts"), make_config(), 4)


def group(*rewards: float, bound: float | None = None, slots: list[Slot] | None = None, texts: str = "") -> PromptGroup:
    rows = tuple(candidate(sample=i, text=texts[i] if texts else f"text {i}") for i in range(len(rewards)))
    return PromptGroup("p0", "es", rows, rewards, bound, tuple(slots or ()))


@settings(deadline=None)
@given(REWARDS, st.integers(1, 4), st.none() | st.integers(-3, 3))
def test_best_worst_gives_the_best_margins_first(rewards: list[float], most: int, bound: float | None) -> None:
    choices = best_worst(most, 0.5)(group(*rewards, bound=bound)).choices
    allowed = sorted((r for r in rewards if bound is None or r < bound), reverse=True)
    margins = [high - low for high, low in zip(allowed, sorted(rewards), strict=False)][:most]
    expected = [margin for margin in margins if margin >= 0.5]
    assert [rewards[c.chosen] - rewards[c.rejected] for c in choices] == expected
    assert len({c.chosen for c in choices}) == len(choices) == len({c.rejected for c in choices})
    assert [c.suffix for c in choices] == ([""] if most == 1 else ["/00", "/01", "/02", "/03"])[: len(choices)]


def test_a_fluency_floor_bars_the_oddest_from_being_chosen_and_not_from_being_rejected(prompts: PromptSet) -> None:
    rows = [candidate("p0", "es", sample, f"text {sample}") for sample in range(4)]
    rewards, fluency = [3.0, 2.0, 1.0, 0.0], [-5.0, -1.0, -2.0, -6.0]
    scores = [Score(c.key, r, {FLUENCY: f}) for c, r, f in zip(rows, rewards, fluency, strict=True)]

    def pair(floor: float) -> tuple[str, str]:
        (found,) = mine_pairs(make_config(**PLAIN, pairs__fluency_floor=floor), prompts, 1, rows, scores).pairs
        return found.chosen, found.rejected

    assert pair(0.0) == ("text 0", "text 3")
    assert pair(0.5) == ("text 1", "text 3")  # of two above the median the better one
    assert pair(0.9) == ("text 1", "text 3")  # the most fluent one is never barred
    none = mine_pairs(make_config(**PLAIN, pairs__fluency_floor=0.9, pairs__min_margin=2.5), prompts, 1, rows, scores)
    assert none.counters["es"]["below_floor"] == 1


@pytest.mark.parametrize(
    "changes", [{"reward__kind": "verifier"}, {"pairs__miner": "by_source", "pairs__chosen": ["policy"]}]
)
def test_a_fluency_floor_without_a_model_or_a_choice_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"pairs\.fluency_floor"):
        make_config(pairs__fluency_floor=0.3, **changes)


@settings(deadline=None)
@given(REWARDS, st.sampled_from([0.0, 1.0, 2.0]))
def test_target_rejects_the_one_nearest_to_the_aim(rewards: list[float], deviations: float) -> None:
    found = target(1, 0.0, deviations)(group(*rewards))
    aim = statistics.fmean(rewards) - deviations * statistics.pstdev(rewards)
    nearest = min(abs(reward - aim) for reward in rewards)
    if not found.choices:
        assert found.refused == {"no_margin": 1}
        return
    (choice,) = found.choices
    assert rewards[choice.chosen] == max(rewards)
    assert abs(abs(rewards[choice.rejected] - aim) - nearest) < 1e-9


def test_target_leaves_the_outlier_alone() -> None:
    rewards = [*(1.0 + i / 10 for i in range(20)), -30.0]
    assert best_worst()(group(*rewards)).choices == (Choice(19, 20),)
    assert target(deviations=0.5)(group(*rewards)).choices == (Choice(19, 0),)


def test_the_bound_bars_from_being_chosen_alone() -> None:
    assert target(deviations=3.0)(group(9.0, 1.0, 0.0, bound=2.0)).choices == (Choice(1, 2),)
    assert target()(group(9.0, 9.0, bound=2.0)).refused == {"above_bound": 1}
    sides = Part("direct", "es", False, 1), Part("weak", "en", True, 1)
    slots = [Slot("direct", "es", 0), Slot("weak", "en", 0)]
    assert by_source_ranked([sides[0]], [sides[1]])(group(9.0, 1.0, bound=2.0, slots=slots)).refused == {
        "above_bound": 1
    }


DIRECT, WEAK = Part("direct", "es", False, 2), Part("weak", "en", True, 2)
SLOTS = [Slot("direct", "es", 0), Slot("direct", "es", 1), Slot("weak", "en", 0), Slot("weak", "en", 1)]


@pytest.mark.parametrize(
    ("rewards", "most", "agree", "choices", "refused", "counts"),
    [
        ((1.0, 3.0, 0.0, 2.0), 1, True, [(1, 2)], {}, (1, 0)),
        ((1.0, 3.0, 0.0, 2.0), 2, True, [(1, 2)], {"reward_disagrees": 1}, (2, 1)),
        ((1.0, 3.0, 0.0, 2.0), 2, False, [(1, 2), (0, 3)], {}, (2, 1)),
        ((1.0, 1.0, 1.0, 2.0), 1, True, [], {"reward_disagrees": 1}, (1, 1)),
        ((1.0, 1.2, 1.1, 2.0), 1, True, [], {"no_margin": 1}, (1, 0)),
        ((1.0, 1.2, 1.1, 2.0), 1, False, [(1, 2)], {}, (1, 0)),
    ],
)
def test_sources_decide_the_sides_and_the_reward_may_disagree(
    rewards: tuple[float, ...],
    most: int,
    agree: bool,
    choices: list[tuple[int, int]],
    refused: dict[str, int],
    counts: tuple[int, int],
) -> None:
    found = by_source_ranked([DIRECT], [WEAK], most, 0.5, agree)(group(*rewards, slots=SLOTS))
    assert [choice[:2] for choice in found.choices] == choices
    assert (found.refused, (found.compared, found.disagreeing)) == (refused, counts)


def test_a_side_without_answers_and_equal_answers_are_counted() -> None:
    miner = by_source_ranked([DIRECT], [WEAK])
    assert miner(group(1.0, 2.0, slots=SLOTS[:2])).refused == {"no_rejected": 1}
    assert miner(group(1.0, 2.0, slots=SLOTS[2:])).refused == {"no_chosen": 1}
    assert miner(group(2.0, 1.0, slots=SLOTS[1:3], texts="aa")).refused == {"equal_text": 1}


def test_samples_are_matched_without_rewards() -> None:
    miner = by_source_matched("es", [DIRECT], [WEAK])
    whole = PromptGroup("p0", "es", group(0, 0, 0, 0, texts="abcd").candidates, (), None, tuple(SLOTS))
    assert miner(whole).choices == (Choice(0, 2, "/direct-weak/en/000"), Choice(1, 3, "/direct-weak/en/001"))
    lacking = PromptGroup("p0", "es", whole.candidates[:2], (), None, tuple(SLOTS[:2]))
    assert miner(lacking).refused == {"no_translation": 2}


def test_selectors_say_who_first_gave_an_answer() -> None:
    config = lidr_config()
    policy = {code: Part("policy", code, False, 3) for code in ("en", "es")}
    assert parts(config, "es", ["policy", "translation"]) == (policy["es"], Part("translation", "en", True, 3))
    assert parts(config, "es", ["policy@dominant", "translation@dominant"]) == (Part("translation", "en", True, 3),)
    assert parts(config, "en", ["policy@dominant"]) == (policy["en"],)
    assert [part.origin for part in parts(config, "en", ["translation@others"])] == ["es", "fr"]
    assert [part.origin for part in parts(config, "en", ["translation@fr"])] == ["fr"]


def rows(prompts: PromptSet, round: int = 1) -> tuple[list[Candidate], list[Score]]:
    found = [
        candidate(p, code, sample, f"{code} {sample}", round=round)
        for p in prompts.ids
        for code in ("en", "es", "fr")
        for sample in range(3)
    ]
    values = {"en": 0.0, "es": 1.0, "fr": -1.0}
    return found, [Score(c.key, values[c.key.language] + c.key.sample / 10) for c in found]


def test_a_pool_over_all_languages_pairs_across_them(prompts: PromptSet) -> None:
    mined = mine_pairs(make_config(**PLAIN, pairs__pool="all"), prompts, 1, *rows(prompts))
    assert {(p.id, p.chosen, p.rejected) for p in mined.pairs} == {
        (f"r0001/es/{p}", "es 2", "fr 0") for p in prompts.ids
    }
    assert {p.prompt for p in mined.pairs} == {prompts.get(p, "es").text for p in prompts.ids}
    assert mined.counters == {"es": {"pairs": 4}}


def test_several_pairs_a_prompt(prompts: PromptSet) -> None:
    mined = mine_pairs(make_config(**PLAIN, pairs__per_prompt=2), prompts, 1, *rows(prompts))
    assert mined.counters["fr"] == {"pairs": 4}  # of three answers the second best is the second worst
    four = [candidate("p0", "fr", s, f"t{s}") for s in range(4)]
    mined = mine_pairs(
        make_config(**PLAIN, pairs__per_prompt=2), prompts, 1, four, [Score(c.key, c.key.sample) for c in four]
    )
    assert [(p.id, p.chosen, p.rejected) for p in mined.pairs] == [
        ("r0001/fr/p0/00", "t3", "t0"),
        ("r0001/fr/p0/01", "t2", "t1"),
    ]


def test_agreement_is_reported_by_language(prompts: PromptSet) -> None:
    config = make_config(**PLAIN, pairs={"miner": "by_source", "chosen": ["policy"], "rejected": ["policy@es"]})
    found, scores = rows(prompts)
    mined = mine_pairs(config, prompts, 1, found, scores)
    assert mined.agreement == {"es": {"compared": 4, "disagreeing": 0}}
    assert mined.counters["fr"] == {"no_rejected": 4}


@pytest.mark.parametrize(("share", "old"), [(0.5, 12), (0.2, 3), (0.9, 24), (0.0, 0)])
def test_replay_mixes_pairs_of_earlier_rounds(prompts: PromptSet, share: float, old: int) -> None:
    config = make_config(**PLAIN, pairs__replay={"rounds": 2, "share": share})
    earlier = [pair for r in (1, 2, 3) for pair in mine_pairs(config, prompts, r, *rows(prompts, r)).pairs]
    earlier = [pair for pair in earlier if pair.source == "mined"]
    mined = mine_pairs(config, prompts, 4, *rows(prompts, 4), earlier=earlier)
    again = [pair for pair in mined.pairs if pair.source == "replay"]
    assert len(again) == old
    assert len({pair.id for pair in mined.pairs}) == len(mined.pairs) == 12 + old
    assert {pair.round for pair in again} <= {4}
    assert all(pair.chosen_key is not None and pair.chosen_key.round in (2, 3) for pair in again)
    assert sum(row.get("replayed_pairs", 0) for row in mined.counters.values()) == old
    backwards = mine_pairs(config, prompts, 4, *rows(prompts, 4), earlier=earlier[::-1])
    assert backwards.pairs == mined.pairs


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pairs": {"miner": "by_source", "chosen": ["policy"]}}, r"pairs\.rejected: miner by_source needs"),
        (
            {"pairs": {"miner": "by_source", "chosen": ["direct"], "rejected": ["policy"]}},
            r"pairs\.chosen: 'direct' is no source of this run; it has policy",
        ),
        (
            {"pairs": {"miner": "by_source", "chosen": ["policy@xx"], "rejected": ["policy@es"]}},
            r"pairs\.chosen: 'policy@xx' names no language of the run",
        ),
        ({"pairs": {"miner": "by_source", "chosen": ["a"], "rejected": ["a"]}}, "'a' is in chosen too; remove"),
        ({"pairs": {"chosen": ["policy"]}}, "names sources for miner by_source; set miner"),
        ({"pairs": {"require_reward_agreement": True}}, "is for miner by_source; set miner"),
    ],
)
def test_what_a_miner_lacks_is_refused(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=expected):
        make_config(**changes)


@pytest.mark.parametrize(("field", "value"), [("miner", "target"), ("pool", "all")])
def test_without_rewards_no_miner_can_rank(field: str, value: str) -> None:
    with pytest.raises(ValidationError, match=rf"pairs\.{field}: reward\.kind cross_language computes no rewards"):
        lidr_config(**{f"pairs__{field}": value})


MINE = """
def second_best(group, *, worst=True):
    order = sorted(range(len(group.rewards)), key=lambda i: -group.rewards[i])
    return [(order[1], order[-1])] if len(order) > 2 else []

def wrong(group):
    return [(0, 9)]
"""


def test_a_miner_of_the_users_own(tmp_path: Path, prompts: PromptSet, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_miner.py").write_text(MINE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = make_config(**PLAIN, pairs={"miner": "my_miner:second_best", "options": {"worst": False}})
    assert config.plugin_names == {"pairs.miner": ("my_miner:second_best", "isogloss.miners")}
    try_miner(config)
    mined = mine_pairs(config, prompts, 1, *rows(prompts))
    assert {(pair.chosen, pair.rejected) for pair in mined.pairs if pair.language == "es"} == {("es 1", "es 0")}
    with pytest.raises(UserError, match=r"my_miner:wrong: returned the pair \(0, 9\) for prompt 'trial'"):
        try_miner(make_config(pairs__miner="my_miner:wrong"))
    with pytest.raises(UserError, match="cannot be called"):
        try_miner(make_config(pairs={"miner": "my_miner:second_best", "options": {"bad": 1}}))
    with pytest.raises(ValidationError, match="miner: 'best_wurst' is unknown; take one of best_worst"):
        make_config(pairs__miner="best_wurst")
