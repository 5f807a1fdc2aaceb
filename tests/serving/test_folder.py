"""What a run serves, on disk: files that a kill cut short or somebody edited."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs.errors import UserError
from learners.manifest import WeightsManifest
from serving.folder import Served, ServingFolder
from serving.gate import GateDecision

PASSED = GateDecision(True, "test")
STATE = '{"generation": %s, "current": %s, "canary": null, "previous": %s}'


@pytest.fixture
def served(tmp_path: Path) -> ServingFolder:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    folder = ServingFolder(tmp_path / "run")
    for version in range(3):
        manifest = WeightsManifest(version, f"{version:016x}", ("a",), ("float32",), ((2, 3),), (1, 2), (-1.5,))
        folder.promote(model, manifest, PASSED, "test")
    return folder


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "null",
        "\0",
        "[" * 50_000,
        STATE % ('"1"', '{"version": 0, "checksum": "c"}', "[]"),
        STATE % ("1", '{"version": "0", "checksum": "c"}', "[]"),
        STATE % ("1", '{"version": -1, "checksum": "c"}', "[]"),
        STATE % ("1", '{"version": true, "checksum": "c"}', "[]"),
        STATE % ("1", '{"version": 0, "checksum": 5}', "[]"),
        STATE % ("1", '{"version": 0, "checksum": "c"}', "[5]"),
    ],
)
def test_a_damaged_state_is_named(served: ServingFolder, text: str) -> None:
    (served.path / "serving.json").write_text(text)
    for work in (served.read, lambda: served.rollback("test")):
        with pytest.raises(UserError, match=r"serving.json: cannot be read \("):
            work()


def test_a_record_that_a_kill_cut_short_is_continued_on_a_line_of_its_own(served: ServingFolder) -> None:
    record = served.path / "promotions.jsonl"
    whole = record.read_bytes()
    for cut in (1, 20, len(whole.splitlines()[-1])):
        record.write_bytes(whole[:-cut])
        assert served.decided() in ({0, 1}, {0, 1, 2})
        served.refuse(Served(7, "7"), PASSED, "test")
        assert served.decided() >= {0, 1, 7}
        assert json.loads(record.read_text().splitlines()[-1])["version"] == 7
    record.write_bytes(b"\xff\n[]\n{}\n{'version': 1}\n" + whole)
    assert served.decided() == {0, 1, 2}
    record.unlink()
    record.mkdir()
    with pytest.raises(UserError, match=r"promotions.jsonl: cannot be read"):
        served.decided()
