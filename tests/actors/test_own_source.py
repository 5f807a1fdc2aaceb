"""A source that is a user's function: asked once, its silence counted, its faults named, its version kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from actors.plan.plugins import pinned
from actors.train.source_coordinator import SourceCoordinator, source_coordinator
from configs.errors import UserError
from configs.schema import Config
from judges.answers import Answered
from judges.own_source import try_sources
from rollout.identity import config_digest
from tests.actors.test_source_coordinator import WAIT_S, chunk
from tests.kits.plugins import own_module
from tests.kits.rollout import make_config, make_prompts

SOURCE = '''
import threading

calls = []

def shout(prompts, samples, *, mark="!"):
    """Counts its calls; has no answer to "quiet", and an empty one to "blank"."""
    calls.append([(p.text, p.language, p.answer, number) for p, number in zip(prompts, samples)])
    texts = [f"{p.text.upper()}{mark}{number}" for p, number in zip(prompts, samples)]
    return [None if p.text == "quiet" else " " if p.text == "blank" else t for p, t in zip(prompts, texts)]

def fails(prompts, samples):
    raise KeyError("no such thing")

def hangs(prompts, samples):
    threading.Event().wait(30)

def one_text(prompts, samples):
    return "text"

def too_few(prompts, samples):
    return ["a"] * (len(prompts) - 1)

def numbers(prompts, samples):
    return [3 for _ in prompts]

def silent(prompts, samples):
    return [None for _ in prompts]
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with own_module(tmp_path, SOURCE, monkeypatch) as name:
        yield name


def own(mine: str, name: str, tmp_path: Path, **fields: object) -> Config:
    source = {"kind": "custom", "name": "mine", "function": f"{mine}:{name}", **fields}
    sources = [{"kind": "policy"}, source]
    return make_config(candidates={"sources": sources, "cache": str(tmp_path / "answers.sqlite")})


def answers(config: Config, *texts: str, samples: int = 1) -> list[Answered]:
    found: list[Answered] = []
    with closing(SourceCoordinator(config, Path(config.candidates.cache or ""))) as coordinator:
        coordinator.submit(
            chunk("c", list(texts), "mine", samples=samples), lambda _begin, _end, rows: found.extend(rows)
        )
        while not coordinator.idle:
            coordinator.collect(WAIT_S)
    return found


def test_each_prompt_and_sample_is_asked_for_once(mine: str, tmp_path: Path) -> None:
    config = own(mine, "shout", tmp_path, samples=2, options={"mark": "?"})
    first = answers(config, "one", "two", samples=2)
    assert [row.text for row in first] == ["ONE?0", "ONE?1", "TWO?0", "TWO?1"]
    assert {row.model for row in first} == {f"{mine}:shout"}
    calls = sys.modules[mine].calls
    assert calls == [[("one", "es", None, 0), ("one", "es", None, 1), ("two", "es", None, 0), ("two", "es", None, 1)]]
    # A run that is continued asks for what is not known alone.
    assert answers(config, "one", "two", "quiet", samples=2)[:4] == first
    assert calls[1:] == [[("quiet", "es", None, 0), ("quiet", "es", None, 1)]]
    answers(own(mine, "shout", tmp_path, options={"mark": "."}), "one")
    assert len(calls) == 3, "other options, other answers"


def test_no_answer_is_told_with_its_reason(mine: str, tmp_path: Path) -> None:
    quiet, blank, good = answers(own(mine, "shout", tmp_path), "quiet", "blank", "good")
    assert (quiet.text, quiet.why) == (None, "None from the function")
    assert (blank.text, blank.why) == (None, "an empty answer")
    assert good.text == "GOOD!0"


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("fails", {}, r"failed for 2 prompts from 'p0' in 'es' with KeyError: .*no such thing.*\.py:13\)"),
        (
            "hangs",
            {"timeout_s": 0.05},
            r"gave no answer within 0\.05 s for 2 prompts from 'p0' in 'es'; make it faster",
        ),
        ("one_text", {}, r"returned str 'text' for 2 prompts .*return one text a prompt, or None"),
        ("too_few", {}, r"returned 1 answers for 2 prompts; return one text a prompt"),
        ("numbers", {}, r"returned int 3 for prompt 'p0' in 'es'; return a text, or None"),
        (
            "shout",
            {"options": {"marc": "!"}},
            r"options of candidates\.sources\.1\.options \(marc\): got an unexpected",
        ),
        ("absent", {}, r"has no 'absent'; correct"),
    ],
)
def test_a_function_that_misbehaves_is_named(
    mine: str, tmp_path: Path, name: str, fields: dict[str, object], expected: str
) -> None:
    with pytest.raises(UserError, match=r"candidates\.sources\.1\.function: .*" + expected):
        answers(own(mine, name, tmp_path, **fields), "a", "b")


def test_it_is_tried_on_two_prompts_before_anything_starts(mine: str, tmp_path: Path) -> None:
    config = own(mine, "shout", tmp_path, languages=["es"])
    prompts = make_prompts(tmp_path, config, 3)
    try_sources(config, prompts)
    (call,) = sys.modules[mine].calls
    assert [(language, answer, sample) for _, language, answer, sample in call] == [("es", None, 0)] * 2
    with pytest.raises(UserError, match=r"silent: answers neither prompt 'p0' in .* nor .* \(None from the function\)"):
        try_sources(own(mine, "silent", tmp_path), prompts)
    with pytest.raises(UserError, match=r"candidates\.sources\.1\.function: no\.such:thing cannot be imported"):
        try_sources(own("no.such", "thing", tmp_path), prompts)


def test_its_source_is_part_of_the_runs_identity(mine: str, tmp_path: Path) -> None:
    before = pinned(own(mine, "shout", tmp_path))
    assert before.run.plugins.keys() == {"candidates.sources.1.function"}
    with (tmp_path / f"{mine}.py").open("a", encoding="utf-8") as file:
        file.write("\n# another version\n")
    assert config_digest(before) != config_digest(pinned(own(mine, "shout", tmp_path)))
    with pytest.raises(UserError, match=r"candidates\.sources\.1\.function: .*:shout has another source here"), \
            source_coordinator(before):  # fmt: skip
        pass


def test_a_misspelt_field_is_told() -> None:
    with pytest.raises(ValueError, match=r"functoin"):
        make_config(candidates={"sources": [{"kind": "custom", "name": "mine", "functoin": "a:b"}]})
