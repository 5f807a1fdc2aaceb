"""What is said of nodes that see another file system. Nodes are really asked in ``tests/e2e/test_submit.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from actors.plan import shared_storage as shared
from configs.errors import UserError


class Task:
    """Stands for Ray's remote function; only the node matters, which ``answers`` tells apart."""

    def __init__(self, asked: list[str]) -> None:
        self._asked = asked
        self._node = ""

    def options(self, name: str, scheduling_strategy: Any) -> Task:
        self._node = scheduling_strategy.node_id
        return self

    def remote(self, paths: dict[str, str]) -> tuple[str, dict[str, str]]:
        self._asked.append(self._node)
        return self._node, paths


def node_id(number: int) -> str:
    return f"{number:056x}"


def node(number: int, cpus: float, alive: bool = True) -> dict[str, Any]:
    resources = {"CPU": cpus} if cpus else {}
    return {"NodeID": node_id(number), "NodeManagerAddress": f"10.0.0.{number}", "Alive": alive, "Resources": resources}


def cluster(monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, Any]], blind: dict[str, list[str]]) -> list[str]:
    asked: list[str] = []

    def call(tasks: list[tuple[str, dict[str, str]]], _timeout: float, _what: str, _stop: object) -> list[list[str]]:
        # A node that is not blind looks for real, so the mark must be there while it is asked.
        return [blind.get(name) or shared.missing(paths) for name, paths in tasks]

    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "remote", lambda **_options: lambda _function: Task(asked))
    monkeypatch.setattr(shared, "call", call)
    return asked


def test_nodes_that_lack_a_folder_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [node(1, 4), node(2, 4), node(3, 4), node(4, 0), node(5, 4, alive=False)]
    asked = cluster(monkeypatch, nodes, {node_id(2): ["run.dir"], node_id(3): ["run.dir", "model.policy"]})
    with pytest.raises(UserError, match=r"run\.dir: .* is not the same folder on node\(s\) 10\.0\.0\.2, 10\.0\.0\.3;"):
        shared.check_shared(tmp_path, {"model.policy": tmp_path}, 5)
    assert asked == [node_id(1), node_id(2), node_id(3)], "nodes that are gone, or lend nothing, are not asked"
    assert list(tmp_path.iterdir()) == [], "the mark is left behind"


def test_model_that_one_node_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, [node(1, 4), node(2, 4)], {node_id(2): ["model.reference"]})
    (tmp_path / "sft").mkdir()
    folders: dict[str, Path | None] = {"model.policy": tmp_path, "model.reference": tmp_path / "sft"}
    with pytest.raises(UserError, match=r"model\.reference: .*sft is not the same folder on node\(s\) 10\.0\.0\.2;"):
        shared.check_shared(tmp_path, folders, 5)


def test_shared_storage_passes_and_one_node_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = cluster(monkeypatch, [node(1, 4), node(2, 4)], {})
    shared.check_shared(tmp_path, {"model.policy": tmp_path, "model.reference": None}, 5)
    assert asked == [node_id(1), node_id(2)]
    asked = cluster(monkeypatch, [node(1, 4)], {node_id(1): ["run.dir"]})
    shared.check_shared(tmp_path, {}, 5)
    assert asked == []
