"""Pair miners and anchors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.schema import Config
from rollout.anchors import anchor_pairs, load_anchors
from rollout.pairs import MinedPairs, mine_pairs
from rollout.prompts import PromptSet
from rollout.records import Candidate, CandidateKey, Score
from tests.kits.rollout import candidate, lidr_config, make_config, make_prompts, write_lines


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptSet:
    return make_prompts(tmp_path_factory.mktemp("prompts"), make_config(), 4)


def mine(
    config: Config, prompts: PromptSet, groups: dict[tuple[str, str], list[tuple[str, float]]], **gates: Any
) -> MinedPairs:
    """Mine (prompt, language) -> [(text, reward)]; every group that is not named has one good pair."""
    candidates: list[Candidate] = []
    scores: list[Score] = []
    for language in ("en", "es", "fr"):
        for prompt_id in prompts.ids:
            for sample, (text, reward) in enumerate(groups.get((prompt_id, language), [("aa", 1.0), ("bb", 0.0)])):
                one = candidate(prompt_id, language, sample, text, weight_version=sample)
                candidates.append(one)
                scores.append(Score(one.key, reward))
    return mine_pairs(config, prompts, 1, candidates[::-1], scores[::-1])


PLAIN: dict[str, Any] = {"reward__length_control": {"enabled": False}}


def test_best_against_worst(prompts: PromptSet) -> None:
    mined = mine(
        make_config(**PLAIN), prompts, {("p1", "es"): [("uno", 0.5), ("dos", 2.0), ("tres", -1.0), ("seis", 2.0)]}
    )
    pair = next(p for p in mined.pairs if p.id == "r0001/es/p1")
    assert (pair.chosen, pair.rejected, pair.chosen_score, pair.rejected_score) == ("dos", "tres", 2.0, -1.0)
    assert pair.prompt == prompts.get("p1", "es").text
    assert pair.weight_version == 1
    assert pair.chosen_key == CandidateKey(1, "p1", "es", "policy", "es", 1)
    assert len(mined.pairs) == 12
    assert [p.id for p in mined.pairs] == sorted(p.id for p in mined.pairs)
    assert mined.counters["es"] == {"pairs": 4}
    assert mined.alphas == {}
    assert mined.lengths["es"]["chosen_characters"] == (3 * 2 + 3) / 4
    assert mined.lengths["es"]["rejected_tokens"] == 2.0


@pytest.mark.parametrize(
    ("group", "changes", "reason"),
    [
        ([], {}, "no_candidates"),
        ([("a", 1.0)], {}, "single_candidate"),
        ([("a", 1.0), ("a", 0.0)], {}, "equal_text"),
        ([("a", 1.0), ("b", 1.0)], {}, "no_margin"),
        ([("a", 1.0), ("b", 0.6)], {"pairs__min_margin": 0.5}, "no_margin"),
        ([("a", 3.0), ("b", 2.5)], {"reward__upper_bound": 2.0}, "above_bound"),
        ([("a", 3.0), ("b", 1.5)], {"reward__upper_bound": 2.0}, "above_bound"),
    ],
)
def test_refusals_are_counted(
    prompts: PromptSet, group: list[tuple[str, float]], changes: dict[str, Any], reason: str
) -> None:
    mined = mine(make_config(**PLAIN, **changes), prompts, {("p1", "es"): group})
    assert mined.counters["es"] == {reason: 1, "pairs": 3}
    assert mined.counters["fr"] == {"pairs": 4}
    assert "r0001/es/p1" not in {p.id for p in mined.pairs}


def test_bound_takes_the_best_below_it(prompts: PromptSet) -> None:
    group = [("a", 9.0), ("b", 1.5), ("c", -3.0), ("d", 2.0)]
    mined = mine(make_config(**PLAIN, reward__upper_bound=2.0), prompts, {("p1", "es"): group})
    pair = next(p for p in mined.pairs if p.id == "r0001/es/p1")
    assert (pair.chosen, pair.rejected) == ("b", "c")


@pytest.mark.parametrize(("first", "chosen"), [(1, "b"), (2, "a")])
def test_bound_holds_from_its_round_on(prompts: PromptSet, first: int, chosen: str) -> None:
    group = [("a", 9.0), ("b", 1.5), ("c", -3.0), ("d", 2.0)]
    config = make_config(**PLAIN, reward__upper_bound=2.0, reward__upper_bound_from_round=first)
    assert [config.reward.bound(round) for round in (1, 2, 3)] == [2.0 if r >= first else None for r in (1, 2, 3)]
    pair = next(p for p in mine(config, prompts, {("p1", "es"): group}).pairs if p.id == "r0001/es/p1")
    assert (pair.chosen, pair.rejected) == (chosen, "c")


def test_gated_candidates_never_enter_a_pair(prompts: PromptSet) -> None:
    rows = [
        candidate("p0", "es", 0, "best", gate="language"),
        candidate("p0", "es", 1, "good"),
        candidate("p0", "es", 2, "bad"),
        candidate("p0", "es", 3, "worst", gate="truncated"),
    ]
    scores = [Score(c.key, 3.0 - c.key.sample) for c in rows]
    mined = mine_pairs(make_config(**PLAIN), prompts, 1, rows, scores)
    assert [(p.chosen, p.rejected) for p in mined.pairs] == [("good", "bad")]
    assert mined.counters["es"] == {"no_candidates": 3, "pairs": 1}


def test_length_control_reaches_the_pairs(prompts: PromptSet) -> None:
    """Three prompts prefer 20 more characters by 2 nats; under alpha 0.1 the shorter better text wins."""
    groups = {
        (p, "es"): [("x" * 30 + p, 5.0), ("y" * 10 + p, 4.0), ("z" * 10 + p, 2.0), ("w" * 30 + p, 1.0)]
        for p in prompts.ids
    }
    mined = mine(make_config(), prompts, groups)
    fitted = mined.alphas["es"]
    assert fitted.alpha == 0.0  # best and worst are equally long: nothing to fix
    groups = {(p, "es"): [("x" * 30 + p, 5.0), ("y" * 10 + p, 4.0), ("z" * 10 + p, 2.0)] for p in prompts.ids}
    mined = mine(make_config(), prompts, groups)
    assert mined.alphas["es"].gap == 0.0
    assert {p.chosen[0] for p in mined.pairs if p.language == "es"} == {"y"}


def test_shuffle_changes_the_pairs_only_by_the_scores(prompts: PromptSet) -> None:
    groups = {(p, c): [(f"t{i}", float(i)) for i in range(6)] for p in prompts.ids for c in ("en", "es", "fr")}
    straight = mine(make_config(**PLAIN), prompts, groups)
    shuffled = mine(make_config(**PLAIN, reward__shuffle=True), prompts, groups)
    assert {p.chosen for p in straight.pairs} == {"t5"}
    assert len({p.chosen for p in shuffled.pairs}) > 2
    assert {p.chosen_score for p in shuffled.pairs} == {5.0}


def test_share_is_a_seeded_subset(prompts: PromptSet) -> None:
    def ids(share: float) -> set[str]:
        mined = mine(make_config(**PLAIN, languages__shares={"es": share}), prompts, {})
        assert mined.counters.get("es", {}).get("pairs", 0) + mined.counters.get("es", {}).get("share", 0) in (0, 4)
        return {p.id for p in mined.pairs if p.language == "es"}

    assert len(ids(0.5)) == 2
    assert ids(0.5) == ids(0.5) < ids(0.75) < ids(1.0)
    assert ids(0.0) == set()


def test_verifier_ties_are_no_pair(prompts: PromptSet) -> None:
    config = make_config(reward__kind="verifier")
    mined = mine(
        config,
        prompts,
        {
            ("p0", "es"): [("long text", 1.0), ("b", 1.0)],
            ("p1", "es"): [("a", 0.0), ("right", 1.0), ("right too", 1.0)],
        },
    )
    assert mined.counters["es"] == {"no_margin": 1, "pairs": 3}
    assert next(p for p in mined.pairs if p.id == "r0001/es/p1").chosen == "right"
    assert mined.alphas == {}


def lidr_rows(prompts: PromptSet) -> list[Candidate]:
    rows = []
    for p in prompts.ids:
        for code in ("en", "es", "fr"):
            rows.append(candidate(p, code, 0, f"{code} own {p}"))
        for origin, target in (("en", "es"), ("en", "fr"), ("es", "en"), ("fr", "en")):
            rows.append(candidate(p, target, 0, f"{origin} as {target} {p}", "translation", origin, weight_version=1))
    return rows


def test_cross_language_pairs(prompts: PromptSet) -> None:
    config = lidr_config(rollout__samples_per_prompt=1)
    mined = mine_pairs(config, prompts, 1, lidr_rows(prompts), [])
    found = {p.id: (p.chosen, p.rejected) for p in mined.pairs}
    assert len(found) == 4 * 4  # two for English a prompt, none overwritten
    assert found["r0001/es/p0/en/000"] == ("en as es p0", "es own p0")
    assert found["r0001/en/p0/es/000"] == ("en own p0", "es as en p0")
    assert found["r0001/en/p0/fr/000"] == ("en own p0", "fr as en p0")
    assert {p.weight_version for p in mined.pairs} == {0}
    assert mined.counters == {"en": {"pairs": 8}, "es": {"pairs": 4}, "fr": {"pairs": 4}}


def test_cross_language_control_turns_pairs_round_at_random(prompts: PromptSet) -> None:
    rows = lidr_rows(prompts)
    true = mine_pairs(lidr_config(rollout__samples_per_prompt=1), prompts, 1, rows, [])
    turned = mine_pairs(lidr_config(rollout__samples_per_prompt=1, reward__shuffle=True), prompts, 1, rows, [])
    assert [pair.id for pair in turned.pairs] == [pair.id for pair in true.pairs]
    changed = [one != other for one, other in zip(true.pairs, turned.pairs, strict=True)]
    assert 0.25 < sum(changed) / len(changed) < 0.75
    for one, other in zip(true.pairs, turned.pairs, strict=True):
        assert {one.chosen, one.rejected} == {other.chosen, other.rejected}
        assert (other.chosen_score, other.rejected_score) == (1.0, 0.0)


def test_cross_language_refusals(prompts: PromptSet) -> None:
    config = lidr_config(rollout__samples_per_prompt=1, languages__shares={"en": 0})
    rows = {c.key: c for c in lidr_rows(prompts) if c.key.language != "en" or c.key.source == "policy"}

    def change(key: CandidateKey, **fields: Any) -> None:
        rows[key] = candidate(
            key.prompt_id, key.language, 0, **{"text": "t", "source": key.source, "origin": key.origin, **fields}
        )

    change(CandidateKey(1, "p0", "es", "translation", "en", 0), gate="translation_failed")
    change(CandidateKey(1, "p1", "es", "policy", "es", 0), gate="language")
    change(CandidateKey(1, "p2", "es", "translation", "en", 0), text="es own p2")
    mined = mine_pairs(config, prompts, 1, list(rows.values()), [], untranslated=frozenset({"p3"}))
    assert mined.counters["es"] == {"no_translation": 1, "no_answer": 1, "equal_text": 1, "pairs": 1}
    about = next(p for p in mined.pairs if p.language == "es")
    assert (about.prompt_id, about.chosen, about.rejected) == ("p3", "en own p3", "es own p3")
    assert "en" not in mined.counters


ANCHOR = {"id": "a0", "language": "en", "prompt": "Q?", "chosen": "good", "rejected": "bad"}


def anchor_config(path: Path, count: int = 2) -> Config:
    return make_config(anchor={"path": path, "pairs_per_round": count})


def test_anchors(tmp_path: Path, prompts: PromptSet) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{**ANCHOR, "id": f"a{i}"} for i in range(6)])
    config = anchor_config(path)
    anchors = load_anchors(config)
    drawn = [p.prompt_id for r in (1, 2, 3) for p in anchor_pairs(config, anchors, r)]
    assert len(set(drawn)) == 6  # none twice before all were used
    mined = mine_pairs(config, prompts, 1, [], [], anchors=anchors)
    assert [p.source for p in mined.pairs] == ["anchor", "anchor"]
    assert mined.counters["en"] == {"no_candidates": 4, "anchor_pairs": 2}
    assert mined.pairs[0].id.startswith("r0001/anchor/en/a")
    assert load_anchors(make_config()) == ()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({**ANCHOR, "language": "de"}, r"a\.jsonl:3: language 'de' is not in languages\.codes; add it"),
        ({**ANCHOR, "rejected": "good "}, r"a\.jsonl:3: chosen and rejected are equal; remove"),
        ({**ANCHOR, "id": "a1"}, r"a\.jsonl:3: id 'a1' of language 'en' was already used in line 2; give"),
        ({k: v for k, v in ANCHOR.items() if k != "chosen"}, r"a\.jsonl:3: field 'chosen' is missing .*add it"),
        ({**ANCHOR, "prompt": ""}, r"a\.jsonl:3: field 'prompt' is empty; fill it in"),
    ],
)
def test_bad_anchor(tmp_path: Path, row: dict[str, str], expected: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{**ANCHOR, "id": "a9"}, {**ANCHOR, "id": "a1"}, row])
    with pytest.raises(UserError, match=expected):
        load_anchors(anchor_config(path))


def test_too_few_anchors(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [ANCHOR])
    with pytest.raises(UserError, match=r"a\.jsonl: 1 pairs, but anchor\.pairs_per_round 2 .*lower it to 1"):
        load_anchors(anchor_config(path))
    with pytest.raises(UserError, match=r"none\.jsonl: no such file \(anchor pairs\); create"):
        load_anchors(anchor_config(tmp_path / "none.jsonl"))
