"""Reading configs: every bad one is refused with the field or line and the cure, before anything is imported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from configs.deepspeed import deepspeed_options
from configs.errors import UserError
from configs.load import load_config, load_run_config
from configs.reference import render_page, write_reference
from configs.reward import CustomReward, LikelihoodReward
from configs.schema import Config
from configs.yaml12 import dump_yaml_value
from rollout.identity import comparable_config, locked_changes
from tests.kits.imports import check_left_out

DEMO = Path("configs/icr.yaml")
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
        ("learner.deepspeed={optimizer: {params: {lr: 1}}}", "learner.deepspeed.optimizer: needs a `type`"),
        (
            "learner.deepspeed={optimizer: {type: AdamW, params: {lr: 1e-3}}}",
            "learner.deepspeed.optimizer.params.lr: 0.001 contradicts learning_rate 0.0001; set learner.learning_rate",
        ),
        (
            "learner.deepspeed={optimizer: {type: AdamW, params: {weight_decay: 0.1}}}",
            "learner.deepspeed.optimizer.params.weight_decay: 0.1 contradicts weight_decay 0; set learner.weight_decay",
        ),
        (
            "learner.deepspeed={scheduler: {type: WarmupLR, params: {warmup_max_lr: 1.0}}}",
            "learner.deepspeed.scheduler.params.warmup_max_lr: 1.0 contradicts learning_rate 0.0001; set learner.",
        ),
        (
            "learner.deepspeed={gradient_clipping: 2}",
            "learner.deepspeed.gradient_clipping: 2 contradicts max_grad_norm",
        ),
        ("learner.deepspeed={train_batch_size: 8}", "learner.deepspeed.train_batch_size: 8 contradicts pairs_per_step"),
        (
            "learner.deepspeed={gradient_accumulation_steps: 2}",
            "learner.deepspeed.gradient_accumulation_steps: micro-batches are packed by tokens",
        ),
        (
            "learner.deepspeed={zero_optimization: {stage3_prefetch_bucket_size: 9}}",
            "learner.deepspeed.zero_optimization.stage3_prefetch_bucket_size: has no effect at zero_stage 1; remove it",
        ),
        (
            "learner.deepspeed={zero_optimization: {reduce_bucket_size: 0}}",
            "learner.deepspeed.zero_optimization.reduce_bucket_size: 0 is not a number of elements; set a whole",
        ),
        (
            "learner.deepspeed={zero_optimization: {offload_param: {device: cpu}}}",
            "learner.deepspeed.zero_optimization.offload_param: needs zero_stage 3 or above, and it is 1; raise it",
        ),
        (
            "learner.deepspeed={zero_optimization: {offload_optimizer: {device: nvme}}}",
            "learner.deepspeed.zero_optimization.offload_optimizer.device: 'nvme' is not supported; set it to cpu",
        ),
        ("learner.deepspeed={fp16: {enabled: true}}", "learner.deepspeed.fp16: set model.dtype"),
        ("learner.schedule=cosine", "learner.total_steps: schedule cosine needs it; set it"),
        ("learner.total_steps=9", "learner.total_steps: has no effect with schedule constant; remove it or set"),
        ("learner.lora={dropout: 0.1}", "learner.lora.dropout: unknown field"),
        ("learner.lora={rank: 0}", "learner.lora.rank: Input should be greater than or equal to 1"),
        ("learner.deepspeed={bf16: {enabled: true}}", "learner.deepspeed.bf16: set model.dtype"),
        ("learner.deepspeed={zero_optimization: {stage: 3}}", "learner.deepspeed.zero_optimization.stage: 3 contra"),
        ("anchor.path=null", "anchor.path: pairs_per_round is above 0"),
        (
            "learner.label_smoothing=0.1 learner.objective=ipo",
            "learner.label_smoothing: not used by objective ipo; remove",
        ),
        ("learner.simpo_gamma=1", "learner.simpo_gamma: not used by objective sigmoid; remove it (it is for simpo)"),
        ("learner.objective=simpo learner.reference=initial", "learner.reference: not used by objective simpo; remove"),
        ("learner.objective=rloo learner.beta=0.2", "learner.beta: not used by objective rloo; remove it"),
        ("learner.objective=rloo learner.nll_weight=0.5", "learner.nll_weight: not used by objective rloo; remove it"),
        ("learner.objective=kto learner.rloo_clip=0.1", "learner.rloo_clip: not used by objective kto; remove it"),
        ("rollout.temperatures=[1.0, -0.5]", "rollout.temperatures.1: Input should be greater than or equal to 0"),
        ("rollout.temperatures=[0.0, 0.5]", "rollout.temperatures: 4 of 8 samples would be greedy"),
        (
            "rollout.temperatures=[1, 0] rollout.samples_per_prompt=2 candidates.sources=[{kind: policy, samples: 4}]",
            "rollout.temperatures: 2 of 4 samples would be greedy",
        ),
        ("learner.workers=64", "learner.pairs_per_step: 32 is fewer than the 64 workers"),
    ],
)
def test_bad_field_is_named_with_its_cure(override: str, expected: str) -> None:
    assert expected in refused(*re.split(r" (?=learner|rollout|candidates)", override))


def test_deepspeed_options_that_contradict_each_other() -> None:
    offload = "learner.deepspeed={zero_optimization: {offload_optimizer: {device: cpu}}}"
    assert "offload_optimizer: needs zero_stage 1 or above, and it is 0" in refused(offload, "learner.zero_stage=0")
    scheduler = "learner.deepspeed={scheduler: {type: WarmupLR}}"
    assert "learner.deepspeed.scheduler: contradicts schedule constant with warmup_steps 3; remove it" in refused(
        scheduler, "learner.warmup_steps=3"
    )
    steps = ("learner.schedule=linear", "learner.warmup_steps=9", "learner.total_steps=9")
    assert "learner.total_steps: 9 ends within warmup_steps 9; raise it" in refused(*steps)


def test_deepspeed_options_that_agree_are_filled_in() -> None:
    options = """learner.deepspeed={optimizer: {type: AdamW, params: {lr: 1e-4, torch_adam: true}},
        scheduler: {type: WarmupLR, params: {warmup_max_lr: auto}}, train_batch_size: 32, gradient_clipping: auto,
        gradient_accumulation_steps: auto, bf16: {enabled: false},
        zero_optimization: {stage: 1, sub_group_size: 1e3}}"""
    assert deepspeed_options(load_config(DEMO, [options]).learner) == {
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "weight_decay": 0.0, "torch_adam": True}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 1e-4}},
        "bf16": {"enabled": False},
        "zero_optimization": {"sub_group_size": 1000},
    }


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
        ("extends: nowhere.yaml\n", "nowhere.yaml: no such config file; see configs/ for presets (demo, "),
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
seen = set()
for package in ("configs", "rollout", "evaluation", "judges"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(module.name)
        seen.add(module.name)
assert {"evaluation.suites.read", "evaluation.report.page"} <= seen or sys.exit(f"seen: {seen}")
"""
    check_left_out(code, "torch", "ray", "vllm", "transformers", "deepspeed")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["reward.kind=likelihood", "reward.prompt=translated"],
            r"reward\.prompt: Input should be 'crosslingual' or 'native'",
        ),
        (
            ["reward.kind=likelihood", "reward.prompt=native", "reward.subtract=native"],
            r"reward\.subtract: native less",
        ),
        (["reward.subtract=unconditional"], r"reward\.subtract: is for kind likelihood, and this is implicit; remove"),
        (["reward.normalise=token"], r"reward\.normalise: is for kind likelihood, and this is implicit"),
        (["reward.policy=reference"], r"reward\.policy: Input should be 'current' or 'initial' \(got 'reference'"),
        (
            ["reward.kind=likelihood", "reward.policy=reference", "model.reference=null"],
            r"model\.reference: reward\.kind l",
        ),
        (["evaluation.temperatures=[0.3, 1.0]"], r"evaluation\.temperatures: one is named twice"),
    ],
)
def test_likelihood_fields_agree(overrides: list[str], message: str):
    with pytest.raises(UserError, match=message):
        load_config(Path("configs/icr.yaml"), overrides)


def test_likelihood_needs_no_aligned_pair_of_models():
    config = load_config(Path("configs/icr.yaml"), ["reward.kind=likelihood", "model.reference=null"])
    assert not config.reward.needs_reference


@pytest.mark.parametrize(
    "overrides",
    [
        ["reward.kind=custom", "reward.function=my.own:score"],
        ["reward.function=my.own:score", "reward.kind=custom"],
        ["reward={kind: custom, function: 'my.own:score'}"],
    ],
)
def test_a_layer_that_changes_the_kind_drops_what_was_the_other_kinds(overrides: list[str]) -> None:
    demo = load_config(Path("configs/demo.yaml"))
    assert isinstance(demo.reward, LikelihoodReward)
    config = load_config(Path("configs/demo.yaml"), overrides)
    assert isinstance(config.reward, CustomReward)
    assert config.reward.function == "my.own:score"
    same = "reward=" not in overrides[0]
    assert config.reward.cpus_per_actor == (demo.reward.cpus_per_actor if same else 1.0), "what every kind has, stays"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["reward.kind=verifier", "reward.prompt=native"],
            "reward.prompt: is for kind implicit or likelihood, and this",
        ),
        (
            ["reward.length_control.enabled=false"],
            "reward.length_control: is for kind implicit, and this is likelihood",
        ),
        (["reward=3"], "reward: is no section but 3; give its fields, `kind` among them"),
        (["reward=null"], "reward: is null (or empty); give it a value"),
        (["reward.kind=[a]"], "reward.kind: Input should be 'implicit'"),
        (["reward.kind=null"], "reward.kind: Input should be 'implicit'"),
        (["reward.kind=custom", "reward.functon=a:b"], "reward.function: missing; add it"),
        (["reward.kind=custom", "reward.functon=a:b"], "reward.functon: unknown field; did you mean reward.function?"),
        (["reward.kind=custom", "reward.function=a b"], "reward.function: String should match pattern"),
    ],
)
def test_fields_of_another_kind_are_refused_by_the_layer_that_gives_them(overrides: list[str], expected: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(Path("configs/demo.yaml"), overrides)
    assert expected in str(error.value)


def test_only_a_files_own_fields_are_held_against_its_kind(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: lidr\nreward: {policy: initial}\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"reward\.policy: is for kind implicit or likelihood, and this is cross_langua"
    ):
        load_config(mine)
    # The world sets the policy for all methods that have one; over another kind that says nothing.
    mine.write_text("extends: [methods/judge.yaml, worlds/default.yaml]\n", encoding="utf-8")
    judge = ["judge.base_url=http://localhost:1/v1", "judge.model=m", "model.reference=null"]
    assert load_config(mine, judge).reward.kind == "judge"
    below = tmp_path / "below.yaml"
    below.write_text("extends: mine.yaml\nreward: {kind: likelihood, subtract: native}\n", encoding="utf-8")
    found = load_config(below, judge).reward
    assert isinstance(found, LikelihoodReward)
    assert (found.subtract, found.cpus_per_actor) == ("native", 0.5)


def test_a_config_of_an_earlier_version_that_has_every_kinds_fields(tmp_path: Path) -> None:
    now = load_config(Path("configs/demo.yaml"), ["learner.lora={rank: 4}"])
    values = now.model_dump(mode="json")
    values["reward"] |= {
        "model": None,
        "model_dtype": "float32",
        "reference": "initial",
        "length_control": {"unit": "tokens"},
    }
    values["learner"]["lora"]["dropout"] = 0.0  # a field that could have no other value
    (tmp_path / "config.yaml").write_text(dump_yaml_value(values), encoding="utf-8")
    assert load_run_config(tmp_path) == now
    old = comparable_config(now) | {"reward.model": None, "reward.length_control.unit": "tokens"}
    old["learner.lora.dropout"] = 0.0
    assert locked_changes(old, comparable_config(now), [1]) == [], "what meant nothing to the kind may be gone"
    other = load_config(Path("configs/demo.yaml"), ["reward.kind=verifier", "learner.lora={rank: 4}"])
    assert next(iter(locked_changes(old, comparable_config(other), [1]))).startswith("reward.kind: ")
