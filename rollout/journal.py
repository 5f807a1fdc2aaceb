"""What a run asks of its journal, typed: the methods of ``Store``, wherever the file is open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from configs.json_types import JsonMapping, JsonObject, Row
from rollout.store import Store

P = ParamSpec("P")
R = TypeVar("R")


def _asked(method: Callable[Concatenate[Store, P], R]) -> Callable[Concatenate[Journal, P], R]:
    """The method as one of :class:`Journal`: the same arguments and result, through ``ask``."""

    def ask(self: Journal, /, *arguments: P.args, **named: P.kwargs) -> R:
        result: R = self.ask(method.__name__, arguments, named)
        return result

    ask.__name__, ask.__doc__ = method.__name__, method.__doc__
    return ask


class Journal(ABC):
    """The journal of a run as its driver sees it. How a call gets to the file is a subclass's matter."""

    @abstractmethod
    def ask(self, method: str, arguments: Row, named: JsonMapping) -> Any:
        """Call a method of ``Store`` and wait for its result."""

    begin_round = _asked(Store.begin_round)
    put_chunk = _asked(Store.put_chunk)
    done_chunks = _asked(Store.done_chunks)
    candidates = _asked(Store.candidates)
    put_scores = _asked(Store.put_scores)
    scores = _asked(Store.scores)
    put_pairs = _asked(Store.put_pairs)
    pairs = _asked(Store.pairs)
    put_groups = _asked(Store.put_groups)
    groups = _asked(Store.groups)
    examples = _asked(Store.examples)
    put_reference_logprobs = _asked(Store.put_reference_logprobs)
    mark_consumed = _asked(Store.mark_consumed)
    round_state = _asked(Store.round_state)
    round_states = _asked(Store.round_states)
    set_round_state = _asked(Store.set_round_state)
    put_evaluation = _asked(Store.put_evaluation)
    evaluations = _asked(Store.evaluations)
    counts = _asked(Store.counts)
    close = _asked(Store.close)

    def round_data(self, round_number: int) -> JsonObject:
        """What is kept of a round beside its state; the round was begun."""
        found = self.round_state(round_number)
        assert found is not None, f"round {round_number} was not begun"
        return found[1]
