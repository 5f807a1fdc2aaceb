"""What a version must pass, and what the folder remembers of those that were served."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.serving import GateConfig
from evaluation.heldout import HeldoutResult, LanguageResult, PromptResult
from learners.manifest import WeightsManifest
from serving.folder import Served, ServingFolder
from serving.gate import GateDecision, decide

PASSED = GateDecision(True, "test")


# --- gate ---------------------------------------------------------------------------------------------------------


def result(version: int, sampled: list[float], right: float = 1.0) -> HeldoutResult:
    prompts = tuple(PromptResult(f"p{i}", None, value) for i, value in enumerate(sampled))
    row = LanguageResult(None, sum(sampled) / len(sampled), right, 0.0, 10.0, 10.0, 0.0, prompts)
    english = LanguageResult(
        None, 0.0, 1.0, 0.0, 10.0, 10.0, 0.0, tuple(PromptResult(p.id, None, 0.0) for p in prompts)
    )
    return HeldoutResult(version, {"en": english, "es": row})


def test_heldout_gate_refuses_what_is_surely_worse() -> None:
    gate = GateConfig(kind="heldout")
    served = result(0, [0.5, 0.75] * 20)
    worse, same, better = ([0.25, 0.25] * 20, [0.75, 0.5] * 20, [1.0, 0.75] * 20)
    assert not decide(gate, "en", served, result(1, worse)).passed
    assert decide(gate, "en", served, result(1, same)).passed
    assert decide(gate, "en", served, result(1, better)).passed
    assert not decide(gate, "en", served, None).passed
    assert decide(gate, "en", None, result(1, worse)).passed
    assert decide(GateConfig(), "en", served, None).passed


def test_win_rate_and_right_language_gates() -> None:
    served = result(0, [0.5] * 10)
    new = result(1, [1.0] * 3 + [0.5] * 4 + [0.0] * 3, right=0.9)
    assert decide(GateConfig(kind="win_rate"), "en", served, new).figures["win_rate"] == pytest.approx(0.5)
    assert not decide(GateConfig(kind="win_rate", min_win_rate=0.6), "en", served, new).passed
    verdict = decide(GateConfig(min_right_language=0.95), "en", served, new)
    assert not verdict.passed
    assert "es: 0.900" in verdict.reason


# --- folder -------------------------------------------------------------------------------------------------------


def manifest(version: int) -> WeightsManifest:
    return WeightsManifest(version, f"{version:016x}", ("a",), ("float32",), ((2, 3),), (1, 2), (-1.5,))


@pytest.fixture
def served(tmp_path: Path) -> ServingFolder:
    model = tmp_path / "model"
    (model / "trainer").mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "state.json").write_text("{}")
    folder = ServingFolder(tmp_path / "run")
    for version in range(3):
        folder.promote(model, manifest(version), PASSED, "test")
    return folder


def test_a_disk_that_takes_nothing_changes_nothing(served: ServingFolder, tmp_path: Path) -> None:
    before = (served.path / "serving.json").read_text()
    record = served.path / "promotions.jsonl"
    kept = record.read_text()
    record.unlink()
    record.symlink_to("/dev/full")
    for work in (
        lambda: served.rollback("test"),
        lambda: served.promote(tmp_path / "model", manifest(1), PASSED, "test"),
        lambda: served.refuse(Served(5, "5"), PASSED, "test"),
    ):
        with pytest.raises(UserError, match=r"run: cannot be written \(No space left on device\).*served is as it was"):
            work()
    record.unlink()
    record.write_text(kept)
    # The state cannot be written: then the decision is not on record either.
    (served.path / "serving.json").unlink()
    (served.path / "serving.json").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        served.rollback("test")
    (served.path / "serving.json").rmdir()
    (served.path / "serving.json").write_text(before)
    assert served.rollback("test").current.version == 1
    (served.path / "serving.json").write_text(before)
    state = served.path / f".serving.json.{os.getpid()}.tmp"
    state.symlink_to("/dev/full")
    recorded = record.read_text()
    with pytest.raises(UserError, match="No space left"):
        served.rollback("test")
    assert record.read_text() == recorded
    assert (served.path / "serving.json").read_text() == before
    assert not state.is_symlink()
    with pytest.raises(UserError, match=r"file/run: cannot be written \(Not a directory\)"):
        (tmp_path / "file").write_text("")
        ServingFolder(tmp_path / "file" / "run").refuse(Served(5, "5"), PASSED, "test")


def test_versions_outlive_their_checkpoints_and_roll_back(served: ServingFolder, tmp_path: Path) -> None:
    (tmp_path / "model" / "model.safetensors").unlink()
    assert (served.version_folder(1) / "model.safetensors").read_bytes() == b"weights"
    assert served.manifest(1) == manifest(1)
    assert not (served.version_folder(1) / "trainer").exists()
    assert served.rollback("test").current.version == 1
    assert served.rollback("test").current.version == 0
    with pytest.raises(UserError, match="no earlier version"):
        served.rollback("test")
    events = [json.loads(line)["event"] for line in (served.path / "promotions.jsonl").read_text().splitlines()]
    assert events == ["promoted"] * 3 + ["rolled back"] * 2


def test_a_version_that_cannot_be_loaded_is_given_up_once(served: ServingFolder) -> None:
    state = served.read()
    assert state is not None
    back = served.failed(state.current, "probe")
    assert back is not None
    assert back.current.version == 1
    assert served.failed(state.current, "probe from another replica") == back


def test_canary_is_promoted_or_taken_away(served: ServingFolder, tmp_path: Path) -> None:
    canary = tmp_path / "model", manifest(3)
    state = served.promote(*canary, PASSED, "test", canary=True)
    assert (state.current.version, state.canary) == (2, Served(3, f"{3:016x}"))
    assert served.rollback("test").canary is None
    served.promote(*canary, PASSED, "test", canary=True)
    state = served.promote(*canary, PASSED, "test")
    assert (state.current, state.canary) == (Served(3, f"{3:016x}"), None)
    assert served.decided() == {0, 1, 2, 3}


def test_old_versions_are_removed_beyond_what_a_rollback_reaches(served: ServingFolder, tmp_path: Path) -> None:
    for version in range(3, 7):
        served.promote(tmp_path / "model", manifest(version), PASSED, "test")
    assert sorted(path.name for path in (served.path / "serving").iterdir()) == [f"v{v:04d}" for v in range(3, 7)]
