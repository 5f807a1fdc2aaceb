"""What is served, and whether it is what it is called: lengths that fit, runs whose policy is gone, kept versions."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from actors.train.run_folder import open_run_folder
from configs.errors import UserError
from configs.serving import ServeConfig
from evaluation.suites.sources import resolve
from learners.checkpoint_layout import CheckpointState, read_manifest, write_manifest, write_state
from learners.manifest import WeightsManifest
from rollout.model_folder import file_digests
from serving.command import plan, run_promote
from serving.describe import describe, described
from serving.engine import EngineSettings
from serving.fit import check_length, token_bytes
from serving.folder import ServingFolder
from serving.follow import Follower, engine_settings
from serving.gate import GateDecision
from tests.kits.run import small_config

POLICY = Path("worlds/default/policy").resolve()
PASSED = GateDecision(True, "test")


# --- length -------------------------------------------------------------------------------------------------------

LLAMA = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}


@pytest.mark.parametrize(
    ("config", "dtype", "expected"),
    [
        (LLAMA, "bfloat16", 131_072),  # Llama 3.1 8B: 128 KiB a token
        (LLAMA, "float32", 262_144),
        ({**LLAMA, "num_key_value_heads": None}, "bfloat16", 4 * 131_072),
        ({**LLAMA, "head_dim": 64}, "bfloat16", 65_536),
        ({"text_config": LLAMA}, "bfloat16", 131_072),
        ({**LLAMA, "layer_types": ["sliding_attention", "full_attention"] * 16}, "bfloat16", 65_536),
        ({**LLAMA, "sliding_window": 4096}, "bfloat16", 0),
        ({**LLAMA, "sliding_window": 4096, "use_sliding_window": False}, "bfloat16", 131_072),
        ({**LLAMA, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, "bfloat16", 32 * 576 * 2),
        ({**LLAMA, "hybrid_override_pattern": "M*"}, "bfloat16", 0),
        ({"d_model": 64}, "bfloat16", 0),
    ],
)
def test_cache_of_a_token(config: dict[str, Any], dtype: str, expected: int) -> None:
    assert token_bytes(config, dtype) == expected


def test_a_length_that_the_cache_cannot_hold_is_refused_with_what_fits(tmp_path: Path) -> None:
    long = {**LLAMA, "max_position_embeddings": 131_072}
    (tmp_path / "config.json").write_text(json.dumps(long))
    settings = EngineSettings("m", "bfloat16", 131_072, 0)
    says = "needs 16.00 GiB of key-value cache, and serve.kv_cache_gb is 0.25; set serve.max_length to at most 2048"
    with pytest.raises(UserError, match=says):
        check_length(tmp_path, ServeConfig(), settings)
    check_length(tmp_path, ServeConfig(kv_cache_gb=16), settings)
    check_length(tmp_path, ServeConfig(), EngineSettings("m", "bfloat16", 2048, 0))
    with pytest.raises(UserError, match="serve.max_length: 131073 is above the 131072 positions"):
        check_length(tmp_path, ServeConfig(kv_cache_gb=99), EngineSettings("m", "bfloat16", 131_073, 0))


def test_the_length_of_a_model_folder_can_be_lowered(tmp_path: Path) -> None:
    for overrides, length in (([], 512), (["max_length=64"], 64)):
        _, _, settings, _ = plan(POLICY, overrides, tmp_path / "state")
        assert settings.max_length == length
    with pytest.raises(UserError, match=r"serve\.max_length: 1024 is above the 512 positions"):
        plan(POLICY, ["max_length=1024"], tmp_path / "state")


def test_the_arithmetic_of_a_model_folder_can_be_named(tmp_path: Path) -> None:
    for overrides, dtype in (
        ([], "float32"),
        (["model.dtype=bfloat16"], "bfloat16"),
        (["model.dtype=auto"], "float32"),
    ):
        _, _, settings, _ = plan(POLICY, overrides, tmp_path / "state")
        assert settings.dtype == dtype
    with pytest.raises(UserError, match=r"model\.dtype: 'half' is unknown; use auto, float32, bfloat16"):
        plan(POLICY, ["model.dtype=half"], tmp_path / "state")
    with pytest.raises(UserError, match=r"expected serve\.field=value"):
        plan(POLICY, ["model.add_bos=true"], tmp_path / "state")


def test_a_model_is_described_again_where_what_was_kept_is_damaged_or_of_another_time(tmp_path: Path) -> None:
    *_, folder = plan(POLICY, [], tmp_path / "state")
    kept = folder.manifest(0)
    path = folder.version_folder(0) / "manifest.json"
    path.write_text("{")
    *_, folder = plan(POLICY, [], tmp_path / "state")
    assert folder.manifest(0) == kept
    older = {name: value for name, value in json.loads(path.read_text()).items() if name != "probe_dtype"}
    path.write_text(json.dumps(older))
    assert folder.manifest(0) == kept, "the arithmetic of an older one is that of its weights"
    shutil.rmtree(folder.path / "serving")
    *_, folder = plan(POLICY, [], tmp_path / "state")
    assert folder.manifest(0) == kept


# --- a run whose policy is gone -----------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two rounds, as far as its folder tells."""
    folder = tmp_path / "mine"
    for number in (1, 2):
        shutil.copytree(POLICY, folder / "checkpoints" / f"round-{number:04d}")
        write_state(folder / "checkpoints" / f"round-{number:04d}", CheckpointState(number, 1, 1, "0" * 16, 1, 0))
    (folder / "policy").symlink_to("checkpoints/round-0002")
    values: dict[str, dict[str, Any]] = {"run": {"name": "mine"}}
    values["model"] = {"policy": str(POLICY), "dtype": "float32", "add_bos": False}
    more = {"languages": {"codes": ["en", "es"]}, "prompts": {"train": "{lang}", "heldout": "{lang}"}}
    values["model"]["reference"] = str(POLICY)
    (folder / "config.yaml").write_text(json.dumps({**values, **more}))
    (folder / "metrics.jsonl").write_text('{"round": 1}\n{"round": 2}\n{"rou')
    return folder


def test_a_run_without_its_checkpoints_is_not_its_start(run: Path) -> None:
    assert resolve(str(run), "--model").folder == run / "policy"
    shutil.rmtree(run / "checkpoints" / "round-0002")
    with pytest.raises(UserError, match=r"trained 2 rounds, but its newest policy .* is gone; name one .*round-0001"):
        resolve(str(run), "--model")
    shutil.rmtree(run / "checkpoints")
    for gone in ("a link to nothing", "no link", "no metrics either"):
        if gone == "no link":
            (run / "policy").unlink()  # as copying tools do with links to nothing
        if gone == "no metrics either":
            (run / "metrics.jsonl").rename(run / "summary.json")
            (run / "summary.json").write_text('{"weight_version": 2}')
        for refused in (lambda: resolve(str(run), "--model"), lambda: plan(run, [], None)):
            with pytest.raises(UserError, match=r"trained 2 rounds, but its newest policy .* is gone; no checkpoint"):
                refused()
    assert ServingFolder(run).read() is None
    (run / "summary.json").unlink()  # a run that has trained nothing yet: its policy is its start
    assert resolve(str(run), "--model").folder == POLICY


# --- kept versions ------------------------------------------------------------------------------------------------


def manifest(version: int) -> WeightsManifest:
    return WeightsManifest(version, f"{version:016x}", ("a",), ("float32",), ((2, 3),), (1, 2), (-1.5,))


def kept(folder: ServingFolder) -> set[str]:
    return {path.name for path in (folder.path / "serving").iterdir()}


def test_what_the_state_no_longer_names_is_removed(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    folder = ServingFolder(tmp_path / "run")
    put = lambda version, canary=False: folder.promote(  # noqa: E731
        tmp_path / "model", manifest(version), PASSED, "test", canary
    )
    put(0)
    put(1)
    put(2, canary=True)
    assert kept(folder) == {"v0000", "v0001", "v0002"}
    folder.rollback("test")
    assert kept(folder) == {"v0000", "v0001"}, "a canary that was rolled back"
    put(3, canary=True)
    put(4, canary=True)
    assert kept(folder) == {"v0000", "v0001", "v0004"}, "a canary that another one replaced"
    state = folder.read()
    assert state is not None
    assert state.canary is not None
    folder.failed(state.canary, "probe")
    assert kept(folder) == {"v0000", "v0001"}, "one that no replica could load"
    (folder.path / "serving" / ".v0009.partial").mkdir()  # of a process that was killed
    folder.rollback("test")
    assert kept(folder) == {"v0000"}, "the version that was rolled back from"
    with pytest.raises(UserError, match="nowhere: cannot be read"):
        folder.promote(tmp_path / "nowhere", manifest(5), PASSED, "test")
    assert kept(folder) == {"v0000"}


def test_several_processes_may_promote_at_once(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    failures: list[BaseException] = []

    def work(version: int) -> None:
        folder = ServingFolder(tmp_path / "run")  # a lock is per open file, also within a process
        try:
            for _ in range(20):
                folder.promote(tmp_path / "model", manifest(version), PASSED, "test")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number % 3,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    state = ServingFolder(tmp_path / "run").read()
    assert state is not None
    assert state.generation == 120
    for row in (state.current, *state.previous):
        assert (ServingFolder(tmp_path / "run").version_folder(row.version) / "model.safetensors").is_file()


def test_a_damaged_checkpoint_is_not_promoted(run: Path) -> None:
    checkpoint = run / "checkpoints" / "round-0002"
    full = describe(POLICY, 2)
    write_state(checkpoint, CheckpointState(2, 1, 1, full.checksum, 1, 0, files=file_digests(checkpoint)))
    write_manifest(checkpoint, full)
    weights = checkpoint / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.unlink()  # a link
    weights.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"model\.safetensors: does not hold what was saved"):
        run_promote(run, 2, False, 1.0)
    assert ServingFolder(run).read() is None


def test_other_forms_of_a_models_weights_are_not_a_part_of_it(tmp_path: Path) -> None:
    shutil.copytree(POLICY, tmp_path / "model")
    whole = describe(tmp_path / "model", 1)
    (tmp_path / "model" / "consolidated.safetensors").write_bytes(b"of another program")
    assert describe(tmp_path / "model", 1) == whole


def test_a_checkpoint_s_own_manifest_is_read_instead_of_its_weights(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = run / "checkpoints" / "round-0002"
    full = describe(POLICY, 2)
    write_state(checkpoint, CheckpointState(2, 1, 1, full.checksum, 1, 0))
    assert read_manifest(checkpoint, 2) is None
    assert described(checkpoint, 2) == full, "an older checkpoint has none"
    write_manifest(checkpoint, full)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    assert described(checkpoint, 2) == full
    # A status that no endpoint writes is as good as none.
    for text in ("{}", "[]", '{"time": "now"}', json.dumps({"time": time.time(), "url": "", "wanted": {}}), "{"):
        (run / "serving.status.json").write_text(text)
        run_promote(run, 2, False, 1.0)
        assert "v2; no endpoint is running" in capsys.readouterr().out
    assert ServingFolder(run).manifest(2) == full
    assert read_manifest(checkpoint, 3) is None
    write_state(checkpoint, CheckpointState(2, 1, 1, "0" * 16, 1, 0))
    assert read_manifest(checkpoint, 2) is None
    (checkpoint / "manifest.json").write_text("{}")
    assert read_manifest(checkpoint, 2) is None


def test_a_run_offers_its_versions_and_their_folders_come_and_go(tmp_path: Path) -> None:
    config = small_config(tmp_path, "run.name=served", "serve.canary_share=0.5", "serve.min_replicas=2",
                          "serve.max_replicas=2", "serve.max_length=64")  # fmt: skip
    assert engine_settings(config).max_length == 64
    with contextlib.closing(open_run_folder(config, resume=False)) as folder:
        follower = Follower(config, folder)
        serving = follower.prepare()
        assert kept(serving) == {"v0000"}
        for number in (1, 2):
            checkpoint = folder.checkpoint(number, config.model.policy)
            shutil.copytree(config.model.policy, checkpoint)
            full = describe(checkpoint, number)
            write_state(checkpoint, CheckpointState(number, 1, 1, full.checksum, 1, 0))
            write_manifest(checkpoint, full)
        assert follower.offer(1, describe(config.model.policy, 1), {}) is not None
        assert kept(serving) == {"v0000", "v0001"}
        offered = Follower(config, folder).offer(2, None, {})  # after a restart: the checkpoint's own manifest
        assert offered is not None
        assert offered.outcome == "canary"
        assert kept(serving) == {"v0000", "v0002"}
