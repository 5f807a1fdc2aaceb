"""The round state machine and the weight versions, simulated with random timing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import ScheduleConfig
from rollout.next import next_actions
from rollout.staleness import (
    learner_version,
    may_start_generation,
    published_version,
    publishes,
    reward_versions,
    rollout_version,
    sample_version,
    staleness,
)
from rollout.state import STATES, RoundState, action_of, check_states, named_today
from tests.kits.rollout import make_config

SCHEDULES = st.builds(
    lambda rounds, every, extra: ScheduleConfig(rounds=rounds, sync_every=every, max_staleness=every - 1 + extra),
    st.integers(0, 9),
    st.integers(1, 4),
    st.integers(0, 3),
)


@given(SCHEDULES, st.integers(1, 40))
def test_staleness_is_bounded(schedule: ScheduleConfig, round: int) -> None:
    version = sample_version(schedule, round)
    assert 0 <= staleness(version, round - 1) <= schedule.max_staleness
    assert version == 0 or publishes(schedule, version)
    assert version <= sample_version(schedule, round + 1)


@pytest.mark.parametrize(
    ("every", "stale", "versions"),
    [
        (1, 0, [0, 1, 2, 3, 4, 5]),
        (1, 1, [0, 0, 1, 2, 3, 4]),
        (1, 3, [0, 0, 1, 2, 3, 4]),
        (2, 1, [0, 0, 2, 2, 4, 4]),
        (2, 2, [0, 0, 0, 2, 2, 4]),
        (6, 5, [0, 0, 0, 0, 0, 0]),
    ],
)
def test_sample_versions(every: int, stale: int, versions: list[int]) -> None:
    schedule = ScheduleConfig(sync_every=every, max_staleness=stale)
    assert [sample_version(schedule, r) for r in range(1, 7)] == versions
    assert may_start_generation(schedule, 6, versions[5])
    assert not may_start_generation(schedule, 6, versions[5] - 1)


@settings(max_examples=150, deadline=None)
@given(SCHEDULES, st.integers(0, 10_000))
def test_any_timing_and_any_restart_gives_the_same_run(schedule: ScheduleConfig, seed: int) -> None:
    """Actions finish in random order, with restarts that forget what runs; every rule holds all the time."""
    rng = random.Random(seed)
    states: dict[int, RoundState] = {}
    sampled_with: dict[int, int] = {}
    steps = 0
    held = 0
    while actions := next_actions(schedule, states):
        steps += 1
        assert steps < 1000
        assert len({a.round for a in actions}) == len(actions) <= 2
        action = rng.choice(actions)
        assert states.get(action.round, "planned") == STATES[STATES.index(action.then) - 1]
        if rng.random() < 0.2:  # a crash: the action's work is lost, actors reload what the journal says
            held = rollout_version(schedule, states)
            continue
        if action.kind == "generate":
            assert held == sample_version(schedule, action.round) == rollout_version(schedule, states)
            sampled_with[action.round] = held
        if action.kind in ("reference", "train"):
            assert learner_version(states) == action.round - 1
        if action.kind == "publish" and publishes(schedule, action.round):
            held = action.round
        states[action.round] = action.then
        assert check_states(states, schedule.rounds)
    assert all(states[r] == "done" for r in range(1, schedule.rounds + 1))
    assert sampled_with == {r: sample_version(schedule, r) for r in range(1, schedule.rounds + 1)}
    assert held == published_version(schedule, states) == schedule.rounds - schedule.rounds % schedule.sync_every


def test_sampling_overlaps_training_only_with_staleness() -> None:
    states: dict[int, RoundState] = {1: "referenced"}
    strict = next_actions(ScheduleConfig(rounds=3), states)
    assert [(a.kind, a.round) for a in strict] == [("train", 1)]
    relaxed = next_actions(ScheduleConfig(rounds=3, max_staleness=1), states)
    assert [(a.kind, a.round) for a in relaxed] == [("train", 1), ("generate", 2)]
    states = {1: "trained", 2: "planned"}
    waiting = next_actions(ScheduleConfig(rounds=3, max_staleness=1), states)
    assert [(a.kind, a.round) for a in waiting] == [("generate", 2)]  # it still needs the older weights


def test_transitions() -> None:
    steps = [action_of(state, 1) for state in STATES]
    assert [step and step.then for step in steps] == [*STATES[1:], None]
    assert [named_today(state) for state in ("generated", *STATES)] == ["scored", *STATES]
    with pytest.raises(ValueError, match="unknown state 'lost'"):
        check_states({1: "lost"}, 1)
    with pytest.raises(ValueError, match="round 2 is 'trained' but round 1 is 'paired'"):
        check_states({1: "paired", 2: "trained"}, 2)


def test_reward_versions() -> None:
    def versions(round: int, **changes: object) -> tuple[int, int | None]:
        return reward_versions(make_config(**changes), round)

    assert [versions(r) for r in (1, 2, 3)] == [(0, None), (1, None), (2, None)]
    assert [versions(r, reward__policy="initial") for r in (1, 3)] == [(0, None), (0, None)]
    previous = {"reward__reference": "previous_round"}
    assert [versions(r, **previous) for r in (1, 2, 3)] == [(0, None), (1, 0), (2, 1)]
    semi = {**previous, "schedule": {"sync_every": 2, "max_staleness": 1}, "learner__keep_checkpoints": 8}
    assert [versions(r, **semi) for r in (1, 2, 3, 4, 5)] == [(0, None), (0, None), (2, 0), (2, 0), (4, 2)]


def test_a_finished_run_continues_with_more_rounds() -> None:
    states: dict[int, RoundState] = dict.fromkeys(range(1, 4), "done")
    longer = ScheduleConfig(rounds=5, max_staleness=1)
    assert next_actions(ScheduleConfig(rounds=3, max_staleness=1), states) == []
    assert [(a.kind, a.round) for a in next_actions(longer, states)] == [("generate", 4)]
    assert rollout_version(longer, states) == sample_version(longer, 4) == 2
