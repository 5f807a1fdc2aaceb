"""Every field of the schema has bounds, those too that come tomorrow; refusals stay short."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from actors.plan.placement import PlacementPlan
from configs.base import MAX_NUMBER, LanguageCode, Section
from configs.errors import UserError
from configs.explain import fields
from configs.kinds import kinds_of
from configs.load import dump_yaml, load_config, load_run_config, validated
from configs.nodes import DescribedCluster, NodeGroup, StoredModel
from configs.schema import Config
from rollout.identity import config_digest
from rollout.length_control import grid

ODD: list[Any] = [
    math.inf,
    -math.inf,
    math.nan,
    10**26,
    -(10**26),
    1e300,
    -1,
    0,
    1,
    0.5,
    1e-300,
    2**31,
    True,
    None,
    "",
    "\0",
    "\ud800",
    "x" * 3_000_000,
    "n" * 300,
    "{lang}",
    "../" * 3000,
    [],
    {},
    [math.inf],
    {"en": math.nan},
    {"a": {"b": [math.inf]}},
    {"a": 10**26},
    {"a": "\0"},
    {1: 2},
    {"zero_optimization": {1: 2}},
    {"k" * 3_000_000: 1},
    ["x" * 3_000_000],
    ["en"] * 5000,
    {f"k{n}": 1 for n in range(5000)},
]
DEMO = load_config(Path("configs/demo.yaml")).model_dump(mode="json")


# What each kind of reward needs to be valid.
NEEDED: dict[str, list[str]] = {
    "reward_model": ["reward.model=folder"],
    "custom": ["reward.function=my.own:score"],
    "judge": ["judge.base_url=http://localhost:1/v1", "judge.model=m"],
    "terms": ["reward.terms={a: {kind: language}}"],
    "cross_language": ["candidates.source=self_translation"],
}


def base_of(name: str) -> dict[str, Any]:
    """The demo's config, with a kind of reward that has the field."""
    section, _, field = name.partition(".")
    kinds = kinds_of(Config.model_fields[section].annotation)
    if not kinds or field.partition(".")[0] in DEMO[section]:
        return DEMO
    kind = next(kind for kind, model in kinds.items() if field.partition(".")[0] in model.model_fields)
    chosen = [f"{section}.kind={kind}", *NEEDED.get(kind, [])]
    return load_config(Path("configs/demo.yaml"), chosen).model_dump(mode="json")


def with_value(values: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    *sections, field = name.split(".")
    below = changed
    for section in sections:
        if below.get(section) is None:
            below[section] = {}
        below = below[section]
    below[field] = value
    return changed


def is_short(message: str) -> bool:
    return len(message) < 12 * 700 and all(len(line) < 1000 for line in message.splitlines())


def placement(config: Config) -> object:
    """What every dry run shows; made here, as a config may be refused for it."""
    return PlacementPlan.from_config(config).rows()


def refusal(call: Callable[[], object]) -> str | None:
    """The message that a call ends in, or None; whatever is no UserError is the test's failure."""
    try:
        call()
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", [name for name, _ in fields(Config)])
def test_each_field_takes_a_sane_value_or_refuses_it(name: str, tmp_path: Path) -> None:
    last: Config | None = None
    base = base_of(name)
    for value in ODD:
        values = with_value(base, name, value)
        message = refusal(partial(validated, values, Config, "c.yaml"))
        if message is not None:
            assert is_short(message), f"{name}: {str(value)[:40]}"
            continue
        last = validated(values, Config, "c.yaml")
        assert not wild(last.model_dump(mode="json")), f"{name}: {str(value)[:40]}"
        assert config_digest(last)
        assert grid(last.reward.lengths).size <= 100_001
        assert is_short(refusal(partial(placement, last)) or "")
    if last is not None:
        (tmp_path / "config.yaml").write_text(dump_yaml(last), encoding="utf-8")
        assert load_run_config(tmp_path) == last


def wild(value: Any) -> bool:
    """Whether a number in it could overflow what it is passed to."""
    if isinstance(value, dict):
        return any(wild(inner) for inner in value.values())
    if isinstance(value, list):
        return any(wild(inner) for inner in value)
    return isinstance(value, int | float) and not abs(value) <= 2**63


@pytest.mark.parametrize("model", [NodeGroup, StoredModel])
def test_described_clusters_too(model: type[Section]) -> None:
    base = {"cpus": 4} if model is NodeGroup else {"path": "a", "config": "b"}
    for name in model.model_fields:
        for value in ODD:
            values = {**base, name: value}
            message = refusal(partial(validated, values, model, "nodes.yaml"))
            if message is None:
                assert not wild(validated(values, model, "nodes.yaml").model_dump(mode="json"))
            else:
                assert is_short(message)
    groups = [{"name": f"g{n}", "count": 9000, "cpus": 1} for n in range(2)]
    with pytest.raises(UserError, match="nodes: 18000 in all, more than 10000"):
        validated({"nodes": groups}, DescribedCluster, "nodes.yaml")


class Tomorrow(Section):
    """A section as someone may add it, with no bounds of its own."""

    number: float = 0
    whole: int | None = 0
    wait_s: float = 0
    text: str = ""
    path: Path = Path("x")
    free: dict[str, object] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"number": math.inf}, "number: Input should be a finite number"),
        ({"number": math.nan}, "number: Input should be a finite number"),
        ({"number": -1e10}, "number: -10000000000.0 is out of range; at most 2147483648"),
        ({"whole": 10**26}, f"whole: 1{'0' * 26} is out of range"),
        ({"wait_s": 1e7}, "wait_s: 10000000.0 is out of range; at most 2000000"),
        ({"text": "x" * 5000}, "text: 5000 characters long; at most 4096"),
        ({"text": "a\0"}, "text: holds a NUL character; remove it"),
        ({"text": "a\udc00"}, "text: "),
        ({"path": "a\0"}, "path: the path holds a NUL character"),
        ({"path": "n" * 300}, "path: the path has a name of 300 bytes, where a file's has at most 255"),
        ({"path": "n/" * 2100}, "path: the path is 4199 bytes long"),
        ({"free": {"a": [{"b": math.nan}]}}, "free: nan is no finite number; set one"),
        ({"free": {"a": 2**64}}, "free: 18446744073709551616 is out of range"),
        ({"free": {"a": {2: 1}}}, "free: has a key that is no text; quote it"),
        ({"free": {"a\0": 1}}, "free: holds a NUL character"),
    ],
)
def test_a_field_without_bounds_of_its_own_has_them(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as error:
        validated(values, Tomorrow, "c.yaml")
    assert expected in str(error.value)
    assert Tomorrow(number=MAX_NUMBER, free={"seed": 2**40, "deep": {"a": [None, True, "x" * 9999]}})


class Languages(Section):
    """Codes."""

    codes: list[LanguageCode]
    names: dict[LanguageCode, str] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("code", "cure"),
    [
        ("English", "write one such as en, pt-BR or zh-Hans"),
        ("", "write one such as en, pt-BR or zh-Hans"),
        ("x" * 5000, "write one such as en, pt-BR or zh-Hans"),
    ],
)
def test_a_code_in_another_form_is_told_the_right_one(code: str, cure: str) -> None:
    for values in ({"codes": [code]}, {"codes": ["en"], "names": {code: "x"}}):
        with pytest.raises(UserError) as error:
            validated(values, Languages, "c.yaml")
        assert str(error.value).endswith(f"is no language code (BCP-47: small letters, then parts after -); {cure}")
        assert is_short(str(error.value))


def test_null_is_called_null() -> None:
    with pytest.raises(UserError, match=r"run\.name: is null \(or empty\); give it a value, or remove the line"):
        load_config(Path("configs/demo.yaml"), ["run.name="])


def test_many_faults_are_a_short_message() -> None:
    with pytest.raises(UserError, match="and 4988 more") as error:
        validated({**DEMO, **{f"section{n}": 1 for n in range(5000)}}, Config, "c.yaml")
    assert len(str(error.value)) < 3000


@pytest.mark.parametrize(
    "url",
    ["http://[::1/v1", "http://host:99999999/v1", "http://host:x/v1", "ftp://host", "host", "http://", "h" * 4000],
)
def test_a_judge_address_that_is_none(url: str) -> None:
    with pytest.raises(UserError, match=r"judge\.base_url: '.*' is no address; expected e\.g\.") as error:
        load_config(Path("configs/demo.yaml"), [f"judge.base_url={url!r}"])
    assert is_short(str(error.value))


def test_an_alpha_grid_that_fits_no_memory() -> None:
    with pytest.raises(UserError, match=r"reward\.length_control\.alpha_step: 1e-10 makes 9\.99e\+09 alphas"):
        load_config(Path("configs/demo.yaml"), ["reward.kind=implicit", "reward.length_control.alpha_step=1e-10"])
