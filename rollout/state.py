"""The states of a round and what comes next. The driver asks, does it, and writes the new state to the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

# Each state says what is in the journal (or, from "trained" on, in a checkpoint) for good.
RoundState = Literal[
    "planned",  # nothing yet, or some chunks
    "scored",  # all candidates, translations included, with their gates and scores
    "paired",  # the pairs
    "referenced",  # their reference log-probabilities
    "trained",  # a checkpoint with the new weights; the pairs are consumed
    "done",  # the weights are in the rollouts, if this round publishes them
]
STATES: tuple[RoundState, ...] = get_args(RoundState)

# Of journals that earlier versions wrote: all candidates are there, and were scored as they came.
_FORMER: dict[str, RoundState] = {"generated": "scored"}

ActionKind = Literal["generate", "pair", "reference", "train", "publish"]
_ACTIONS: dict[RoundState, ActionKind] = {
    "planned": "generate",
    "scored": "pair",
    "paired": "reference",
    "referenced": "train",
    "trained": "publish",
}


@dataclass(frozen=True, slots=True)
class Action:
    """What to do for which round; when it is done the round is in state ``then``."""

    kind: ActionKind
    round: int
    then: RoundState


def reached(state: RoundState, milestone: RoundState) -> bool:
    """Whether ``state`` is ``milestone`` or later."""
    return STATES.index(state) >= STATES.index(milestone)


def named_today(state: str) -> RoundState:
    """A state that a journal of an earlier version has, by its present name; one that is none is ``check_states``'s."""
    return _FORMER.get(state, cast(RoundState, state))


def action_of(state: RoundState, round_number: int) -> Action | None:
    """What a round in ``state`` needs next; None if it is done."""
    if state == "done":
        return None
    return Action(_ACTIONS[state], round_number, STATES[STATES.index(state) + 1])


def check_states(states: Mapping[int, str], rounds: int) -> dict[int, RoundState]:
    """Validate the states read from the journal.

    Raises:
        ValueError: Unknown state, a gap, or a round trained before the one in front of it.
    """
    checked: dict[int, RoundState] = {}
    for round_number in range(1, max([rounds, *states]) + 1):
        state = states.get(round_number, "planned")
        if state not in STATES:
            raise ValueError(f"round {round_number}: unknown state '{state}'")
        checked[round_number] = state
        if round_number > 1 and reached(state, "trained") and not reached(checked[round_number - 1], "trained"):
            raise ValueError(
                f"round {round_number} is '{state}' but round {round_number - 1} is '{checked[round_number - 1]}'"
            )
    return {round_number: state for round_number, state in checked.items() if round_number <= rounds}
