"""Sample groups: what RLOO trains on, mined from the same candidates and kept in the same journal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.load import load_config
from learners.mailbox import Mailbox
from rollout.groups import groups_by_language, mine_groups
from rollout.prompts import PromptSet
from rollout.records import Candidate, SampleGroup, Score
from rollout.store import Store, StoreConflict
from tests.kits.rollout import candidate, make_config, make_prompts

RLOO: dict[str, Any] = {"learner__objective": "rloo", "reward__length_control": {"enabled": False}}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptSet:
    return make_prompts(tmp_path_factory.mktemp("prompts"), make_config(), 4)


def answers(prompt_id: str, *texts: str, **fields: Any) -> list[Candidate]:
    return [candidate(prompt_id, sample=sample, text=text, **fields) for sample, text in enumerate(texts)]


def scored(candidates: list[Candidate], *rewards: float) -> list[Score]:
    passed = [c for c in candidates if c.gate == "ok"]
    return [Score(c.key, reward) for c, reward in zip(passed, rewards, strict=True)]


def test_all_samples_of_a_prompt_with_their_rewards(prompts: PromptSet) -> None:
    config = make_config(**RLOO)
    first, second, third = prompts.ids[:3]
    kept = answers(first, "uno", "dos", "tres")
    flat = answers(second, "uno", "dos")
    lonely = answers(third, "uno")
    mined = mine_groups(
        config,
        prompts,
        1,
        kept + flat + lonely,
        scored(kept, 2.0, -1.0, 0.5) + scored(flat, 1.0, 1.0) + scored(lonely, 3),
    )
    (group,) = mined.groups
    assert group.id == f"r0001/es/{first}"
    assert group.prompt == prompts.get(first, "es").text
    assert group.completions == ("uno", "dos", "tres")
    assert group.rewards == (2.0, -1.0, 0.5)
    assert group.keys == tuple(c.key for c in kept)
    assert mined.pairs == ()
    assert mined.examples == (group,)
    assert mined.counters["es"] == {"single_candidate": 1, "no_candidates": 1, "no_margin": 1, "groups": 1}
    assert mined.lengths["es"]["answers"] == 3
    assert groups_by_language(mined.groups) == {"es": 1}


def test_a_duplicate_stays_with_the_reward_of_its_equal_and_other_refusals_go(prompts: PromptSet) -> None:
    """Draws that repeat belong to the mean that RLOO's baseline is."""
    name = prompts.ids[0]
    made = answers(name, "sí", "no", "sí", "cut", "sí")
    made[2] = replace(made[2], gate="duplicate")
    made[4] = replace(made[4], gate="duplicate")
    made[3] = replace(made[3], gate="truncated")
    mined = mine_groups(make_config(**RLOO), prompts, 1, made[::-1], scored(made, 1.0, -2.0))
    (group,) = mined.groups
    assert group.completions == ("sí", "no", "sí", "sí")
    assert group.rewards == (1.0, -2.0, 1.0, 1.0)


def test_length_control_and_margin_apply(prompts: PromptSet) -> None:
    made = [c for name in prompts.ids for c in answers(name, "a" * 10, "b" * 30, "c" * 20)]
    scores = scored(made, *[0.1 * len(c.text) + (0.3 if c.text[0] == "c" else 0.0) for c in made])
    config = make_config(**{**RLOO, "reward__length_control": {"enabled": True}})
    mined = mine_groups(config, prompts, 1, made, scores)
    alpha = mined.alphas["es"].alpha
    assert alpha > 0
    assert mined.groups[0].rewards == pytest.approx([1 - 10 * alpha, 3 - 30 * alpha, 2.3 - 20 * alpha])
    wide = make_config(**{**RLOO, "pairs__min_margin": 2.5})
    assert mine_groups(wide, prompts, 1, made, scores).groups == ()
    assert mine_groups(wide, prompts, 1, made, scores).counters["es"]["no_margin"] == 4


@pytest.mark.parametrize(
    ("field", "value"),
    [("anchor.pairs_per_round", 4), ("reward.upper_bound", 1.0), ("rollout.temperatures", [1.0, 0.5])],
)
def test_what_contradicts_rloo_is_refused(field: str, value: object) -> None:
    overrides = ["learner.objective=rloo", "anchor.path=worlds/default/anchor.jsonl", "anchor.pairs_per_round=0"]
    load_config(Path("configs/icr.yaml"), [*overrides])
    with pytest.raises(UserError, match=rf"{field}: learner.objective rloo"):
        load_config(Path("configs/icr.yaml"), [*overrides, f"{field}={value}"])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "run" / "store.sqlite", "digest") as opened:
        yield opened


def test_groups_are_journaled_like_pairs(store: Store) -> None:
    keys = tuple(candidate("p0", sample=s).key for s in range(3))
    group = SampleGroup("r0001/es/p0", 1, "p0", "es", "¿Q?", ("sí", "no", "añ\u0000o"), (0.1, -0.25, 1e-17), 0, keys)
    assert store.put_groups(1, [group])
    assert store.examples(1) == store.groups(1) == [group]
    assert not store.put_groups(1, [group])
    with pytest.raises(StoreConflict, match="other content"):
        store.put_groups(1, [replace(group, rewards=(0.1, -0.25, 0.0))])
    with pytest.raises(ValueError, match="not finite"):
        store.put_groups(2, [replace(group, round=2, rewards=(float("nan"), 0, 1))])
    values = (-12.345678901234567, -1.0, -0.1)
    assert store.put_reference_logprobs(1, {group.id: values})
    assert not store.put_reference_logprobs(1, {group.id: values})
    assert store.groups(1) == [replace(group, reference=values)]
    assert not store.put_groups(1, [group])
    with pytest.raises(StoreConflict, match="reference log-probabilities"):
        store.put_reference_logprobs(1, {group.id: (-12.0, -1.0, -0.1)})
    assert store.mark_consumed(1, 1) == 1
    assert store.counts()["consumed"] == store.counts()["groups"] == 1
    with pytest.raises(StoreConflict, match="consumed by version 1"):
        store.mark_consumed(1, 2)


def test_a_command_that_was_given_up_can_still_be_fetched() -> None:
    """The driver's deadline passed and it posted the next command while a rank was on its way to fetch this one."""

    async def story() -> None:
        mailbox = Mailbox()
        first = await mailbox.post("reference", 1, ["pairs"])
        taken = await mailbox.next(0.0)
        second = await mailbox.post("train", 2, ["others"])
        assert taken != "idle"
        assert await mailbox.payload(first) == ["pairs"]
        assert (await mailbox.next(0.0)).number == second  # type: ignore[union-attr]
        assert await mailbox.payload(second) == ["others"]
        assert await mailbox.payload(first) == ["pairs"]  # of a rank that is slower than the one that asks
        await mailbox.next(0.0)  # all ranks have agreed on the second, so none is still at the first
        with pytest.raises(KeyError):
            await mailbox.payload(first)

    asyncio.run(story())
