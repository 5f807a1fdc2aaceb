"""Overrides of ``isogloss serve``: read as everywhere else, refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import UserError
from configs.load import dump_yaml, load_config
from serving.command import load_run
from serving.follow import engine_settings

MANY = ".".join(["a"] * 100)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(dump_yaml(load_config(Path("configs/demo.yaml"))), encoding="utf-8")
    return tmp_path


def test_fields_of_both_sections_and_the_arithmetic_are_set(run: Path) -> None:
    config = load_run(run, ["port=09000", "serve.gate.kind=heldout", "cluster.num_cpus=null", "model.dtype=bfloat16"])
    assert (config.serve.port, config.serve.gate.kind, config.cluster.num_cpus) == (9000, "heldout", None)
    assert engine_settings(config).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "port=[",
            "override 'serve.port=[': '[' is not a YAML value (expected the node content, but found '<stream end>')",
        ),
        ("port=\0", "is not a YAML value (character #x0000"),
        ("port", "expected serve.field=value, cluster.field=value or model.dtype=value"),
        ("learner.beta=1", "expected serve.field=value, cluster.field=value or model.dtype=value"),
        ("model.add_bos=true", "expected serve.field=value, cluster.field=value or model.dtype=value"),
        ("model.dtype=half", "model.dtype: Input should be 'auto', 'float32' or 'bfloat16' (got 'half')"),
        ("serve=1", "serve.serve: unknown field"),
        ("serve.=1", "expected section.field=value"),
        ("serve.port.a=1", "'port' is not a section"),
        ("porta=1", "serve.porta: unknown field; did you mean serve.port?"),
        ("port=null", "serve.port: is null (or empty); give it a value"),
        (f"serve.gate.{MANY}=1", "nested deeper than"),
        ("port=" + "9" * 100_000, "a number of 100000 digits"),
        ("port=" + "[" * 100_000, "nested deeper than"),
    ],
)
def test_a_bad_override_is_one_message(run: Path, override: str, expected: str) -> None:
    with pytest.raises(UserError) as error:
        load_run(run, [override])
    assert expected in str(error.value)
    assert len(str(error.value)) < 1500
