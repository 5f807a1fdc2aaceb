"""Every preset passes a dry run from one command: over the embedded world, on a stranger's model, or for a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from configs.load import load_config, merge
from configs.presets import preset_names
from configs.schema import Config
from configs.yaml12 import dump_yaml_value
from rollout.assignment import wanted_pairs
from tests.configs.test_presets import METHODS, OWN
from tests.kits.tiny import build_reward_model, build_tiny_model

CODES = ("en", "fr", "sw")
BIG = {
    "llama3_8b_icr": "2x8h100",
    "llama3_8b_8gpu": "8xh100",
    "llama3_8b_lidr_maths": "8xh100",
    "llama3_8b_one_gpu": "1xh100",
}
DANG = [name for name in preset_names() if name.startswith("dang/")]
ELSEWHERE = {**BIG, **dict.fromkeys(DANG, "2x8h100"), "gemma3_270m_ultrafeedback": "laptop"}
OVER_THE_WORLD = [name for name in preset_names() if "/" not in name and name not in ELSEWHERE]
MIXES = {"EN-1": 1, "ML-5": 5, "ML-all": 23}


def dry_run(*words: str) -> str:
    done = CliRunner().invoke(app, ["train", *words, "--dry-run"])
    assert done.exception is None, f"{done.output}\n{done.exception}"
    return done.output


def test_no_preset_is_left_out() -> None:
    assert {*OVER_THE_WORLD, *ELSEWHERE, *(f"methods/{name}" for name in METHODS)} == set(preset_names())
    # Every method has a preset over the embedded world; there are no problems of arithmetic in it.
    assert {*METHODS} - {"dpo", "lidr_maths"} <= set(OVER_THE_WORLD)
    assert {"demo", "offline"} <= set(OVER_THE_WORLD)
    assert DANG == ["dang/dpo_offline", "dang/dpo_online", "dang/rloo"]


@pytest.mark.parametrize("name", OVER_THE_WORLD)
def test_over_the_embedded_world(name: str) -> None:
    assert "Inputs: " in dry_run(name)


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_for_machines_that_are_elsewhere(name: str) -> None:
    assert "Not on this machine, so not read: model.policy" in dry_run(
        name, "--cluster", f"deploy/clusters/{ELSEWHERE[name]}.yaml"
    )


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stranger's folder: a model, a reward model, prompts and preference pairs."""
    folder = tmp_path_factory.mktemp("mine")
    build_tiny_model(folder / "policy")
    build_reward_model(folder / "rm")
    for code in CODES:
        rows = [{"id": f"p{n}", "prompt": f"{code} {n}?"} for n in range(6)]
        (folder / f"{code}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pairs = [{"id": f"p{n}", "prompt": f"{n}?", "chosen": "yes", "rejected": "no"} for n in range(6)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs), encoding="utf-8")
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_a_method_on_a_strangers_model(method: str, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine)
    tiny = {"policy": "policy", "max_length": 200, "dtype": "float32"}
    own = merge({"extends": f"methods/{method}.yaml", "model": tiny, "rollout": {"max_new_tokens": 32}}, OWN[method])
    own = merge(own, {"candidates": {"translation_max_new_tokens": 40}} if method.startswith("lidr") else {})
    own = merge(own, {"model": {"reference": "policy"}} if own["model"].get("reference") else {})
    own = merge(own, {"reward": {"model": "rm"}} if "model" in own.get("reward", {}) else {})
    if method != "dpo":
        own = merge(own, {"languages": {"codes": list(CODES)}, "prompts": {"train": "{lang}.jsonl"}})
    Path("run.yaml").write_text(dump_yaml_value(own), encoding="utf-8")
    assert "Inputs: " in dry_run("run.yaml")


@pytest.mark.parametrize("mix", MIXES)
def test_the_third_papers_rows_get_as_many_pairs_in_each_mixture(mix: str) -> None:
    """The designs compare methods and mixtures at equal numbers of pairs, and evaluate all 23 languages in each."""
    for name in DANG:
        config = load_config(Path(name), [f"languages.mix={mix}"])
        wanted = wanted_pairs(config)
        assert sum(wanted.values()) * config.schedule.rounds == 50_000
        assert len(wanted) == MIXES[mix]
        assert len(config.evaluated) == 23
        judge = config.evaluation.judge
        assert judge is not None
        assert judge.api_key_env is not None
    full = load_config(Path("dang/dpo_offline"), ["languages.quota.pairs_per_round=230000"])
    assert set(wanted_pairs(full).values()) == {10_000}
    assert _differ(load_config(Path("dang/dpo_online")), load_config(Path("dang/rloo"))) == {"run", "learner"}


def _differ(one: Config, other: Config) -> set[str]:
    """Sections that differ."""
    a, b = one.model_dump(mode="json"), other.model_dump(mode="json")
    return {section for section in a if a[section] != b[section]}
