"""The GPU check on a machine without one: refused, or rehearsed on the CPU with its parts as they are."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_check import numerics, speed, whole
from benchmarks.gpu_check.__main__ import main
from benchmarks.gpu_check.loads import TOY
from benchmarks.gpu_check.machine import Device, Rehearsal
from benchmarks.gpu_check.page import page
from benchmarks.gpu_check.parts import PARTS, Earlier, Part
from benchmarks.gpu_check.result import Found
from benchmarks.gpu_check.runner import run
from benchmarks.gpu_check.whole import PartFailed
from benchmarks.gpu_check.work import Ours, Plain, one_rank, random_model, random_pairs, shifted


def test_a_command_that_fails_says_its_last_line_first() -> None:
    with pytest.raises(PartFailed) as raised:
        whole._command("cli", "train", "configs/demo.yaml", "model.dtype=float8")
    first, *rest = str(raised.value).splitlines()
    assert first.startswith("cli train ended with 2: ")
    assert "dtype" in first
    assert first.partition(": ")[2] in rest


def test_a_model_that_was_not_fetched_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    race = next(part for part in PARTS if part.name == "race")
    assert "run make smollm2" in race.obstacle(80.0)


@pytest.mark.e2e
@pytest.mark.nightly
def test_the_demos_part_can_be_rehearsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rehearse", "--out", str(tmp_path), "--only", "demo"]) == 0, capsys.readouterr().out
    (part,) = json.loads((tmp_path / "gpu-check.json").read_text(encoding="utf-8"))["parts"]
    assert part["found"]["figures"]["share of a repeat's samples that are the same"] == 1.0


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Toy sizes only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so it is not refused")
def test_without_a_gpu_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path)]) == 2
    assert "gpu-check needs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_it_can_be_rehearsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = ["memory", "lora-8b"]
    only = [word for name in parts for word in ("--only", name)]
    assert main(["--rehearse", "--out", str(tmp_path), *only]) == 0, capsys.readouterr().out
    told = json.loads((tmp_path / "gpu-check.json").read_text(encoding="utf-8"))
    assert [(one["part"], one["status"]) for one in told["parts"]] == [(name, "passed") for name in parts]
    memory = told["parts"][0]["found"]["checks"]
    assert [check["value"] for check in memory] == [pytest.approx(1.0, abs=0.1)] * 2, "weights, gradients, optimizer"
    text = (tmp_path / "gpu-check.md").read_text(encoding="utf-8")
    assert "REHEARSAL" in text
    assert "2 of 2 checks hold" in text


def test_numbers_and_speed_are_measured_on_the_device_that_is_given(one_thread: None) -> None:
    found = numerics.attention_and_losses(Rehearsal(), 1)
    assert len(found.checks) == 5 * len(numerics.families())
    assert all(check.holds for check in found.checks)
    assert {check.value for check in found.checks if "unpacked" in check.name} != {0.0}
    found = speed.steps(Rehearsal(), TOY.small, 1.0)
    assert [row[0] for row in found.rows] == [
        "packed, 64 positions",
        "packed, 256 positions",
        "plain, 1 pairs",
        "plain, 4 pairs",
    ]
    assert all(check.holds for check in found.checks)
    assert isinstance(found.figures["times plain, both at their best"], float)


def test_order_in_ranks() -> None:
    assert numerics.spearman([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.5]) == pytest.approx(1)
    assert numerics.spearman([1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]) == pytest.approx(-1)
    assert numerics.spearman([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == pytest.approx(0.5)


def test_both_ways_compute_the_same_step() -> None:
    with one_rank():
        model = random_model(TOY.small.shape.config(), torch.float32, torch.device("cpu"))
        examples = random_pairs(5, TOY.small.shape.vocabulary, 12, 9)
        ours, plain = Ours(model, 64), Plain(model, 2)
        assert_close = {name: pytest.approx(values, abs=1e-4) for name, values in plain.score(examples).items()}
        assert ours.score(examples) == assert_close
        references = shifted(ours.score(examples))
        gradients = []
        for way in (ours, plain):
            loss = float(way.gradients(examples, references))
            gradients.append(torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None]))
            model.zero_grad()
            assert loss != pytest.approx(math.log(2), abs=1e-3)
            gradients.append(torch.tensor(loss))
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(gradients[1], gradients[3], rtol=1e-5, atol=1e-6)


def _good(device: Device, earlier: Earlier) -> Found:
    found = Found(figures={"seen": len(earlier), "on": str(device.torch)})
    found.check("a", 1.0, 2.0)
    return found


def _bad(device: Device, _: Earlier) -> Found:
    found = Found()
    found.check("loss", math.nan, 2.0)
    return found


def _raises(device: Device, _: Earlier) -> Found:
    raise ValueError("no such kernel")


def _dies(device: Device, _: Earlier) -> Found:
    signal.raise_signal(signal.SIGKILL)
    return Found()


def _hangs(device: Device, _: Earlier) -> Found:
    signal.pause()
    return Found()


FAKES = (
    Part("good", "Good", 60, _good),
    Part("bad", "Bad", 60, _bad),
    Part("raises", "Raises", 60, _raises),
    Part("dies", "Dies", 60, _dies),
    Part("hangs", "Hangs", 3, _hangs),
    Part("lacks", "Lacks", 60, _good, ("no_such_module",)),
    Part("small", "Small", 60, _good, least_gib=40),
    Part("last", "Last", 60, _good),
)


def test_a_part_that_fails_costs_the_others_nothing(tmp_path: Path) -> None:
    device = "benchmarks.gpu_check.machine:rehearsal"
    done = {one.part: one for one in run(FAKES, device, 24.0, 120, tmp_path)}
    assert {name: one.status for name, one in done.items()} == {
        "good": "passed",
        "bad": "failed",
        "raises": "failed",
        "dies": "failed",
        "hangs": "failed",
        "lacks": "not run",
        "small": "not run",
        "last": "passed",
    }
    assert done["raises"].reason == "ValueError: no such kernel"
    assert "code -9" in done["dies"].reason
    assert done["hangs"].reason == "did not end within 3 s"
    assert "no_such_module" in done["lacks"].reason
    assert done["small"].reason == "needs a device with 40 GiB, this one has 24"
    assert done["last"].found.figures == {"seen": 2, "on": "cpu"}, "later parts see the figures of earlier ones"
    text = page({"device": "none"}, [*done.values()])
    assert "BROKEN: loss is nan, at most 2" in text
    assert "no such kernel" in text
    late = run(FAKES[:1], device, 24.0, 1.0, tmp_path)
    assert (late[0].status, late[0].reason) == ("not run", "no time left for it (--minutes)")


def test_memory_is_counted_with_gradients() -> None:
    device = Rehearsal()
    before = device.allocated()
    weight = torch.nn.Parameter(torch.ones(2**20))
    assert device.allocated() - before == pytest.approx(2**22 / 2**30, rel=0.01)
    weight.sum().backward()
    assert device.allocated() - before == pytest.approx(2 * 2**22 / 2**30, rel=0.01)


def test_parts_have_names_of_their_own() -> None:
    assert len({part.name for part in PARTS}) == len(PARTS)
