"""A run does not continue over other contents under the same names, whatever kind of input they are."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.train import run_folder
from actors.train.run_folder import open_run_folder
from configs.errors import UserError
from configs.load import load_run_config
from configs.schema import Config
from rollout.input_digests import input_digests, input_files
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


def begin(config: Config) -> dict[str, str]:
    """A run's first start; what its config then keeps."""
    folder = open_run_folder(config, resume=False)
    folder.close()
    return load_run_config(folder.path).run.inputs


def resume(config: Config) -> None:
    open_run_folder(config, resume=True).close()


def digests(own: Path) -> dict[str, str]:
    return input_digests(input_files(config_over(own)))


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
        (append("policy/vocab.txt"), "model.policy"),
        (append("reference/tokenizer.json"), "model.reference"),
        (flip, "model.policy"),
    ],
)
def test_what_a_run_reads_has_changed(own: Path, change: Callable[[Path], None], field: str) -> None:
    append("policy/vocab.txt")(own)
    begun = begin(config_over(own))
    resume(config_over(own))
    change(own)
    with pytest.raises(UserError, match=rf": what {field} names has other contents than when the run was begun; res"):
        resume(config_over(own))
    assert load_run_config(own.parent / "icr").run.inputs == begun
    with pytest.raises(UserError, match="has other contents"):  # and again: nothing was taken over
        resume(config_over(own))


def test_another_path_is_named_as_such(own: Path) -> None:
    begin(config_over(own))
    moved = own / "other.jsonl"
    moved.write_text("")
    config = config_over(own)
    other = config.model_copy(update={"anchor": config.anchor.model_copy(update={"path": moved})})
    with pytest.raises(UserError, match=r"belongs to another config \(anchor.path: "):
        resume(other)


def test_a_run_of_before_keeps_checksums_from_its_next_sitting_on(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "_known_inputs", lambda *_: {})
    assert begin(config_over(own)) == {}
    monkeypatch.undo()
    append("anchor.jsonl")(own)
    resume(config_over(own))
    append("anchor.jsonl")(own)
    with pytest.raises(UserError, match="what anchor.path names has other contents"):
        resume(config_over(own))


def test_what_changes_nothing_does_not_count(own: Path) -> None:
    before = digests(own)
    for path in ("policy/README.md", "policy/state.json", "policy/metrics.json", "all/notes.txt"):
        (own / path).write_text("{}")
    (own / "policy" / "tokenizer.json.lock").symlink_to("nowhere")  # as editors leave them
    (own / "prompts" / "train" / "fr.jsonl").unlink()  # no language of the run
    (own / "prompts" / "train" / "es.jsonl").rename(own / "prompts" / "train" / "ES.jsonl")
    assert digests(own) == before


def test_what_is_not_read_does_not_count(own: Path) -> None:
    config = config_over(own)
    none = config.model_copy(update={"anchor": config.anchor.model_copy(update={"pairs_per_round": 0})})
    assert input_files(config).keys() - input_files(none).keys() == {"anchor.path"}
    offline = config.offline.model_copy(update={"path": str(own / "pairs.jsonl")})
    assert set(input_files(config.model_copy(update={"offline": offline}))) == {"model.policy", "prompts.heldout"}


def test_what_cannot_be_read_is_left_to_those_who_read_it(own: Path) -> None:
    begun = begin(config_over(own))
    shutil.rmtree(own / "reference")
    (own / "prompts" / "train" / "es.jsonl").unlink()
    (own / "anchor.jsonl").unlink()
    os.mkfifo(own / "anchor.jsonl")
    os.mkfifo(own / "all" / "pipe.csv")
    (own / "policy" / "vocab.txt").mkdir()
    gone = {"model.reference", "prompts.train.es", "anchor.path", "prompts.heldout"}
    assert begun.keys() - digests(own).keys() == gone
    resume(config_over(own))
    assert load_run_config(own.parent / "icr").run.inputs == begun


def test_rows_in_another_order_are_others(own: Path) -> None:
    saved = own / "all"
    (saved / "two.csv").write_text("id,language,prompt\nb,en,Bye\n")
    found = []
    for names in (["one.csv", "two.csv"], ["two.csv", "one.csv"]):
        (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
        found.append(digests(own)["prompts.heldout"])
    assert found[0] != found[1]


def test_an_index_that_leads_out_of_its_folder_is_none_of_ours(own: Path) -> None:
    policy = own / "policy"
    (policy / "model.safetensors").rename(own / "elsewhere.safetensors")
    (policy / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../elsewhere.safetensors"}}')
    assert "model.policy" not in digests(own)


def test_the_config_of_a_run_begins_another_one_with_its_own_inputs(own: Path) -> None:
    given = config_over(own)
    stale = given.model_copy(update={"run": given.run.model_copy(update={"inputs": {"anchor.path": "stale"}})})
    assert begin(stale) == digests(own)


def test_much_to_read_is_said_first(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(run_folder, "_LARGE", 1)
    open_run_folder(config_over(own), resume=False, say=said.append).close()
    assert said == ["reading 0 GiB of models and data, by whose checksums a resume knows them again"]
