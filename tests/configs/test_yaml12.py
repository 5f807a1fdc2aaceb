"""The one reader of YAML: version 1.2, strict, bounded; whatever is wrong is one message with the line."""

from __future__ import annotations

import contextlib
import math
import os
import random
from pathlib import Path

import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import UserError
from configs.files import read_text
from configs.load import dump_yaml, load_config, load_run_config
from configs.yaml12 import MAX_DEPTH, dump_yaml_value, load_yaml


def refused(text: str) -> str:
    with pytest.raises(UserError) as error:
        load_yaml(text, "some.yaml")
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("Off", "Off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("Null", None),
        ("017", 17),
        ("089", 89),
        ("0o17", 15),
        ("0x1F", 31),
        ("+3", 3),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2024-01-31", "2024-01-31"),
        ("2024-13-45", "2024-13-45"),
        ("1e-4", 1e-4),
        ("5E3", 5000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("1.2.3", "1.2.3"),
        ("'17'", "17"),
        ("! 17", "17"),
        ("!!str 17", "17"),
        ("!!float 3", 3.0),
        ('"\\ud83d\\ude00"', "😀"),
        ("=", "="),
        ("[a, [], {}]", ["a", [], {}]),
        ("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}", {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}}),
        ("%YAML 1.1\n---\n[no, 017]", ["no", 17]),
        ("\ufeffa: 1\r\n", {"a": 1}),
        ("# nothing", None),
    ],
)
def test_core_schema_of_version_1_2(text: str, value: object) -> None:
    found = load_yaml(text, "some.yaml")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3", ":3: not valid YAML: 'a' is given twice; remove one"),
        ("a: 1\n? [a, b]\n: 1", ":2: not valid YAML: a list or mapping as a key"),
        ("? {a: b}\n: 1", ":1: not valid YAML: a list or mapping as a key"),
        ("a: &x [1]\n? *x\n: 1", ":2: not valid YAML: a list or mapping as a key"),
        ("a: 1\nb: \0", ":2: not valid YAML: character #x0000 is not allowed"),
        ('a: "\\udc00"', ":1: not valid YAML: half a character"),
        ("a: 1\nb: !!bool maybe", ":2: not valid YAML: 'maybe' is no bool; correct it"),
        ("a: !!timestamp 2024-13-45", ":1: not valid YAML: unknown tag"),
        ("a: !!python/object:os.system x", ":1: not valid YAML: unknown tag"),
        ("a: !mine [1]", ":1: not valid YAML: unknown tag '!mine'; remove it"),
        ("a: 1\n---\nb: 1", ":2: not valid YAML: a second document begins here"),
        ("a: *b", ":1: not valid YAML: '*b' stands for nothing above"),
        ("a: &a {b: [*a]}", ":1: not valid YAML: '*a' lies within what it stands for"),
        ("<<: 1", ":1: not valid YAML: `<<` takes in mappings"),
        ("[" * 5000, f":1: not valid YAML: nested deeper than {MAX_DEPTH} levels"),
        ("- " * 5000, f":1: not valid YAML: nested deeper than {MAX_DEPTH} levels"),
        ("a: " + "9" * 5000, ":1: not valid YAML: a number of 5000 digits"),
        ("a: b: c", ":1: not valid YAML: mapping values are not allowed here"),
        ("a: 'x", ":1: not valid YAML: found unexpected end of stream"),
        ("a:\n\t- b", ":2: not valid YAML: found character '\\t'"),
        ("%YAML 3.0\n---\na: 1", ":1: not valid YAML: found incompatible YAML document"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, expected: str) -> None:
    assert refused(text).startswith("some.yaml" + expected)


def test_aliases_count_as_what_they_stand_for() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    # Expanded it would be 400 million values.
    assert ":5: not valid YAML: more than 20000 values, aliases counted" in refused("\n".join(lines))


def test_an_alias_is_a_value_of_its_own() -> None:
    found = load_yaml("a: &x {n: 1}\nb: *x", "some.yaml")
    found["a"]["n"] = 2
    assert found["b"] == {"n": 1}


def test_no_refusal_repeats_a_long_value() -> None:
    long = "x" * 300_000
    for text in (f"{long}: 1\n{long}: 2", f"a: !{long} 1", f"a: *{long}", f"a: !!bool {long}", f"&{long} [*{long}]"):
        assert len(refused(text)) < 500


def test_mutated_texts_are_values_or_user_errors() -> None:
    seeds = [Path(name).read_text(encoding="utf-8") for name in ("configs/icr.yaml", "worlds/languages/de.yaml")]
    seeds.append("a: &a [1, 'b', \"c\\n\"]\nb: {<<: {c: d}, ? e : *a}\nf: |\n  text\n  more\ng: !!str 1\n")
    odd = [
        *"[]{}:,-?!&*|>'\"%@`#\t\n\0\x85\u2028\ufeff",
        "!!",
        "<<",
        "---",
        "...",
        "1e999",
        "\\ud800",
        "é",
        "- - ",
        ": ",
    ]
    chance = random.Random(1)
    for _ in range(600):
        text = list(chance.choice(seeds)[:1200])
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(text))
            text[at : at + chance.choice([0, 1, 1, 9])] = [chance.choice(odd)] * chance.choice([1, 1, 2, 40])
        with contextlib.suppress(UserError):
            load_yaml("".join(text), "some.yaml")


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["no", "017", "1e5", "1:30", "~", "", " a", "a ", "a: b", "- a", "<<", "=", "2024-01-01", "0o7", "089", "!x", "&x"]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(_VALUES)
def test_what_is_written_is_read_back(value: object) -> None:
    assert load_yaml(dump_yaml_value(value), "some.yaml") == value


def test_numbers_of_the_config_are_read_back_to_the_bit() -> None:
    chance = random.Random(0)
    values = [chance.uniform(-1, 1) * 10.0 ** chance.randint(-300, 300) for _ in range(200)]
    assert load_yaml(dump_yaml_value(values), "some.yaml") == values


def test_a_config_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    overrides = [
        "run.name='1e5'",
        "judge.revision='089'",
        "languages.names={en: 'no', de: '~', es: \"two\\nlines\\u2028\", fr: ' é ', ru: 'a: b #c'}",
        "learner.learning_rate=1.1e-300",
        "learner.deepspeed={optimizer: {type: AdamW, params: {betas: [0.9, 1e-9], torch_adam: true}}}",
    ]
    config = load_config(Path("configs/demo.yaml"), overrides)
    (tmp_path / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    assert load_run_config(tmp_path) == config
    assert load_run_config(tmp_path).model_dump(mode="json") == config.model_dump(mode="json")


@pytest.mark.parametrize(
    "override",
    ["run.name='089'", "run.name='1e5'", "judge.revision='12e4567'", "judge.model='0o17'", "judge.model='no'"],
)
def test_the_config_of_an_older_run_is_read_as_it_was_meant(tmp_path: Path, override: str) -> None:
    config = load_config(Path("configs/demo.yaml"), [override, "learner.deepspeed={data_types: {a: 1.0e-5}}"])
    older = pyyaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    (tmp_path / "config.yaml").write_text(older, encoding="utf-8")
    assert load_run_config(tmp_path) == config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is no config of a run"),
        ("- a", "is no config of a run"),
        ("\x7fELF", "not valid YAML"),
        ("model: {policy: a, colour: blue}", "model.colour: unknown field; remove it"),
        ("model: {policy: a}\ngone: 1", "gone: unknown field"),
        ("model: 3", "model: Input should be a valid dictionary"),
    ],
)
def test_a_damaged_config_of_a_run_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_run_config(tmp_path)
    assert str(tmp_path / "config.yaml") in str(error.value)
    assert expected in str(error.value)


def test_what_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    pipe, long, binary = tmp_path / "pipe", tmp_path / "long.yaml", tmp_path / "binary.yaml"
    os.mkfifo(pipe)
    long.write_bytes(b"#" * (2 << 20))
    binary.write_bytes(b"a: 1\nb: \xff\n")
    (tmp_path / "loop").symlink_to("loop")
    for path, expected in (
        (pipe, "is a pipe, socket or device, not a file"),
        (Path("/dev/zero"), "is a pipe, socket or device"),
        (tmp_path, "is a folder; name a file in it"),
        (tmp_path / "x" / "y.yaml", "no such thing; look again"),
        (binary / "y.yaml", "no such thing; look again"),
        (tmp_path / "loop", "cannot be read"),
        (tmp_path / ("n" * 300), "has a name of 300 bytes, where a file's has at most 255; shorten it"),
        (Path("/".join(["n" * 200] * 30)), "bytes long, where a path has at most 4095; shorten it"),
        (Path("a\0b"), "holds a NUL character"),
        (Path("a\ud800b"), "lone surrogate"),
        (long, "is longer than 1024 KiB"),
        (binary, "binary.yaml:2: not UTF-8 at byte 8"),
    ):
        with pytest.raises(UserError) as error:
            read_text(path, "thing", "look again")
        assert expected in str(error.value)
        assert len(str(error.value)) < 500
