"""A round's quota with the journal: which prompts it has taken, which further ones it takes, what is still short."""

from __future__ import annotations

from collections.abc import Callable

from actors.observe.screen import Screen
from configs.json_types import JsonObject
from configs.schema import Config
from rollout.assignment import Assignment, Passes, assigned, first_pass, refill
from rollout.journal import Journal
from rollout.miners import pairs_a_prompt
from rollout.pairs import MinedPairs
from rollout.prompts import PromptSet
from rollout.quota import quota_rows, short_lines
from rollout.records import Candidate, Score
from rollout.sources import targets

_PASSES, _END = "quota", "quota_end"  # in a round's data: how far it has come, and where the next round begins

Mine = Callable[[int, list[Candidate], list[Score]], MinedPairs]


class QuotaKeeper:
    """Assigns prompts to languages; without ``languages.quota`` those of the round's cursor.

    Args:
        config: The run.
        prompts: Training prompts.
        store: Calls a method of the journal.
        mine: Mines a round.
        screen: Told of refills and of what is short.
    """

    def __init__(self, config: Config, prompts: PromptSet, store: Journal, mine: Mine, screen: Screen) -> None:
        self._config = config
        self._quota = config.languages.quota
        self._prompts = prompts
        self._store = store
        self._mine = mine
        self._screen = screen

    def assignment(self, round_number: int) -> Assignment:
        """The round's prompts, as far as the journal says that it has come."""
        if self._quota is None:
            return assigned(self._config, self._prompts, round_number)
        states = self._store.round_states()
        data = states[round_number][1] if round_number in states else {}
        if _PASSES in data:
            passes = Passes.from_json(data[_PASSES])
        else:
            start = states[round_number - 1][1][_END] if round_number > 1 else 0
            per_prompt = {code: pairs_a_prompt(self._config, code) for code in targets(self._config.languages)}
            passes = first_pass(self._config, start, per_prompt)
            self._store.set_round_state(round_number, "planned", {_PASSES: passes.to_json()})
        return assigned(self._config, self._prompts, round_number, passes)

    def refilled(self, round_number: int, assignment: Assignment) -> Assignment | None:
        """The assignment with one more pass for languages that are short of pairs; None if there is none."""
        if self._quota is None or self._quota.refill == 0:
            return None
        data = self._store.round_states()[round_number][1]
        mined = self._mine(round_number, self._store.candidates(round_number), self._store.scores(round_number))
        passes = refill(self._config, Passes.from_json(data[_PASSES]), assignment, mined.new_by_language)
        if passes is None:
            return None
        self._store.set_round_state(round_number, "planned", {_PASSES: passes.to_json()})
        self._screen.note(f"round {round_number}: further prompts for {', '.join(sorted(passes.needs[-1]))}")
        return assigned(self._config, self._prompts, round_number, passes)

    def end(self, assignment: Assignment) -> dict[str, int]:
        """For the round's data: where the next round begins."""
        return {} if self._quota is None else {_END: assignment.end}

    def counts(self, round_number: int, mined: MinedPairs) -> JsonObject:
        """For the round's counts: what each language got; what is short is shown."""
        if self._quota is None:
            return {}
        rows = quota_rows(self._config, self.assignment(round_number), mined)
        for line in short_lines(rows):
            self._screen.say(f"round {round_number}: {line}")
        return {"quota": rows}
