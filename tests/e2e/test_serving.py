"""The tutorial, run from its first block to its last: served while it trains, evaluated, served, rolled back.

Its run trains an adapter and samples the next round meanwhile, so that a run of the kind needs no other test.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from learners.checkpoint_layout import ADAPTER_FILE, read_state
from learners.weights import checksum
from tests.kits.cluster import free_ports
from tests.kits.run import ISOGLOSS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

(PORT,) = free_ports(1)
BASE = f"http://127.0.0.1:{PORT}"
KEY = "key-of-the-test-0123456789"
HEADERS = {"Authorization": f"Bearer {KEY}"}
PAGE = Path("docs/tutorial.md").read_text(encoding="utf-8")
WORLD = Path("worlds/default").resolve()
VERSIONS = ("v0", "v1", "v2", "v3")

# What makes the tutorial's run one of seconds, for a model of a million parameters.
TINY = (
    "model.dtype=float32", "model.max_length=256", "rollout.actors=1", "rollout.cpus_per_actor=0.5",
    "rollout.prompts_per_round=12", "rollout.chunk_prompts=6", "rollout.max_num_seqs=24",
    "rollout.samples_per_prompt=4", "rollout.max_new_tokens=32", "rollout.kv_cache_gb=0.0625",
    "reward.cpus_per_actor=0.5", "prompts.heldout_limit=4", "evaluation.samples_per_prompt=1",
    "evaluation.bootstrap_samples=200", "evaluation.every=1", "learner.cpus_per_worker=0.5",
    "learner.pairs_per_step=16", "learner.warmup_steps=0", "learner.keep_checkpoints=3", "cluster.num_cpus=3",
)  # fmt: skip


def blocks(kind: str) -> list[str]:
    """The page's fenced blocks of a kind, in their order."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.M | re.S)


def command(name: str) -> list[str]:
    """The page's one command line of a name, without ``--dry-run``."""
    lines = [
        line.split() for block in blocks("") for line in block.splitlines() if line.startswith(f"isogloss {name} ")
    ]
    (found,) = [line for line in lines if "--dry-run" not in line]
    return [str(ISOGLOSS), *found[1:]]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder that the tutorial begins with, made of the embedded world."""
    shutil.copytree(WORLD / "policy", tmp_path / "my-model")
    for name, part in (("prompts", "train"), ("heldout", "heldout")):
        (tmp_path / name).mkdir()
        for code in ("en", "sw"):
            shutil.copy(WORLD / "prompts" / part / f"{code}.jsonl", tmp_path / name)
    (config,) = blocks("yaml")
    (tmp_path / "tutorial.yaml").write_text(config, encoding="utf-8")
    return tmp_path


def done(arguments: list[str], cwd: Path) -> str:
    """What a command prints that ends well."""
    found = subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def health() -> dict[str, Any]:
    try:
        reply = httpx.get(f"{BASE}/health", timeout=5)
    except httpx.TransportError:
        return {}
    return reply.json() if reply.status_code == 200 else {}


def wait(reached: Callable[[], bool], process: subprocess.Popen[str], what: str) -> None:
    deadline = time.monotonic() + 240
    while not reached():
        assert process.poll() is None, f"ended before {what}: {process.stdout and process.stdout.read()}"
        assert time.monotonic() < deadline, f"never reached {what}"
        time.sleep(0.1)


def start(arguments: list[str], cwd: Path, **env: str) -> subprocess.Popen[str]:
    env = {**os.environ, **env}
    return subprocess.Popen(arguments, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def test_every_block_of_the_tutorial_is_run() -> None:
    """The names below, and the dry run, are all that the page calls."""
    called = [line.split()[1] for block in blocks("") for line in block.splitlines() if line.startswith("isogloss ")]
    assert called == ["train", "train", "status", "pairs", "eval", "serve", "rollback"]
    (rows,) = blocks("json")
    shown = [json.loads(line) for line in rows.splitlines()]
    for row, code in zip(shown, ("sw", "en"), strict=True):
        first = json.loads((WORLD / f"prompts/train/{code}.jsonl").read_text(encoding="utf-8").splitlines()[0])
        assert row == {"id": first["id"], "prompt": first["prompt"]}


@torch.no_grad()
def check_adapters(run: Path) -> None:
    """An adapter alone travelled while the next round was sampled; a checkpoint is its start with the adapter merged.

    That an engine answers with such an adapter as the merged model does: ``tests/actors/test_lora.py``.
    """
    assert json.loads((run / "summary.json").read_text())["weight_version"] == 3
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["sample_version"], row["staleness"]) for row in rows] == [(0, 0), (0, 1), (1, 1)]
    checkpoint = run / "checkpoints" / "round-0001"
    published = load_file(checkpoint / "adapter" / ADAPTER_FILE)
    assert read_state(checkpoint).adapter_checksum == checksum(published)
    assert any(float(tensor.abs().max()) > 0 for name, tensor in published.items() if "lora_B" in name)
    start = AutoModelForCausalLM.from_pretrained(WORLD / "policy")
    merged = PeftModel.from_pretrained(start, checkpoint / "adapter").merge_and_unload().state_dict()
    kept = AutoModelForCausalLM.from_pretrained(checkpoint).state_dict()
    assert kept.keys() == merged.keys()
    for name, tensor in kept.items():
        torch.testing.assert_close(tensor, merged[name], rtol=1e-5, atol=1e-6)


def test_the_tutorial(work: Path) -> None:
    shown = done([*command("train"), *TINY, "--dry-run"], work)
    assert "policy: my-model" in shown
    served = [
        f"serve.port={PORT}", "serve.cpus_per_replica=0.5", "serve.kv_cache_gb=0.125",
        "serve.gate.min_right_language=0.2",
        # What travels to the actors is an adapter, what is served the merged weights of the checkpoint.
        "learner.lora={rank: 4, publish: adapter}", "learner.learning_rate=1e-3", "reward.policy=current",
        "schedule.rounds=3", "schedule.max_staleness=1",
    ]  # fmt: skip
    (asked,) = re.findall(r"-d '(.*?)'", PAGE, re.S)
    body = json.loads(asked)
    training = start([*command("train"), *TINY, *served], work)
    try:
        # Which version answers first depends on what is quicker, endpoint or rounds; all four are promoted below.
        wait(lambda: health().get("version") in VERSIONS, training, "a version is served")
        reply = httpx.post(f"{BASE}/v1/chat/completions", json=body, timeout=60)
        assert reply.headers["x-isogloss-version"] in VERSIONS
        output, _ = training.communicate(timeout=240)
    finally:
        training.kill()
    assert training.returncode == 0, output
    assert "serving: v1 promoted, right language" in output
    run = work / "runs" / "tutorial"
    rows = [json.loads(line) for line in (run / "promotions.jsonl").read_text().splitlines()]
    assert [(row["event"], row["version"]) for row in rows] == [("promoted", version) for version in range(4)]
    check_adapters(run)

    assert "3 of 3 done" in done(command("status"), work)
    assert "chosen" in done(command("pairs"), work)
    figures = done([*command("eval"), "--limit", "4", "--max-new-tokens", "32", "--kv-cache-gb", "0.0625"], work)
    assert "right language" in figures
    assert (run / "policy" / "model.safetensors").is_file()

    public = [f"serve.port={PORT}", "serve.host=0.0.0.0", "serve.api_keys_env=KEYS_OF_THE_TEST"]
    serving = start([*command("serve"), *public, "cluster.num_cpus=2"], work, KEYS_OF_THE_TEST=KEY)
    try:
        wait(lambda: health().get("version") == "v3", serving, "v3 served")
        codes = [httpx.get(f"{BASE}/v1/models", headers=headers, timeout=20).status_code for headers in ({}, HEADERS)]
        assert codes == [401, 200]
        reply = httpx.post(f"{BASE}/v1/chat/completions", json=body, headers=HEADERS, timeout=60)
        assert (reply.status_code, reply.headers["x-isogloss-version"]) == (200, "v3")
        assert "v2 is served by 1 replica(s)" in done(command("rollback"), work)
        assert (health()["version"], health()["checksum"]) == ("v2", rows[2]["checksum"])
        serving.send_signal(signal.SIGTERM)
        output, _ = serving.communicate(timeout=60)
    finally:
        serving.kill()
    assert serving.returncode == 0, output
    assert "Traceback" not in output
    assert health() == {}
