"""Reading configs: every bad one is refused with the field or line and the cure, before anything is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.load import load_config
from configs.reference import render_page, write_reference
from configs.schema import Config

DEMO = Path("configs/demo.yaml")
PRESETS = sorted(Path("configs").glob("*.yaml"))


def refused(*overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load_config(DEMO, overrides)
    return str(error.value)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_valid(path: Path) -> None:
    assert isinstance(load_config(path), Config)


def test_extends_is_laid_under_the_file() -> None:
    lidr, icr = load_config(Path("configs/lidr.yaml")), load_config(Path("configs/icr.yaml"))
    assert lidr.candidates.source == "self_translation"
    assert lidr.languages == icr.languages


def test_override_is_typed_as_yaml() -> None:
    config = load_config(DEMO, ["learner.beta=0.2", "languages.shares={en: 0.5}", "prompts.limit=null"])
    assert config.learner.beta == 0.2
    assert config.languages.shares == {"en": 0.5}
    assert config.prompts.limit is None


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("learner.betta=1", "learner.betta: unknown field; did you mean learner.beta?"),
        ("rollout.beta=1", "rollout.beta: unknown field; did you mean learner.beta?"),
        ("qqq.zzz=1", "qqq: unknown field; remove it"),
        ("learner.beta=high", "learner.beta: Input should be a valid number"),
        ("learner.beta=-1", "learner.beta: Input should be greater than 0"),
        ("rollout.actors=1.5", "rollout.actors:"),
        ("reward.kind=implict", "reward.kind: Input should be 'implicit'"),
        ("languages.dominant=xx", "languages.dominant: 'xx' is not in codes; add it"),
        ("languages.shares={xx: 1}", "languages.shares.xx: not in codes"),
        ("languages.codes=[en, es, en]", "languages.codes: a language is named twice"),
        ("model.reference=null", "model.reference: reward.kind implicit needs"),
        ("candidates.source=self_translation", "candidates.source: reward.kind cross_language and"),
        ("rollout.max_new_tokens=4096", "rollout.max_new_tokens: 4096 leaves no room"),
        ("rollout.samples_per_prompt=1", "rollout.samples_per_prompt: a pair needs at least 2"),
        ("schedule.sync_every=3", "schedule.max_staleness: 0 cannot hold with sync_every 3; set max_staleness to"),
        ("learner.deepspeed={optimizer: {type: Adam}}", "learner.deepspeed.optimizer: set learner.learning_rate"),
        ("learner.deepspeed={bf16: {enabled: true}}", "learner.deepspeed.bf16: set model.dtype"),
        ("learner.deepspeed={zero_optimization: {stage: 3}}", "learner.deepspeed.zero_optimization.stage: 3 contra"),
        ("anchor.path=null", "anchor.path: pairs_per_round is above 0"),
        ("prompts.train=prompts.jsonl", "prompts.train: 'prompts.jsonl' has no {lang}"),
        ("learner.workers=64", "learner.pairs_per_step: 32 is fewer than the 64 workers"),
    ],
)
def test_bad_field_is_named_with_its_cure(override: str, expected: str) -> None:
    assert expected in refused(override)


def test_policy_older_than_its_reference_is_refused() -> None:
    assert "reward.policy: initial with" in refused("reward.policy=initial", "reward.reference=previous_round")


def test_too_few_checkpoints_to_resume_are_refused() -> None:
    sides = ("reward.policy=current", "reward.reference=previous_round")
    message = refused("schedule.max_staleness=2", "schedule.sync_every=2", *sides)
    assert "learner.keep_checkpoints: 2 is too few" in message
    assert message.endswith("set it to at least 5")


@pytest.mark.parametrize("override", ["learner", "learner.=1", "=1"])
def test_malformed_override(override: str) -> None:
    assert "expected section.field=value" in refused(override)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty; start from configs/demo.yaml"),
        ("- a\n", "expected `section:` entries"),
        ("run: {name: a\n", ":2: not valid YAML"),
        ("run: {name: a}\nrun: {name: b}\n", ":2: not valid YAML: 'run' is given twice"),
        ("extends: bad.yaml\n", "leads back to this file"),
        ("extends: nowhere.yaml\n", "nowhere.yaml: no such config file"),
        ("extends: 3\n", "extends: expected a file name"),
    ],
)
def test_bad_file_is_named_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_config(path)
    assert str(tmp_path) in str(error.value)
    assert expected in str(error.value)


def test_config_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes("run: {name: caf\xe9}".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        load_config(path)


def test_reference_page_is_what_the_schema_says(tmp_path: Path) -> None:
    for generated in write_reference(tmp_path):
        committed = Path("docs") / generated.name
        assert generated.read_text(encoding="utf-8") == committed.read_text(encoding="utf-8"), "run `make docs`"
    assert "`samples_per_prompt`" in render_page()


def test_config_and_pure_rooms_import_neither_torch_nor_ray_nor_vllm() -> None:
    code = """
import pkgutil, sys, importlib
for package in ("configs", "rollout", "evaluation", "judges"):
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
heavy = {"torch", "ray", "vllm", "transformers", "deepspeed"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
