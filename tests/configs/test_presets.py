"""Presets in two layers: methods hold nothing of the embedded world, and the world under a method is what it was."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import app
from configs.errors import UserError
from configs.explain import fields
from configs.load import config_files, load_config, merge
from configs.presets import FOLDER, preset_names
from configs.schema import Config
from configs.sources import CustomSource
from configs.yaml12 import dump_yaml_value, load_yaml
from rollout.prompts import PromptSet
from rollout.records import Message
from tests.kits.tiny import build_tiny_model

# What each preset resolves to where that is not the schema's default: a change of a layer shows in what it changes.
RESOLVED: dict[str, dict[str, Any]] = json.loads(Path("tests/data/presets.json").read_text(encoding="utf-8"))
METHODS = sorted(path.stem for path in Path("configs/methods").glob("*.yaml"))
SERVER = {"base_url": "http://localhost:8000/v1", "model": "any"}
TEACHERS = {"endpoints": dict.fromkeys(("first", "second", "third"), SERVER), "reward": {"model": "models/rm"}}
# Beside its model and prompts, what a method cannot know.
OWN: dict[str, dict[str, Any]] = {
    "icr": {"model": {"reference": "models/sft"}},
    "rloo": {"model": {"reference": "models/sft"}},
    "grpo": {"model": {"reference": "models/sft"}},
    "dr_grpo": {"model": {"reference": "models/sft"}},
    "dapo": {"model": {"reference": "models/sft"}},
    "gspo": {"model": {"reference": "models/sft"}},
    "lidr": {},
    "lidr_maths": {},
    "likelihood": {},
    "judge": {"judge": {"base_url": "http://localhost:8000/v1", "model": "any"}},
    "dpo": {"offline": {"path": "pairs.jsonl"}},
    "dang_dpo": {"endpoints": {"strong": SERVER, "weak": SERVER}, "reward": {"model": "models/rm"}},
    "arbitrage": TEACHERS,
    "croco": {"reward": {"model": "models/rm"}},
    "dang_rloo": {"reward": {"model": "models/rm"}},
    "semi_online": {"reward": {"model": "models/rm"}},
    "expanse_offline": {
        "endpoints": dict.fromkeys(("first", "second", "third"), SERVER),
        "reward": {"model": "models/rm"},
    },
    "expanse_online": {"reward": {"model": "models/rm"}},
}


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found.update(flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) and inner else {f"{prefix}{key}": inner})
    return found


def defaults() -> dict[str, Any]:
    found = {name: field for name, field in fields(Config) if not field.is_required()}
    return {
        name: json.loads(json.dumps(field.get_default(call_default_factory=True), default=str))
        for name, field in found.items()
    }


def test_every_preset_is_written_down() -> None:
    assert sorted(RESOLVED) == sorted(path.stem for path in Path("configs").glob("*.yaml"))


@pytest.mark.parametrize("name", sorted(RESOLVED))
def test_a_composed_preset_resolves_to_what_is_written_down(name: str) -> None:
    now = flat(load_config(Path("configs") / f"{name}.yaml").model_dump(mode="json"))
    expected = {key: value for key, value in defaults().items() if key in now} | RESOLVED[name]
    differing = {key: (value, now.get(key)) for key, value in expected.items() if now.get(key) != value}
    above = {key for key in differing if any(other.startswith(f"{key}.") for other in now)}  # mappings, shown by key
    assert {key: both for key, both in differing.items() if key not in above} == {}


def foreign(folder: Path, method: str) -> Path:
    """A stranger's config on a method, with nothing but what the method's file asks for."""
    own = merge({"extends": f"methods/{method}.yaml", "model": {"policy": "models/mine"}}, OWN[method])
    if method != "dpo":
        own = merge(own, {"languages": {"codes": ["en", "fr", "sw"]}, "prompts": {"train": "data/{lang}.jsonl"}})
    path = folder / "mine.yaml"
    path.write_text(dump_yaml_value(own), encoding="utf-8")
    return path


@pytest.mark.parametrize("method", METHODS)
def test_a_method_brings_nothing_of_the_embedded_world(method: str, tmp_path: Path) -> None:
    path = foreign(tmp_path, method)
    config = load_config(path)
    assert {file.parent.name for file in config_files(path)} == {tmp_path.name, "methods"}
    assert "worlds/" not in json.dumps(config.model_dump(mode="json"))
    assert config.model.policy == Path("models/mine")
    assert config.model.max_length >= 4096
    assert config.model.dtype == "bfloat16"
    assert config.learner.learning_rate <= 1e-6
    assert config.learner.epochs == 1
    assert config.languages.shares == {}
    assert (config.anchor.path, config.anchor.pairs_per_round) == (None, 0)
    if config.offline.path is None:
        assert config.reward.follows_policy == (config.reward.kind == "implicit")
        assert config.rollout.max_new_tokens >= 2000
        assert config.rollout.prompts_per_round >= 1000
        assert config.rollout.actors == 1
    # Whatever the world sets is the method's own word, or the default.
    world = flat(load_yaml(Path("configs/worlds/default.yaml").read_text(encoding="utf-8"), "world"))
    said: dict[str, Any] = {}
    for file in reversed(config_files(path)):
        values = load_yaml(file.read_text(encoding="utf-8"), "said")
        values.pop("extends", None)
        said = merge(said, values)
    meant, now = defaults() | flat(said), flat(config.model_dump(mode="json"))
    assert {key: now[key] for key in world if key in meant and key in now and now[key] != meant[key]} == {}


def test_lidr_needs_no_reference_and_reads_none(tmp_path: Path) -> None:
    config = load_config(foreign(tmp_path, "lidr"))
    assert config.model.reference is None
    named_in_vain = load_config(foreign(tmp_path, "lidr"), ["model.reference=nowhere"])
    assert not named_in_vain.reads_reference
    assert load_config(foreign(tmp_path, "icr")).reads_reference
    room = config.model.max_length - config.rollout.max_new_tokens - config.candidates.translation_max_new_tokens
    assert room > 1000


def test_lidr_on_problems_frames_them_in_their_language(tmp_path: Path) -> None:
    config = load_config(foreign(tmp_path, "lidr_maths"))
    for code in ("en", "fr", "sw"):
        file = tmp_path / f"{code}.jsonl"
        file.write_text(json.dumps({"id": "gsm8k_0", "prompt": f"{code} {{language}} 1+1?", "answer": ""}) + "\n")
    found = PromptSet.load(str(tmp_path / "{lang}.jsonl"), config.languages, config.prompts)
    assert not found.has_answers
    turns = found.get("gsm8k_0", "sw").turns
    assert isinstance(turns, tuple)
    system, asked = turns
    assert system == ("system", "You are a helpful assistant.")
    assert isinstance(asked, Message)
    assert asked.content.endswith("Problem:\nsw {language} 1+1?\n\nSolution in Swahili:")
    whole = load_config(Path("configs/llama3_8b_lidr_maths.yaml"))
    assert whole.prompts.frame == config.prompts.frame
    assert whole.candidates.source == "self_translation"
    assert (whole.reward.kind, whole.learner.workers) == ("cross_language", 4)


def test_a_list_is_laid_one_over_the_other(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("learner: {beta: 0.3, epochs: 7}\n", encoding="utf-8")
    (tmp_path / "b.yaml").write_text("learner: {beta: 0.4}\nrun: {name: b}\n", encoding="utf-8")
    top = tmp_path / "top.yaml"
    top.write_text("extends: [icr, a.yaml, b.yaml]\nrun: {name: top}\n", encoding="utf-8")
    config = load_config(top)
    assert (config.learner.beta, config.learner.epochs, config.run.name) == (0.4, 7, "top")
    assert [file.name for file in config_files(top)][:2] == ["top.yaml", "icr.yaml"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("extends: [a.yaml, 3]", "extends: expected a file name, relative to this file, or a list of them"),
        ("extends: {a: b}", "extends: expected a file name"),
        ("extends: [icr, top.yaml]", "leads back to this file"),
        ("extends: .", "is a folder; name a YAML file in it"),
        ("extends: ''", "is a folder; name a YAML file in it"),
        ("extends: pipe", "is a pipe, socket or device"),
        ('extends: "a\\0b"', "holds a NUL character"),
        (f"extends: {'n' * 300}", "has a name of 300 bytes"),
        ("extends: many.yaml", "more than 50 files extend one another"),
        ("extends: nowhere", "nowhere: no such config file; see configs/ for presets (demo, "),
    ],
)
def test_what_cannot_be_extended_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "leaf.yaml").write_text("run: {name: a}\n", encoding="utf-8")
    (tmp_path / "many.yaml").write_text(f"extends: [{', '.join(['leaf.yaml'] * 60)}]\n", encoding="utf-8")
    (tmp_path / "top.yaml").write_text(text + "\n", encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_config(tmp_path / "top.yaml")
    assert expected in str(error.value)


def test_teachers_of_the_world_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("dang_dpo", "arbitrage"):
        for source in load_config(Path(name)).candidates.sources:
            assert isinstance(source, CustomSource)
            assert source.options["world"] == str(FOLDER.parent / "worlds/default")


@pytest.mark.parametrize("name", ["demo", "demo.yaml", "configs/demo.yaml", "methods/../demo.yaml"])
def test_a_preset_is_found_by_name_from_anywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if ".." in name:
        with pytest.raises(UserError, match="no such config file"):
            load_config(Path(name))
        return
    config = load_config(Path(name))
    assert config.model.policy == FOLDER.parent / "worlds/default/policy"
    assert (config.model.policy / "config.json").is_file()
    assert Path(str(config.prompts.train).format(lang="sw")).is_file()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(f"extends: {Path(name).name}\nrun: {{name: near}}\n", encoding="utf-8")
    assert load_config(Path(name)).run.name == "near"  # a file of the user's comes first, and may extend its namesake


def test_names_of_presets() -> None:
    assert {"demo", "icr", "methods/icr", "methods/dpo"} <= set(preset_names())
    assert not any(name.startswith("worlds/") for name in preset_names())


def readme_block() -> str:
    """The config of README's "Your own model and prompts"."""
    section = Path("README.md").read_text(encoding="utf-8").split("## Your own model and prompts")[1].split("\n## ")[0]
    found = re.search(r"```ya?ml\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_recipe_of_the_readme_works_on_a_strangers_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = readme_block()
    values = load_yaml(text, "README.md")
    codes = values["languages"]["codes"]
    model = values["model"]
    build_tiny_model(tmp_path / model["policy"])
    if model.get("reference") is not None:
        build_tiny_model(tmp_path / model["reference"])
    for kind in ("train", "heldout"):
        for code in codes if values["prompts"].get(kind) else ():
            file = tmp_path / values["prompts"][kind].format(lang=code)
            file.parent.mkdir(parents=True, exist_ok=True)
            rows = [{"id": f"p{n}", "prompt": f"{code} {n}?", "answer": "5"} for n in range(4)]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    # The tiny model has fewer positions than a real one.
    short = ["model.max_length=200", "rollout.max_new_tokens=32"]
    done = CliRunner().invoke(app, ["train", "mine.yaml", *short, "--dry-run"])
    assert done.exception is None
    config = load_config(Path("mine.yaml"))
    assert config.languages.codes == codes
    assert config.model.policy == Path(model["policy"])
    assert "rollout" in done.output
    assert not (tmp_path / "runs").exists()
