"""What benchmarks compare with is arithmetic: the pipeline's bound, a round's bound, the sizes by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.peak import Shape, bounds, shape_of
from benchmarks.workload import RACE, Size, prompts_of, size_of

SIZE = Size("tiny", Path("nowhere"), 10, 8, 4)


def test_the_pipelines_bound() -> None:
    """In a process of its own: the module sets up Ray's environment."""
    from benchmarks.overlap import Sleeps, rounds_bound, sampling_bound

    sleeps = Sleeps(generate=1.5, score=0.4, reference=2.0, train=6.0, publish=0.2)
    assert sampling_bound(sleeps, 10, 2, 1) == pytest.approx(5 * 1.5 + 0.4)
    assert sampling_bound(Sleeps(0.1, 1.0), 10, 2, 1) == pytest.approx(0.1 + 10.0), "scoring is the slower one"
    assert rounds_bound(sleeps, 7.9, 3, 0) == pytest.approx(3 * (7.9 + 8.0 + 0.2))
    assert rounds_bound(sleeps, 7.9, 3, 1) == pytest.approx(7.9 + 2 * 8.0 + 8.0 + 3 * 0.2)


def test_a_rounds_bound_counts_products() -> None:
    shape = Shape(hidden=4, intermediate=8, layers=1000, head=100, width=2)
    found = bounds(SIZE, shape, prompts=50, tokens=30, flops=1e-6, bytes_=1.0)
    forward = 2 * (80 * 1000 + 30 * 100)
    assert found["reference"] == pytest.approx(forward / 1e3)
    assert found["sampling"] == pytest.approx(forward / 1e3)
    assert found["training"] == pytest.approx((3 * 2 * 80 * 1000 + 8 * 30 * 100) / 1e3)
    reading = bounds(SIZE, shape, 50, 30, flops=1e9, bytes_=1e-6)["sampling"]
    assert reading == pytest.approx(8 * 2 * 1100 * 2 / 1e3), "eight steps of two engines read all weights"


def test_a_models_shape_is_its_number_of_weights(tmp_path: Path) -> None:
    shape = shape_of(size_of("1m_32"))
    config = json.loads((RACE / "policy" / "config.json").read_text())
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    assert shape.head == hidden * config["vocab_size"]
    assert shape.layers == layers * (4 * hidden**2 + 3 * hidden * config["intermediate_size"])


def test_sizes_by_name_and_for_a_trial(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(prompts_of(size_of("1m_32"))) == 1440
    assert len(prompts_of(size_of("1m_32:2"))) == 10
    assert size_of("135m_256:3", Path("m")) == Size("135m_256:3", Path("m"), 3, 256, 8)
    for spec in ("7b", "1m_32:0", "1m_32:x"):
        with pytest.raises(SystemExit):
            size_of(spec)
        assert capsys.readouterr().err.count("\n") == 1
