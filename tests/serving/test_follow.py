"""What a run offers to its endpoint, and what the commands do to a run folder. No engine runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.plan.placement import PlacementPlan, check_capacity
from actors.train.run_folder import RunFolder, open_run_folder
from cli import app
from configs.errors import UserError
from configs.load import load_config
from configs.schema import Config
from serving.command import promote_version
from serving.describe import describe
from serving.folder import ServingFolder
from serving.follow import Follower
from tests.serving.test_versions import manifest, result

POLICY = Path("worlds/default/policy")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    overrides = ["serve.enabled=true", "serve.gate.kind=heldout", "evaluation.every=1", "run.name=small"]
    return load_config(Path("configs/icr.yaml"), [f"run.dir={tmp_path}", *overrides])


@pytest.fixture
def run(config: Config, tmp_path: Path) -> RunFolder:
    folder = open_run_folder(config, resume=False)
    for number in (1, 2):
        shutil.copytree(POLICY, folder.path / "checkpoints" / f"round-{number:04d}")
    return folder


def test_each_version_is_judged_once_and_only_when_it_can_be(config: Config, run: RunFolder) -> None:
    follower = Follower(config, run)
    state = follower.prepare().read()
    assert state is not None
    assert state.current.version == 0
    evaluations = {0: result(0, [0.5, 0.75] * 20).to_json()}
    assert follower.offer(1, manifest(1), evaluations) is None  # not evaluated yet
    evaluations[1] = result(1, [0.75, 1.0] * 20).to_json()
    promoted = follower.offer(1, manifest(1), evaluations)
    assert promoted is not None
    assert (promoted.outcome, "v1 promoted" in promoted.line) == ("promoted", True)
    assert follower.offer(1, manifest(1), evaluations) is None
    evaluations[2] = result(2, [0.0, 0.25] * 20).to_json()
    refused = follower.offer(2, manifest(2), evaluations)
    assert refused is not None
    assert (refused.outcome, "v2 refused" in refused.line) == ("refused", True)
    # After a restart nothing is judged again, and what was served is served.
    again = Follower(config, run)
    assert (again.prepare().read() or state).current.version == 1
    assert again.offer(2, manifest(2), evaluations) is None
    rows = [json.loads(line) for line in (run.path / "promotions.jsonl").read_text().splitlines()]
    assert [(row["event"], row["version"], row["asked_by"]) for row in rows] == [
        ("promoted", 0, "run"), ("promoted", 1, "run"), ("refused", 2, "run")
    ]  # fmt: skip
    assert rows[2]["figures"]["difference_high"] < 0


def test_replicas_have_places_of_their_own_for_as_many_as_there_may_be(config: Config) -> None:
    off = config.model_copy(update={"serve": config.serve.model_copy(update={"enabled": False})})
    wide = config.model_copy(update={"serve": config.serve.model_copy(update={"max_replicas": 3})})
    without, with_three = (PlacementPlan.from_config(each) for each in (off, wide))
    assert with_three.totals()["CPU"] == without.totals()["CPU"] + 3
    with pytest.raises(UserError, match=r"serve 3 x 1.*serve.max_replicas"):
        check_capacity(with_three, {"CPU": without.totals()["CPU"] + 2})


def test_promote_and_rollback_without_an_endpoint(config: Config, run: RunFolder) -> None:
    for version in (1, 2):
        done = CliRunner().invoke(app, ["promote", str(run.path), str(version)], catch_exceptions=False)
        assert done.exit_code == 0
        assert f"v{version}; no endpoint is running" in done.output
    done = CliRunner().invoke(app, ["rollback", str(run.path)], catch_exceptions=False)
    assert "v1; no endpoint" in done.output
    state = ServingFolder(run.path).read()
    assert state is not None
    assert state.current.checksum == describe(POLICY, 1).checksum
    with pytest.raises(UserError, match="the checkpoint of v7 is not there"):
        promote_version(run.path, 7, "test")
    with pytest.raises(UserError, match="no config.yaml"):
        promote_version(run.path / "checkpoints", 1, "test")


def test_a_damaged_checkpoint_is_not_promoted(run: RunFolder) -> None:
    folder = run.path / "checkpoints" / "round-0001"
    state = {"round": 1, "step": 1, "pairs": 1, "checksum": "0" * 16, "world_size": 1, "zero_stage": 0}
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="another checksum"):
        promote_version(run.path, 1, "test")
