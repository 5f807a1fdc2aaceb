"""A run does not continue over other contents under the same names, whatever kind of input they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.train.run_folder import open_run_folder, with_inputs
from configs.errors import UserError
from configs.load import dump_yaml
from configs.schema import Config
from rollout.input_digests import input_digests
from tests.kits.run import small_config

WORLD = Path("worlds/default")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A copy of the world to be changed, with a file of answers, a word list and a folder of tables beside it."""
    folder = tmp_path / "world"
    shutil.copytree(WORLD, folder)
    (folder / "answers.jsonl").write_text(json.dumps({"id": "x", "language": "es", "response": "sí"}) + "\n")
    (folder / "es.txt").write_text("casa\n")
    (folder / "all").mkdir()
    (folder / "all" / "one.csv").write_text("id,language,prompt\na,en,Hello\n")
    return folder


def config_over(own: Path) -> Config:
    terms = {
        "ratio": {"kind": "implicit"},
        "real": {"kind": "words", "files": {"es": str(own / "es.txt")}},
    }
    theirs = {"name": "theirs", "kind": "file", "path": str(own / "answers.jsonl")}
    sources = [{"name": "own", "kind": "policy"}, theirs]
    return small_config(
        own.parent,
        f"model.policy={own / 'policy'}",
        f"model.reference={own / 'reference'}",
        f"prompts.train={own}/prompts/train/{{lang}}.jsonl",
        f"prompts.heldout={own / 'all'}",
        f"anchor.path={own / 'anchor.jsonl'}",
        f"candidates.sources={json.dumps(sources)}",
        "reward.kind=terms",
        f"reward.terms={json.dumps(terms)}",
    )


def append(path: str) -> Callable[[Path], None]:
    def change(own: Path) -> None:
        with (own / path).open("ab") as file:
            file.write(b"\n")

    return change


def flip(own: Path) -> None:
    weights = own / "policy" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)


def new_table(own: Path) -> None:
    (own / "all" / "two.csv").write_text("id,language,prompt\nb,en,Bye\n")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (append("prompts/train/es.jsonl"), "prompts.train.es"),
        (append("all/one.csv"), "prompts.heldout"),
        (new_table, "prompts.heldout"),
        (append("anchor.jsonl"), "anchor.path"),
        (append("answers.jsonl"), "candidates.sources.1.path"),
        (append("es.txt"), "reward.terms.real.files.es"),
        (append("policy/chat_template.jinja"), "model.policy"),
        (append("reference/tokenizer.json"), "model.reference"),
        (flip, "model.policy"),
    ],
)
def test_what_a_run_reads_has_changed(own: Path, change: Callable[[Path], None], field: str) -> None:
    config = with_inputs(config_over(own))
    open_run_folder(config, resume=False).close()
    open_run_folder(with_inputs(config_over(own)), resume=True).close()
    change(own)
    with pytest.raises(UserError, match=rf": what {field} names has other contents than when the run was begun; res"):
        open_run_folder(with_inputs(config_over(own)), resume=True)


def test_another_path_is_named_as_such(own: Path) -> None:
    open_run_folder(with_inputs(config_over(own)), resume=False).close()
    moved = own / "other.jsonl"
    moved.write_text("")
    config = config_over(own)
    other = config.model_copy(update={"anchor": config.anchor.model_copy(update={"path": moved})})
    with pytest.raises(UserError) as refused:
        open_run_folder(with_inputs(other), resume=True)
    assert "belongs to another config (anchor.path: " in str(refused.value)
    assert "run.inputs" not in str(refused.value)


def test_a_run_that_began_without_checksums_continues_without(own: Path) -> None:
    config = config_over(own)
    open_run_folder(config, resume=False).close()
    append("anchor.jsonl")(own)
    later = with_inputs(config_over(own))
    assert later.run.inputs == {}
    open_run_folder(later, resume=True).close()


def test_what_changes_nothing_does_not_count(own: Path) -> None:
    before = input_digests(config_over(own))
    (own / "policy" / "README.md").write_text("notes")
    (own / "policy" / "state.json").write_text("{}")
    (own / "all" / "notes.txt").write_text("notes")
    (own / "prompts" / "train" / "fr.jsonl").unlink()  # no language of the run
    assert input_digests(config_over(own)) == before


def test_what_is_not_there_is_left_to_those_who_read_it(own: Path) -> None:
    before = input_digests(config_over(own))
    shutil.rmtree(own / "reference")
    (own / "prompts" / "train" / "es.jsonl").unlink()
    assert before.keys() - input_digests(config_over(own)).keys() == {"model.reference", "prompts.train.es"}


def test_the_config_of_a_run_begins_another_one_with_its_own_inputs(own: Path) -> None:
    given = config_over(own)
    stale = given.model_copy(update={"run": given.run.model_copy(update={"inputs": {"anchor.path": "stale"}})})
    assert "anchor.path: stale" in dump_yaml(stale)
    assert with_inputs(stale).run.inputs == input_digests(given)
