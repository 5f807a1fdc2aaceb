"""What a run can do now, from the journal's round states alone: the same after a crash as before it."""

from __future__ import annotations

from collections.abc import Mapping

from configs.schema import ScheduleConfig
from rollout.staleness import may_publish, may_start_generation, published_version, publishes
from rollout.state import Action, RoundState, action_of


def next_actions(schedule: ScheduleConfig, states: Mapping[int, RoundState]) -> list[Action]:
    """All actions that may run now, the most urgent first; empty when the run is over.

    Two tracks run beside each other. The learner works on the first round that is not done: its reference and
    training need the weights of the round before. Sampling (generate and score, pair) works on the first round that is
    not paired, once the weights for it are published. Publishing waits for sampling that still needs the older
    weights. So a list holds at most one action of each track, and they never wait for each other.

    The driver makes sure before "generate" that the actors hold ``sample_version`` of that round.
    """
    actions: list[Action] = []
    first_open, sampling = True, False
    for round_number in range(1, schedule.rounds + 1):
        action = action_of(states.get(round_number, "planned"), round_number)
        if action is None:
            continue
        if action.kind in ("generate", "pair"):
            if not sampling and may_start_generation(schedule, round_number, published_version(schedule, states)):
                actions.append(action)
            sampling = True
        elif first_open and (
            action.kind != "publish"
            or not publishes(schedule, round_number)
            or may_publish(schedule, round_number, states)
        ):
            actions.append(action)
        first_open = False
    return actions
