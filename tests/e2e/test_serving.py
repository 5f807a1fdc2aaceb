"""A run that is served while it trains, and the commands on a running endpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.kits.run import arguments

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PORT = 8931
BASE = f"http://127.0.0.1:{PORT}"
KEY = "key-of-the-test-0123456789"
HEADERS = {"Authorization": f"Bearer {KEY}"}
CLI = [sys.executable, "-m", "cli"]


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


def start(command: list[str], **env: str) -> subprocess.Popen[str]:
    env = {**os.environ, **env}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def test_endpoint_follows_the_run_and_obeys_the_commands(tmp_path: Path) -> None:
    overrides = [
        "serve.enabled=true", f"serve.port={PORT}", "serve.cpus_per_replica=0.5", "serve.kv_cache_gb=0.125",
        "serve.gate.min_right_language=0.2", "evaluation.every=1", "cluster.num_cpus=3",
        # What travels to the actors is an adapter, what is served the merged weights of the checkpoint.
        "learner.lora={rank: 4, publish: adapter}", "learner.learning_rate=1e-3",
    ]  # fmt: skip
    training = start([*CLI, *arguments(tmp_path, "served", *overrides)[1:]])
    try:
        wait(lambda: health().get("version") == "v0", training, "v0 served")
        wait(lambda: health().get("version") == "v1", training, "v1 served")
        body = {"model": "served", "messages": [{"role": "user", "content": "Which city does Bob live in?"}]}
        reply = httpx.post(f"{BASE}/v1/chat/completions", json=body, timeout=60)
        assert reply.headers["x-isogloss-version"] in ("v1", "v2")
        output, _ = training.communicate(timeout=240)
    finally:
        training.kill()
    assert training.returncode == 0, output
    assert "serving: v1 promoted, right language" in output
    run = tmp_path / "served"
    rows = [json.loads(line) for line in (run / "promotions.jsonl").read_text().splitlines()]
    assert [(row["event"], row["version"]) for row in rows] == [("promoted", 0), ("promoted", 1), ("promoted", 2)]

    public = [f"serve.port={PORT}", "serve.host=0.0.0.0", "serve.api_keys_env=KEYS_OF_THE_TEST"]
    serving = start([*CLI, "serve", str(run), *public, "cluster.num_cpus=2"], KEYS_OF_THE_TEST=KEY)
    try:
        wait(lambda: health().get("version") == "v2", serving, "v2 served")
        asked = [httpx.get(f"{BASE}/v1/models", headers=headers, timeout=20) for headers in ({}, HEADERS)]
        assert [reply.status_code for reply in asked] == [401, 200]
        done = subprocess.run([*CLI, "rollback", str(run)], capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        assert "v1 is served by 1 replica(s)" in done.stdout
        assert (health()["version"], health()["checksum"]) == ("v1", rows[1]["checksum"])
        serving.send_signal(signal.SIGTERM)
        output, _ = serving.communicate(timeout=60)
    finally:
        serving.kill()
    assert serving.returncode == 0, output
    assert "Traceback" not in output
    assert health() == {}
