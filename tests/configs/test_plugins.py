"""A user's own functions: how they are found, what is said of those that cannot be used, and the deadline."""

from __future__ import annotations

import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.plugins import Plugin, check_named, load_plugin, within
from tests.kits.plugins import own_module

SOURCE = """
def score(prompts, candidates, *, bonus=0.0):
    return [len(c) + bonus for c in candidates]

def fails(prompts, candidates):
    raise KeyError("no such thing")

def leaves(prompts, candidates):
    raise SystemExit(3)

class Scorer:
    def __call__(self, prompts, candidates):
        return [1.0 for _ in candidates]

scorer = Scorer()
NUMBER = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with own_module(tmp_path, SOURCE, monkeypatch) as name:
        yield name


def load(name: str, digest: str | None = None) -> Plugin:
    return load_plugin(name, "reward.function", "isogloss.rewards", digest)


def test_function_in_the_working_directory(mine: str) -> None:
    plugin = load(f"{mine}:score")
    assert plugin.run([], ["ab"], seconds=5, about="x", options={"bonus": 0.5}) == [2.5]
    assert plugin.digest == load(f"{mine}:scorer").digest, "of the file, whatever in it is called"
    assert load(f"{mine}:score", plugin.digest) == plugin


def test_other_source_than_where_the_run_was_started(mine: str) -> None:
    with pytest.raises(UserError, match=r"reward\.function: .*:score has another source here .*than where the run"):
        load(f"{mine}:score", "0" * 64)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("absent", r"reward\.function: mine\w* \(.*mine\w*\.py\) has no 'absent'; correct"),
        ("NUMBER", r"is no function but int; name a function"),
    ],
)
def test_what_is_no_function(mine: str, function: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        load(f"{mine}:{function}")


def test_module_that_is_not_there_or_cannot_be_imported(mine: str) -> None:
    with pytest.raises(
        UserError, match=r"no\.such:score cannot be imported: ModuleNotFoundError.*working directory \(/"
    ):
        load("no.such:score")
    Path("broken_plugin.py").write_text("def score(:\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"broken_plugin:score cannot be imported: SyntaxError: .*broken_plugin.py:1\)"):
        load("broken_plugin:score")
    Path("leaving_plugin.py").write_text("raise SystemExit(1)\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"leaving_plugin:score cannot be imported: RuntimeError: it ended with SystemExit"
    ):
        load("leaving_plugin:score")


def test_exception_names_the_function_its_line_and_the_candidates(mine: str) -> None:
    with pytest.raises(UserError, match=r"reward\.function: .*:fails: failed for p0/es/1 with KeyError.*\.py:6\)"):
        load(f"{mine}:fails").run([], [], seconds=5, about="p0/es/1")
    with pytest.raises(UserError, match=r":leaves: failed for p0/es/1 with RuntimeError: it ended with SystemExit"):
        load(f"{mine}:leaves").run([], [], seconds=5, about="p0/es/1")


def test_hang_meets_the_deadline() -> None:
    never = threading.Event()
    plugin = Plugin("reward.function", "my:score", never.wait, "0")
    with pytest.raises(UserError, match=r"my:score: gave no answer within 0\.05 s for two candidates; make it"):
        plugin.run(seconds=0.05, about="two candidates")
    never.set()
    assert within(5, lambda: 3) == 3


def test_options_that_the_function_does_not_take(mine: str) -> None:
    plugin = load(f"{mine}:score")
    plugin.accepts(([], []), {"bonus": 1.0}, "reward.options")
    with pytest.raises(UserError, match=r"options of reward\.options \(malus\): got an unexpected keyword .*'malus'"):
        plugin.accepts(([], []), {"malus": 1.0}, "reward.options")


def test_entry_point_of_an_installed_package(tmp_path: Path, mine: str) -> None:
    folder = tmp_path / "mine-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n", encoding="utf-8")
    points = textwrap.dedent(f"""\
        [isogloss.rewards]
        by_length = {mine}:score
    """)
    (folder / "entry_points.txt").write_text(points, encoding="utf-8")
    sys.path.insert(0, str(tmp_path))
    assert load("by_length").call([], ["abc"]) == [3.0]
    check_named("by_length", "reward.function", "isogloss.rewards", ())
    with pytest.raises(
        UserError, match=r"no entry point 'by_width' of isogloss\.rewards is installed here \(there are by_l"
    ):
        load("by_width")


def test_slip_in_the_name_of_what_is_built_in() -> None:
    check_named("sigmoid", "learner.objective", "isogloss.objectives", ("sigmoid", "ipo"))
    check_named("my.own:loss", "learner.objective", "isogloss.objectives", ("sigmoid", "ipo"))
    with pytest.raises(UserError, match=r"learner\.objective: 'sigmod' is unknown; take one of sigmoid, ipo, or name"):
        check_named("sigmod", "learner.objective", "isogloss.objectives", ("sigmoid", "ipo"))
