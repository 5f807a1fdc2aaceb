"""Checkpoints: complete or absent, also when the disk fills up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from configs.atomic import complete_or_absent
from configs.errors import UserError
from learners.checkpoint import point_policy, require_disk, retire_checkpoints
from learners.checkpoint_layout import CheckpointState, all_checkpoints, latest_checkpoint, read_state, write_state
from learners.model_files import write_model_folder
from rollout.run_layout import checkpoint_folder
from tests.kits.learner import make_folder, make_model


def fake_checkpoint(run_dir: Path, number: int) -> Path:
    folder = checkpoint_folder(run_dir, number)
    with complete_or_absent(folder) as temporary:
        write_state(temporary, CheckpointState(number, 3 * number, 7, "0" * 16, 1, 0))
    return folder


def test_latest_is_by_number_and_ignores_what_is_incomplete(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    for number in (9, 10, 2):
        fake_checkpoint(tmp_path, number)
    (tmp_path / "checkpoints" / "round-0011").mkdir()  # no state.json
    (tmp_path / "checkpoints" / ".round-0012.partial").mkdir()
    assert latest_checkpoint(tmp_path) == checkpoint_folder(tmp_path, 10)
    assert read_state(checkpoint_folder(tmp_path, 9)).step == 27


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), complete_or_absent(tmp_path / "c" / "round-0001") as temporary:
        (temporary / "half").write_text("x")
        raise ZeroDivisionError
    assert list((tmp_path / "c").iterdir()) == []


def test_retention_spares_the_newest_and_the_served(tmp_path: Path) -> None:
    folders = [fake_checkpoint(tmp_path, number) for number in range(1, 6)]
    point_policy(tmp_path, folders[0])
    assert retire_checkpoints(tmp_path, 2) == folders[1:3]
    assert all_checkpoints(tmp_path) == [folders[0], *folders[3:]]
    point_policy(tmp_path, folders[4])
    assert retire_checkpoints(tmp_path, 1) == [folders[0], folders[3]]
    assert all_checkpoints(tmp_path) == [folders[4]]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["round-0005"]


def test_policy_is_a_relative_link_that_survives_a_move(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for number in (1, 2):
        point_policy(run, fake_checkpoint(run, number))
    assert os.readlink(run / "policy") == "checkpoints/round-0002"
    run.rename(tmp_path / "moved")
    assert read_state(tmp_path / "moved" / "policy").round == 2


def test_too_little_disk_is_refused_before_writing(tmp_path: Path) -> None:
    require_disk(tmp_path / "not" / "yet", 1000, 0.0)
    with pytest.raises(UserError, match=r"round-0001: .* GiB of disk are free.*min_free_disk_gb.*untouched"):
        require_disk(tmp_path / "round-0001", 1000, 1e9)


def test_spare_disk_is_counted_in_gibibytes_as_at_the_start(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free / 2**30
    require_disk(tmp_path / "round-0001", 0, free * 0.96)
    with pytest.raises(UserError, match="min_free_disk_gb"):  # of 10^9 bytes there are 7 % more
        require_disk(tmp_path / "round-0001", 0, free * 1.03)


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="is there already"):
        write_model_folder(tmp_path / "out", {"a": torch.ones(1)}, tmp_path, "float32")


def test_an_unreadable_state_names_its_file(tmp_path: Path) -> None:
    folder = fake_checkpoint(tmp_path, 1)
    (folder / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"round-0001/state.json: cannot be read"):
        read_state(folder)


FILL = """
import json, resource, signal, sys
from pathlib import Path
from tests.kits.learner import make_pairs
from configs.errors import UserError
from configs.schema import LearnerConfig, ModelConfig
from learners.distributed import single_process
from learners.session import LearnerSession
from learners.snapshot import save_round
job = json.loads(sys.argv[1])
start, run = Path(job["start"]), Path(job["run"])
with single_process():
    session = LearnerSession(LearnerConfig(), ModelConfig(policy=start), 0, start)
    save_round(session, run, session.train_round(1, make_pairs(4)), 2, 0)
    # No file may grow beyond this: the operating system's own error, in the middle of a write.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
    metrics = session.train_round(2, make_pairs(4))
    try:
        save_round(session, run, metrics, 2, 0)
    except UserError as error:
        sys.stdout.write(str(error))
"""


@pytest.mark.parametrize(("limit", "stopped_in"), [(30_000, "trainer"), (0, "trainer"), (1 << 30, None)])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, limit: int, stopped_in: str | None) -> None:
    start = make_folder(tmp_path / "start")
    run = tmp_path / "run"
    job = {"start": str(start), "run": str(run), "limit": limit}
    done = subprocess.run(
        [sys.executable, "-c", FILL, json.dumps(job)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    if stopped_in is None:
        assert latest_checkpoint(run) == checkpoint_folder(run, 2)
        return
    assert "round-0002: the disk is full" in done.stdout
    assert "last complete checkpoint is untouched" in done.stdout
    assert os.listdir(run / "checkpoints") == ["round-0001"]
    assert (run / "policy").resolve() == checkpoint_folder(run, 1)


def test_the_weights_file_itself_may_be_what_does_not_fit(tmp_path: Path) -> None:
    start = make_folder(tmp_path / "start")
    script = """
import resource, signal, sys
from pathlib import Path
from safetensors.torch import load_file
from configs.errors import UserError
from learners.model_files import write_model_folder
start, out = Path(sys.argv[1]), Path(sys.argv[2])
weights = load_file(start / "model.safetensors")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    write_model_folder(out, weights, start, "float32")
except UserError as error:
    sys.stdout.write(str(error))
"""
    out = tmp_path / "sub" / "out"
    done = subprocess.run(
        [sys.executable, "-c", script, str(start), str(out)], capture_output=True, text=True, timeout=120
    )
    assert (start / "model.safetensors").stat().st_size > 40_000
    assert "out: the disk is full" in done.stdout, done.stderr
    assert os.listdir(out.parent) == []


def test_the_folder_holds_all_of_a_model(tmp_path: Path) -> None:
    start = make_folder(tmp_path / "start")
    model = make_model("llama", seed=3)
    weights = dict(model.named_parameters())
    write_model_folder(tmp_path / "out", {k: v.detach() for k, v in weights.items()}, start, "float32")
    for name in ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).is_file(), name
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    torch.testing.assert_close(loaded.state_dict(), model.state_dict())
