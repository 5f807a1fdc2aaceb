"""The journal as a run calls it: the store's own methods, wherever the file is."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from rollout.journal import Journal
from rollout.records import labelled_pair
from rollout.store import Store


class InProcess(Journal):
    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls: list[str] = []

    def ask(self, method: str, arguments: Any, named: Any) -> Any:
        self.calls.append(method)
        return getattr(self.store, method)(*arguments, **named)


def test_calls_reach_the_store_with_their_results(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.sqlite", "digest") as store:
        journal = InProcess(store)
        assert journal.put_pairs(1, [labelled_pair("offline", 1, "p0", "en", "Who?", chosen="Ada", rejected="Bob")])
        journal.set_round_state(1, "paired", {"counts": {"pairs": 1}})
        assert journal.pairs(1) == store.pairs(1) != []
        assert journal.round_data(1) == {"counts": {"pairs": 1}}
        assert journal.calls == ["put_pairs", "set_round_state", "pairs", "round_state"]


def test_the_stores_actor_has_every_method() -> None:
    from actors.train import store

    asked = {name for name, found in vars(Journal).items() if inspect.isfunction(found)} - {"ask", "round_data"}
    actor: Any = store.StoreActor  # decorated by Ray
    served = vars(actor.__ray_metadata__.modified_class)
    assert asked <= set(served)
