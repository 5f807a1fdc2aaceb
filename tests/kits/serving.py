"""An endpoint for tests: the embedded world's model in two versions, and the unmodified OpenAI client."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai

from actors.runtime.cluster import start_cluster
from configs.running import ClusterConfig
from configs.serving import ServeConfig
from learners.manifest import WeightsManifest
from learners.model_files import write_model_folder
from serving.app import Endpoint, serving
from serving.describe import describe
from serving.engine import EngineSettings
from serving.facts import EndpointStatus
from serving.folder import ServingFolder
from serving.gate import GateDecision
from tests.kits.actors import perturbed
from tests.kits.cluster import free_ports

POLICY = Path("worlds/default/policy").resolve()
KEY = "a-key-for-the-tests-only"
KEYS_VARIABLE = "ISOGLOSS_TEST_KEYS"
PASSED = GateDecision(True, "test")
QUESTION: list[Any] = [{"role": "user", "content": "Which city does Bob live in?"}]


@dataclass
class Served:
    """A running endpoint; version 0 is the policy, version 1 another model."""

    endpoint: Endpoint
    folder: ServingFolder
    client: openai.OpenAI
    models: dict[int, tuple[Path, WeightsManifest]]

    @property
    def port(self) -> int:
        return int(self.endpoint.url.rsplit(":", 1)[1].removesuffix("/v1"))

    def chat(self, **fields: Any) -> Any:
        return self.client.chat.completions.create(**{"model": "world", "messages": QUESTION, **fields})

    def long_chat(self) -> tuple[int, str]:
        """Status and text of a request of 128 tokens by a plain client; status 0 where no reply came at all."""
        body = {"model": "world", "messages": QUESTION, "max_tokens": 128, "ignore_eos": True}
        key = {"Authorization": f"Bearer {KEY}"}
        try:
            reply = httpx.post(self.endpoint.url + "/chat/completions", json=body, headers=key, timeout=100)
        except httpx.TransportError as error:
            return 0, repr(error)
        return reply.status_code, reply.text

    def promote(self, version: int, canary: bool = False) -> EndpointStatus:
        self.folder.promote(*self.models[version], PASSED, "test", canary)
        return self.endpoint.wait_for(version, 60)


@contextlib.contextmanager
def in_background(work: Callable[[], object], clients: int) -> Iterator[list[BaseException]]:
    """Threads that repeat ``work`` without a pause until the block ends; yields what it raised."""
    over = threading.Event()
    failures: list[BaseException] = []

    def client() -> None:
        while not over.is_set():
            try:
                work()
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        over.set()
        for thread in threads:
            thread.join(70)


def write_other_model(folder: Path) -> None:
    """Another model than the policy, of its form."""
    weights = {name: value.detach().clone() for name, value in perturbed(POLICY, 1, std=0.02).named_parameters()}
    write_model_folder(folder, weights, POLICY, "float32")


def small_endpoint(**fields: Any) -> ServeConfig:
    """Small engines on a free port, behind the tests' key; the rest is the test's own."""
    port, keys = free_ports(1)[0], KEYS_VARIABLE
    return ServeConfig(port=port, cpus_per_replica=0.5, kv_cache_gb=0.125, api_keys_env=keys, **fields)


@contextlib.contextmanager
def serve_two_versions(root: Path, config: ServeConfig) -> Iterator[Served]:
    """On a Ray cluster of its own; version 0 is current, 1 is another model."""
    os.environ.update({KEYS_VARIABLE: KEY, "RAY_metrics_report_interval_ms": "1000"})
    folder = ServingFolder(root / "run")
    write_other_model(root / "other")
    models = {number: (path, describe(path, number)) for number, path in enumerate((POLICY, root / "other"))}
    folder.promote(*models[0], PASSED, "test")
    settings = EngineSettings("world", "float32", 256, 0)
    with (
        start_cluster(ClusterConfig(num_cpus=2), root),
        serving(folder, config, settings, start_timeout=240, load_timeout=60) as endpoint,
        openai.OpenAI(base_url=endpoint.url, api_key=KEY, max_retries=0, timeout=60) as client,
    ):
        yield Served(endpoint, folder, client, models)
