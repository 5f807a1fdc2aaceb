"""The endpoint for real: Ray Serve, vLLM and the unmodified OpenAI client, on the embedded world's model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import ray
from ray import serve

from actors.observe.run_metrics import RunMetrics
from actors.observe.telemetry import METRICS, exported_names
from configs.errors import UserError
from configs.serving import ServeConfig
from serving.app import serving
from serving.engine import EngineSettings
from tests.kits.cluster import fetch, free_ports
from tests.kits.fuzz import ODD_REQUESTS, fault, fuzz
from tests.kits.metrics import Sample, samples, wrong_labels
from tests.kits.prometheus import PROMETHEUS, expressions, prometheus
from tests.kits.serving import KEY, PASSED, QUESTION, Served, in_background, serve_two_versions, small_endpoint

PATHS = ("/v1/chat/completions", "/v1/completions")
pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One replica, two versions to swap between."""
    origins = ["https://chat.example"]
    config = small_endpoint(max_tokens=128, max_body_kb=64, max_concurrent=80, drain_s=0.3, cors_origins=origins)
    with serve_two_versions(tmp_path_factory.mktemp("serving"), config) as found:
        yield found


def test_openai_client_chat(served: Served) -> None:
    (model,) = served.client.models.list().data
    assert model.id == "world"
    assert model.model_dump()["isogloss"]["current"]["version"] == "v0"
    raw = served.client.chat.completions.with_raw_response.create(
        model="world", messages=QUESTION, temperature=0, max_tokens=24
    )
    reply: Any = raw.parse()
    assert raw.headers["x-isogloss-version"] == "v0"
    assert reply.model_dump()["isogloss"] == {"version": "v0"}
    assert reply.usage.prompt_tokens > 0
    assert reply.choices[0].finish_reason == "stop"
    text = reply.choices[0].message.content

    chunks = list(served.chat(temperature=0, max_tokens=24, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert {chunk.model_dump()["isogloss"]["version"] for chunk in chunks} == {"v0"}
    assert chunks[-1].usage.completion_tokens == reply.usage.completion_tokens

    cut = served.chat(temperature=0, stop=text[3:6])
    assert cut.choices[0].message.content == text[: text.index(text[3:6])]
    several = served.chat(n=3, temperature=1.0, logprobs=True, top_logprobs=2, max_tokens=8)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    first = several.choices[0].logprobs.content[0]
    assert first.logprob <= 0
    assert len(first.top_logprobs) >= 2


def test_openai_client_completions_and_seeds(served: Served) -> None:
    def sample(seed: int) -> list[str]:
        reply = served.client.completions.create(
            model="world", prompt="Ann likes", seed=seed, n=3, temperature=1.0, max_tokens=12
        )
        return [choice.text for choice in reply.choices]

    one = sample(5)
    assert len(set(one)) > 1
    assert sample(5) == one
    assert sample(6) != one
    # Prompts of many lengths at once: with a seed each, a prompt that is prefilled in two parts would end vLLM 0.32.
    with openai.OpenAI(base_url=served.endpoint.url, api_key=KEY, max_retries=0, timeout=60) as client:
        long = [" ".join(["Ann"] * count) for count in (1, 40, 100, 7)]
        reply = client.completions.create(model="world", prompt=long, seed=1, temperature=1.0, max_tokens=4)
    assert len(reply.choices) == 4


def test_conversations_feed_their_own_replies_back(served: Served) -> None:
    """As clients do that keep a list of messages: objects, dictionaries, parts, and the streamed text put together."""
    messages: list[Any] = [{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, *QUESTION]
    for turn in range(3):
        common = {"messages": messages, "temperature": 0, "max_tokens": 12}
        reply = served.chat(**common, store=False, metadata={"turn": str(turn)}, parallel_tool_calls=False, tools=[])
        told = reply.choices[0].message
        assert set(told.model_dump()) > {"role", "content", "refusal"}
        chunks = list(served.chat(**common, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == told.content
        messages += [told if turn % 2 else told.model_dump(), {"role": "user", "name": "ann", "content": "And Ann?"}]
    assert reply.usage.prompt_tokens > 40
    open_end = served.chat(messages=messages, extra_body={"ignore_eos": True})
    assert open_end.usage.total_tokens == min(256, open_end.usage.prompt_tokens + 128)
    asks = {"Origin": "https://chat.example", "Access-Control-Request-Method": "POST"}
    preflight = httpx.options(served.endpoint.url + "/chat/completions", headers=asks)
    assert preflight.headers["access-control-allow-origin"] == "https://chat.example"
    model = served.client.models.retrieve("world")
    assert model.model_dump() == served.client.models.list().data[0].model_dump()
    with pytest.raises(openai.NotFoundError, match="served: world"):
        served.client.models.retrieve("gpt")
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    for fields in ({"tools": [tool]}, {"messages": [*QUESTION, {"role": "tool", "tool_call_id": "c", "content": "4"}]}):
        with pytest.raises(openai.BadRequestError, match="tools are not supported here"):
            served.chat(**fields)


def test_errors_have_openai_s_form(served: Served) -> None:
    with pytest.raises(openai.NotFoundError, match="served: world"):
        served.chat(model="gpt")
    with pytest.raises(openai.BadRequestError, match="1 to 128"):
        served.chat(max_tokens=129)
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="256"):
            served.chat(messages=[{"role": "user", "content": "Ann " * 400}], stream=stream)
    with pytest.raises(openai.AuthenticationError):
        served.client.with_options(api_key="another-key-of-some-length").models.list()
    with pytest.raises(openai.APIStatusError) as caught:
        served.chat(messages=[{"role": "user", "content": "x" * 70_000}])
    assert caught.value.status_code == 413
    base = served.endpoint.url.removesuffix("/v1")
    assert httpx.get(base + "/health").json()["version"] == "v0"
    for path in ("/v1/nothing", "/docs", "/redoc", "/openapi.json"):
        assert httpx.get(base + path).json()["error"]["code"] == 404
    reply = httpx.get(base + "/v1/completions")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert httpx.head(base + "/health").status_code == 200


def test_nothing_but_loopback_is_open(served: Served) -> None:
    with httpx.stream("GET", served.endpoint.url.removesuffix("/v1") + "/health") as reply:
        assert reply.status_code == 200
    proxies = [process for process in psutil.process_iter() if process.name() == "haproxy"]
    ours = [p for p in proxies if any(c.laddr.port == served.port for c in p.net_connections("tcp"))]
    assert ours, "the endpoint is not behind HAProxy"
    listening = {c.laddr.ip for p in ours for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    # Serve binds a replica's channel for other deployments to all interfaces, and its HTTP server to loopback.
    (row,) = served.endpoint.status()["replicas"].values()
    replica = psutil.Process(row["pid"])
    sockets = [c for p in (replica, *replica.children(recursive=True)) for c in p.net_connections("inet")]
    open_on = {c.laddr.ip.removeprefix("::ffff:") for c in sockets if c.status == psutil.CONN_LISTEN}
    assert open_on == {"127.0.0.1"}


def test_concurrency_64_and_too_many(served: Served) -> None:
    async def ask(count: int) -> list[Any]:
        async with openai.AsyncOpenAI(base_url=served.endpoint.url, api_key=KEY, max_retries=0) as client:
            calls = [
                client.chat.completions.create(model="world", messages=QUESTION, max_tokens=64,
                                               extra_body={"ignore_eos": True})
                for _ in range(count)
            ]  # fmt: skip
            return await asyncio.gather(*calls, return_exceptions=True)

    assert all(reply.usage.completion_tokens == 64 for reply in asyncio.run(ask(64)))
    outcomes = asyncio.run(ask(120))
    refused = [error for error in outcomes if isinstance(error, openai.RateLimitError)]
    assert len(refused) == sum(isinstance(error, Exception) for error in outcomes)
    assert {error.response.headers["retry-after"] for error in refused} == {"1"}
    assert len(outcomes) - len(refused) >= 80


def test_fuzzed_requests_never_end_in_5xx(served: Served) -> None:
    """From the application's own OpenAPI document, through HAProxy."""

    # In a process of the cluster: a handle's threads outlive the cluster here, and would start another one.
    @ray.remote(num_cpus=0)
    def openapi(name: str) -> dict[str, Any]:
        return serve.get_app_handle(name).openapi.remote().result(timeout_s=30)

    document = ray.get(openapi.remote(served.endpoint.name), timeout=60)
    assert set(document["paths"]) == {*PATHS, "/health", "/v1/models", "/v1/models/{model}"}
    tally = fuzz(document, served.endpoint.url.removesuffix("/v1"), KEY, examples=12)
    assert not tally.wrong, "\n".join(tally.wrong[:20])
    assert tally.slowest < 30
    for path in PATHS:
        assert tally.replies[path, 200] > 50
        assert tally.replies[path, 400] > 100
    for path in ("/health", "/v1/models"):
        assert tally.replies[path, 200] > 0
    assert served.chat(temperature=0, max_tokens=4).usage.completion_tokens > 0


@pytest.mark.parametrize(
    ("content", "headers", "expected"),
    ODD_REQUESTS,
    ids=lambda value: str(value)[:40] if isinstance(value, bytes) else None,
)
def test_odd_bytes_get_an_error_in_openai_s_form(
    served: Served, content: bytes, headers: dict[str, str | bytes], expected: int
) -> None:
    url = served.endpoint.url + "/chat/completions"
    every: Any = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", **headers}
    reply = httpx.post(url, content=content, headers=every, timeout=30)
    assert (reply.status_code, fault(reply.status_code, reply.text)) == (expected, ""), reply.text[:300]


def test_hot_swaps_under_load(served: Served) -> None:
    greedy: dict[str, str] = {}
    for number in (1, 0):
        served.promote(number)
        greedy[f"v{number}"] = served.chat(temperature=0, max_tokens=120, extra_body={"ignore_eos": True}).choices[
            0].message.content  # fmt: skip
    assert greedy["v0"] != greedy["v1"]
    replies: list[tuple[set[str], str]] = []

    def ask() -> None:
        versions, text = set(), ""
        for chunk in served.chat(temperature=0, max_tokens=120, stream=True, extra_body={"ignore_eos": True}):
            last = chunk.model_dump()["isogloss"]["version"]
            versions.add(last)
            text += chunk.choices[0].delta.content or ""
        replies.append((versions, text))

    with in_background(ask, 4) as failures:
        for swap in range(6):
            status = served.promote(1 - swap % 2)
            (row,) = status["replicas"].values()
            assert row["checksum"] == served.models[1 - swap % 2][1].checksum
            time.sleep(0.3)
    assert not failures
    assert len(replies) > 8
    for versions, text in replies:
        if len(versions) == 1 and "-" not in (version := next(iter(versions))):
            assert text == greedy[version], "a reply names a version that it does not come from"
        else:
            assert any("-" in version for version in versions)
    assert {"v0", "v1"} == {one for versions, _ in replies for version in versions for one in version.split("-")}


def test_a_version_that_engines_cannot_prove_is_given_up(served: Served) -> None:
    asked = {"temperature": 0, "max_tokens": 128, "extra_body": {"ignore_eos": True}}
    whole = served.chat(**asked).choices[0].message.content
    chunks = served.chat(**asked, stream=True)
    events = [next(chunks)]
    wrong = replace(served.models[1][1], version=2, probe_logprob=(-1.0,) * 23)
    served.folder.promote(served.models[1][0], wrong, PASSED, "test")
    with pytest.raises(UserError, match="given up"):
        served.endpoint.wait_for(2, 60)
    events += chunks
    assert "".join(event.choices[0].delta.content or "" for event in events) == whole
    assert {event.model_dump()["isogloss"]["version"] for event in events} == {"v0"}
    reply = served.chat(temperature=0, max_tokens=4)
    assert reply.model_dump()["isogloss"]["version"] == "v0"
    rows = [json.loads(line) for line in (served.folder.path / "promotions.jsonl").read_text().splitlines()]
    assert [(row["event"], row["version"]) for row in rows[-2:]] == [("failed", 2), ("rolled back", 0)]
    assert "probe" in rows[-2]["reason"]


def test_a_second_endpoint_on_the_cluster_is_refused_before_it_starts(served: Served) -> None:
    other, ours = EngineSettings("other", "float32", 256, 0), served.port
    for port, message in (
        (ours, rf"127\.0\.0\.1:{ours} is where isogloss-world is served on this cluster"),
        (free_ports(1)[0], rf"Serve already runs .* listens on 127\.0\.0\.1:{ours} .* set .* serve\.port={ours}"),
    ):
        with (
            pytest.raises(UserError, match=message),
            serving(served.folder, ServeConfig(port=port), other, start_timeout=60, load_timeout=60),
        ):
            pass


def test_what_is_served_is_exported(served: Served) -> None:
    (node,) = ray.nodes()
    (replica,) = served.endpoint.status()["replicas"]
    of = ("endpoint", "world")
    with contextlib.closing(RunMetrics("world-run", 1)) as run:
        run.offered("refused")
        expected = {
            Sample("ray_isogloss_served_version", frozenset({of, ("replica", replica), ("role", "current")})): 0.0,
            Sample("ray_isogloss_serve_swaps_total", frozenset({of, ("version", "v2"), ("outcome", "given up")})): 1.0,
            Sample(
                "ray_isogloss_serve_decisions_total", frozenset({("run", "world-run"), ("outcome", "refused")})
            ): 1.0,
        }
        deadline = time.monotonic() + 30
        while True:
            found = samples(fetch(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"))
            if expected.items() <= found.items():
                break
            assert time.monotonic() < deadline, {one: found.get(one) for one in expected}
            time.sleep(0.5)
    assert wrong_labels(found) == []
    names = {name for metric, entry in METRICS.items() if entry.owner == "endpoint" for name in exported_names(metric)}
    assert names <= {one.name for one in found}
    answered = {one: value for one, value in found.items() if one.name == "ray_isogloss_serve_requests_total"}
    assert {one["status"] for one in answered} >= {"200", "400", "401", "404", "429"}
    good = sum(value for one, value in answered.items() if one["status"] == "200")
    timed = {one: value for one, value in found.items() if one.name == "ray_isogloss_serve_request_seconds_count"}
    assert sum(timed.values()) >= good > 64
    assert {one["version"] for one in timed} >= {"v0", "v1"}
    spent = sum(value for one, value in found.items() if one.name == "ray_isogloss_serve_request_seconds_sum")
    assert 0 < spent / sum(timed.values()) < 60


@pytest.mark.skipif(PROMETHEUS is None, reason="needs Prometheus (Debian's package prometheus, which .ci/run installs)")
def test_prometheus_draws_every_panel_of_an_endpoint(served: Served, tmp_path: Path) -> None:
    (node,) = ray.nodes()
    # Ray writes this list where it has a dashboard, which this one has not.
    nodes = [{"labels": {"job": "ray"}, "targets": [f"127.0.0.1:{node['MetricsExportPort']}"]}]
    (tmp_path / "prom_metrics_service_discovery.json").write_text(json.dumps(nodes))
    panels = {title: texts for title, texts in expressions("world-run").items() if "isogloss_serve" in str(texts)}
    assert len(panels) == 5
    with prometheus(tmp_path, tmp_path) as watch, contextlib.closing(RunMetrics("world-run", 1)) as run:
        run.offered("refused")
        served.promote(0)
        served.promote(1)
        deadline = time.monotonic() + 60
        while empty := [one for texts in panels.values() for one in texts if not watch.series(one)]:
            served.chat(max_tokens=4)
            assert time.monotonic() < deadline, (empty, watch.targets())
            time.sleep(0.5)
        assert set(watch.targets().values()) == {"up"}
        assert watch.values("ray_isogloss_served_version", "endpoint") == {"world"}, "the dashboard's variable"


def test_killed_coordinator_comes_back_and_nobody_notices(served: Served) -> None:
    served.promote(0)
    before = served.endpoint.status()["coordinator"]["pid"]
    versions: list[str] = []

    def ask() -> None:
        versions.append(served.chat(max_tokens=32).model_dump()["isogloss"]["version"])

    with in_background(ask, 2) as failures:
        time.sleep(0.3)
        os.kill(before, signal.SIGKILL)
        # Promoted while there is no coordinator: the next one begins with it, and the replica asks that one.
        status = served.promote(1)
        served.promote(0)
    assert status["coordinator"]["pid"] != before
    assert not failures
    assert {"v0", "v1"} == {one for seen in versions for one in seen.split("-")}


@pytest.mark.nightly
def test_killed_replica_comes_back_with_the_current_weights(served: Served) -> None:
    served.promote(1)
    (row,) = served.endpoint.status()["replicas"].values()
    outcomes: list[tuple[int, str]] = []
    clients = [threading.Thread(target=lambda: outcomes.append(served.long_chat())) for _ in range(4)]
    for client in clients:
        client.start()
    time.sleep(0.15)
    os.kill(row["pid"], signal.SIGKILL)
    for client in clients:
        client.join(110)
    assert len(outcomes) == 4, "a request hangs"
    # HAProxy asks again, and either learns in time that there is no replica, and lets them wait for the next, or not.
    assert {status for status, _ in outcomes} <= {200, 502, 503}, outcomes
    assert all(json.loads(text)["error"]["code"] == status for status, text in outcomes if status != 200), outcomes
    deadline = time.monotonic() + 120
    while True:
        rows = [r for r in served.endpoint.status()["replicas"].values() if r.get("pid") not in (None, row["pid"])]
        if rows:
            break
        assert time.monotonic() < deadline, "the replica does not come back"
        time.sleep(0.2)
    assert rows[0]["checksum"] == served.models[1][1].checksum
    reply = served.client.with_options(max_retries=5).chat.completions.create(
        model="world", messages=QUESTION, temperature=0, max_tokens=4
    )
    assert reply.model_dump()["isogloss"]["version"] == "v1"


def test_when_the_application_is_gone_callers_are_told_to_wait(served: Served) -> None:
    """The last one: nothing is served afterwards. So it is at the end of a run whose cluster stays."""
    url = served.endpoint.url + "/models"
    replies = []

    def ask() -> None:
        replies.append(httpx.get(url, headers={"Authorization": f"Bearer {KEY}"}, timeout=30))

    with in_background(ask, 2) as failures:
        serve.delete(served.endpoint.name)
        before = len(replies)
        while len(replies) < before + 200:
            time.sleep(0.05)
    assert not failures
    assert {reply.status_code for reply in replies} == {200, 503}
    for reply in replies:
        if reply.status_code == 503:
            assert reply.json()["error"]["code"] == 503
            assert reply.headers["retry-after"] == "5"
