"""Model folders and checkpoints: which files hold the weights, and that damage is named before anything loads them."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import shutil
import weakref
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from actors.train import driver as driver_module
from actors.train.driver import Driver
from actors.train.resume import check_checkpoints, rewind
from actors.train.run_folder import open_run_folder
from actors.train.team import Team
from actors.train.track import RunParts
from configs.atomic import complete_or_absent
from configs.errors import UserError
from configs.load import load_config
from learners.checkpoint import point_policy
from learners.checkpoint_layout import CheckpointState, write_state
from learners.group import RoundResult
from learners.mailbox import Mailbox
from learners.weights import checksum
from rollout.identity import comparable_config, config_digest
from rollout.model_folder import (
    Damaged,
    check_engine_files,
    check_model_folder,
    file_digests,
    read_header,
    verify_checkpoint,
    weight_files,
    weights_checksum,
)
from rollout.run_layout import checkpoint_folder
from rollout.state import Action
from rollout.store import Store
from tests.kits.rollout import make_config

DEMO = Path("configs/demo.yaml")
WEIGHTS = {
    "b": torch.arange(21, dtype=torch.float32).reshape(3, 7).bfloat16(),
    "a": torch.ones(5),
    "n": torch.arange(4),
}


def make_checkpoint(run: Path, number: int, digests: bool = True) -> Path:
    folder = checkpoint_folder(run, number)
    with complete_or_absent(folder) as temporary:
        (temporary / "config.json").write_text("{}")
        save_file(WEIGHTS, temporary / "model.safetensors")
        (temporary / "trainer").mkdir()
        (temporary / "trainer" / "rank0.pt").write_bytes(bytes(range(256)) * 8)
        state = CheckpointState(number, number, 1, checksum(WEIGHTS), 1, 0)
        write_state(temporary, replace(state, files=file_digests(temporary)) if digests else state)
    point_policy(run, folder)
    return folder


def test_the_checksum_of_files_is_that_of_tensors(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    assert weights_checksum(read_header(tmp_path / "model.safetensors")) == checksum(WEIGHTS)


def test_only_files_of_the_index_hold_weights(tmp_path: Path) -> None:
    for name in ("model-1.safetensors", "model-2.safetensors", "consolidated.safetensors", "adapter_model.safetensors"):
        save_file(WEIGHTS, tmp_path / name)
    with pytest.raises(UserError, match=r"has no \*.safetensors weights"):
        weight_files(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"b": "model-2.safetensors", "a": "model-1.safetensors"}}))
    assert [path.name for path in weight_files(tmp_path)] == ["model-1.safetensors", "model-2.safetensors"]
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(UserError, match=r"index.json: names model-2.safetensors, not there"):
        weight_files(tmp_path)
    for text in ("", "[]", '{"weight_map": 3}', "\0", "{}", "[" * 5000):
        index.write_text(text)
        with pytest.raises(UserError, match=r"index.json"):
            weight_files(tmp_path)


def test_a_folder_of_which_the_engine_would_load_more_is_refused(tmp_path: Path) -> None:
    """vLLM takes every *.safetensors of a folder without an index, and the index's where there is one."""
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    (tmp_path / "adapter").mkdir()
    save_file(WEIGHTS, tmp_path / "adapter" / "adapter_model.safetensors")  # as a checkpoint has it: not at its top
    check_engine_files(tmp_path)
    other = tmp_path / "consolidated.safetensors"
    save_file(WEIGHTS, other)
    assert [path.name for path in weight_files(tmp_path)] == ["model.safetensors"]
    with pytest.raises(UserError, match=r"beside model.safetensors lies consolidated.safetensors, .*move it out"):
        check_engine_files(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(UserError, match=r"has both model.safetensors and model.safetensors.index.json"):
        check_engine_files(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
    check_engine_files(tmp_path)


@pytest.mark.parametrize("digests", [True, False])
def test_any_flipped_byte_or_cut_of_the_weights_is_named(tmp_path: Path, digests: bool) -> None:
    folder = make_checkpoint(tmp_path, 1, digests)
    verify_checkpoint(folder)
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    chance = random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    begin = 0 if digests else header  # names and shapes alone would be another header for the same tensors
    for offset in chance.sample(range(begin, len(whole)), 60):
        file.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1 << chance.randrange(8)]) + whole[offset + 1 :])
        with pytest.raises(Damaged, match=r"round-0001/model.safetensors: "):
            verify_checkpoint(folder, weights_only=True)
    for length in (0, 5, 8, header, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(Damaged, match=r"round-0001/model.safetensors: "):
            check_model_folder(folder)


def test_a_journal_that_lost_its_last_rows_is_named_and_the_run_continues_where_it_ends(tmp_path: Path) -> None:
    """SQLite says nothing: what follows the first wrong page of the write-ahead log is not there."""
    config = make_config()
    run = tmp_path / "run"
    log = run / "store.sqlite-wal"
    with Store.open(run / "store.sqlite", config_digest(config), comparable_config(config)) as store:
        store.set_round_state(1, "done", {})
        before = log.stat().st_size
        for state in ("generated", "scored", "paired", "referenced"):
            store.set_round_state(2, state, {})
        killed = log.read_bytes()  # as a kill leaves it: closing would move it into the main file
        whole = (run / "store.sqlite").read_bytes()
    for number in (1, 2):
        make_checkpoint(run, number)
    after = before + (len(killed) - before) // 2
    spoiled = [killed[:after], killed[:after] + bytes([killed[after] ^ 1]) + killed[after + 1 :], killed[:before]]
    for wrong in spoiled:
        (run / "store.sqlite").write_bytes(whole)
        log.write_bytes(wrong)
        lost = r"run/store.sqlite: its last rows are lost .*-wal(.|\n)*round-0002(.|\n)*--resume --from-round 1:"
        with pytest.raises(UserError, match=lost):
            check_checkpoints(config, run)
    (run / "store.sqlite").write_bytes(whole)
    log.write_bytes(killed)
    check_checkpoints(config, run)  # killed between the checkpoint and its row in the journal
    log.write_bytes(killed[:before])
    rewind(config, run, 1)
    check_checkpoints(config, run)


def test_the_optimisers_state_matters_to_the_learner_alone(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 1)
    (folder / "trainer" / "rank0.pt").write_bytes(b"x")
    verify_checkpoint(folder, weights_only=True)
    with pytest.raises(Damaged, match=r"trainer/rank0.pt: does not hold what was saved"):
        verify_checkpoint(folder)


def test_files_of_a_checkpoint_have_the_mode_of_new_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with complete_or_absent(tmp_path / "c") as temporary:
            (temporary / "private").touch(0o600)
            (temporary / "open").touch()
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "c").iterdir()} == {0o640}


def test_a_damaged_checkpoint_offers_the_round_before_and_the_run_continues_there(tmp_path: Path) -> None:
    config = make_config()
    run = tmp_path / "run"
    with Store.open(run / "store.sqlite", config_digest(config), comparable_config(config)) as store:
        for round in (1, 2, 3):
            store.set_round_state(round, "done", {"round": round})
    folders = [make_checkpoint(run, number) for number in (1, 2, 3)]
    check_checkpoints(config, run)
    for number in (2, 3):
        (folders[number - 1] / "model.safetensors").write_bytes(b"\0" * 400)
    with pytest.raises(UserError, match=r"round-000[23]/model.safetensors(.|\n)*--resume --from-round 1 "):
        check_checkpoints(config, run)
    with pytest.raises(UserError, match=r"no checkpoint of round 7 \(there are: 1, 2, 3, and 0\)"):
        rewind(config, run, 7)
    with pytest.raises(UserError, match="round-0002/model.safetensors"):
        rewind(config, run, 2)
    aside = [run / "checkpoints" / f"set-aside-round-000{number}" for number in (3, 2)]
    assert rewind(config, run, 1) == [f"set aside, not deleted: {path}" for path in aside]
    assert rewind(config, run, 1) == []
    check_checkpoints(config, run)
    assert (run / "policy").resolve() == folders[0]
    with Store.read(run / "store.sqlite") as store:
        assert [state for state, _ in store.round_states().values()] == ["done", "referenced", "referenced"]
        assert store.round_states()[3][1] == {"round": 3}
    shutil.rmtree(folders[0])
    rewind(config, run, 0)
    assert not (run / "policy").is_symlink()


def test_what_must_change_after_out_of_memory_may(tmp_path: Path) -> None:
    config = load_config(DEMO, [f"run.dir={tmp_path}"])
    open_run_folder(config, resume=False).close()
    path = config.run.dir / config.run.name
    Store.open(path / "store.sqlite", config_digest(config), comparable_config(config)).close()
    layers = load_config(DEMO, [f"run.dir={tmp_path}", "learner.activation_checkpointing=true"])
    with pytest.raises(UserError, match=r"--allow-changed learner.activation_checkpointing "):
        open_run_folder(layers, resume=True)
    smaller = load_config(DEMO, [f"run.dir={tmp_path}", "learner.tokens_per_micro_batch=512", "rollout.max_num_seqs=8"])
    with pytest.raises(UserError, match=r"--allow-changed learner.tokens_per_micro_batch,rollout.max_num_seqs"):
        open_run_folder(smaller, resume=True)
    with pytest.raises(UserError, match="rollout.max_num_seqs: 256 -> 8"):
        open_run_folder(smaller, resume=True, allowed=frozenset({"learner.tokens_per_micro_batch"}))
    with pytest.raises(UserError, match="learner.beta cannot be allowed"):
        open_run_folder(smaller, resume=True, allowed=frozenset({"learner.beta"}))
    both = frozenset({"learner.tokens_per_micro_batch", "rollout.max_num_seqs"})
    (path / ".isogloss-demo-learner-mailbox-1").mkdir()
    open_run_folder(smaller, resume=True, allowed=both).close()
    assert not list(path.glob(".isogloss-*mailbox*"))
    with Store.open(path / "store.sqlite", config_digest(smaller), comparable_config(smaller)) as store:
        (change,) = json.loads(store.meta()["changes"])
    assert change["fields"] == ["learner.tokens_per_micro_batch: 4096 -> 512", "rollout.max_num_seqs: 256 -> 8"]


def test_a_slow_rank_still_finds_what_was_posted() -> None:
    async def story() -> None:
        mailbox = Mailbox()
        for number in (1, 2, 3, 4):
            await mailbox.post("reference", number, f"pairs {number}")
            found = await mailbox.next(1.0)
            assert not isinstance(found, str)
            assert found.number == number
            # Rank 0 was told of this command; a slow rank may still be about to fetch the one before.
            if number > 1:
                assert await mailbox.payload(number - 1) == f"pairs {number - 1}"
            await mailbox.finish(number, SimpleNamespace())  # type: ignore[arg-type]
        with pytest.raises(KeyError):
            await mailbox.payload(2)

    asyncio.run(story())


class _Weights:
    """Stands for a reference into the object store."""


def test_places_are_given_back_where_the_journal_or_the_learner_does_not_close() -> None:
    ended: list[str] = []

    def fails(name: str) -> None:
        ended.append(name)
        raise RuntimeError(name)

    team = object.__new__(Team)
    team._learner_thread = SimpleNamespace(shutdown=lambda **how: None)  # type: ignore[assignment]
    team._learner = SimpleNamespace(close=lambda: fails("learner"))  # type: ignore[assignment]
    team.store = SimpleNamespace(close=lambda: fails("store"))  # type: ignore[assignment]
    team._groups = SimpleNamespace(remove=lambda: ended.append("places"))  # type: ignore[assignment]
    with pytest.raises(RuntimeError):
        team.close()
    assert ended == ["learner", "store", "places"]


def test_no_rounds_weights_are_kept_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "learner_figures", lambda metrics: {})
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    journal = SimpleNamespace(mark_consumed=lambda *_: None, set_round_state=lambda *_: None)
    team = SimpleNamespace(store=journal)
    exported = SimpleNamespace(learned=lambda *arguments: None)
    parts = RunParts(make_config(), team, None, exported)  # type: ignore[arg-type]
    driver = Driver(parts, None, None, lambda: False)  # type: ignore[arg-type]
    for round in range(1, 6):
        weights: Any = _Weights()
        alive.add(weights)
        future: Future[Any] = Future()
        metrics: Any = SimpleNamespace(seconds=0.0)
        future.set_result(RoundResult(round, metrics, Path(), "manifest", "merged", [weights]))  # type: ignore[arg-type]
        driver._learned(Action("train", round, "trained"), future, 0.0)
        del weights, future
        gc.collect()
        assert len(alive) == 0
