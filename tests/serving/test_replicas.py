"""Several replicas for real: canaries, swaps one after the other, a killed replica, autoscaling, a frozen engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import psutil
import pytest

from serving.facts import ReplicaRow
from tests.kits.serving import KEY, QUESTION, Served, in_background, serve_two_versions, small_endpoint
from tests.kits.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.nightly, pytest.mark.timeout(900)]

TIMEOUT_S = 12.0
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two replicas, three under load."""
    config = small_endpoint(
        min_replicas=2,
        max_replicas=3,
        target_ongoing_requests=4,
        upscale_delay_s=1,
        downscale_delay_s=3,
        max_tokens=200,
        drain_s=1,
        request_timeout_s=TIMEOUT_S,
        canary_share=0.5,
    )
    with serve_two_versions(tmp_path_factory.mktemp("replicas"), config) as found:
        yield found


def ask(served: Served, count: int) -> list[Any]:
    async def all_of_them() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=served.endpoint.url, api_key=KEY, max_retries=0) as client:
            calls = [client.chat.completions.create(model="world", messages=QUESTION, max_tokens=16, temperature=0)
                     for _ in range(count)]  # fmt: skip
            return await asyncio.gather(*calls)

    return asyncio.run(all_of_them())


def versions(served: Served, count: int = 16) -> Counter[str]:
    return Counter(reply.model_dump()["isogloss"]["version"] for reply in ask(served, count))


class Outcomes(list[tuple[int, str]]):
    """What became of each request: status and text."""

    def __init__(self) -> None:
        super().__init__()
        self.latest: dict[int, float] = {}  # when the newest part came, of every stream on its way, by thread

    def held(self, seconds: float) -> int:
        """Streams that began, and for so long got nothing more."""
        return sum(time.monotonic() - came > seconds for came in list(self.latest.values()))


@contextlib.contextmanager
def load(served: Served, clients: int) -> Iterator[Outcomes]:
    """Clients that stream without a pause."""
    outcomes = Outcomes()
    body = {"model": "world", "messages": QUESTION, "max_tokens": 100, "ignore_eos": True, "stream": True}

    def ask() -> None:
        text = ""
        try:
            with httpx.stream("POST", served.endpoint.url + "/chat/completions", json=body, headers=HEADERS,
                              timeout=60) as reply:  # fmt: skip
                for part in reply.iter_text():
                    text += part
                    outcomes.latest[threading.get_ident()] = time.monotonic()
            outcomes.append((reply.status_code, text))
        except httpx.TransportError as error:
            outcomes.append((0, text + repr(error)))
        outcomes.latest.pop(threading.get_ident(), None)

    with in_background(ask, clients) as failures:
        yield outcomes
    assert not failures


def whole(outcomes: list[tuple[int, str]]) -> bool:
    return all(status == 200 and text.endswith("data: [DONE]\n\n") and '"error"' not in text
               for status, text in outcomes)  # fmt: skip


def rows(served: Served) -> list[ReplicaRow]:
    """Of the replicas that are there; the coordinator strikes off who is gone only after some seconds of silence."""
    found = served.endpoint.status()["replicas"].values()
    return [row for row in found if "pid" in row and psutil.pid_exists(row["pid"])]


def engine_of(row: ReplicaRow) -> psutil.Process:
    """The process of a replica's engine."""
    (engine,) = [
        child for child in psutil.Process(row["pid"]).children(recursive=True)
        if "EngineCore" in " ".join([child.name(), *child.cmdline()])
    ]  # fmt: skip
    return engine


def test_canary_promotion_and_rollback_under_load(served: Served) -> None:
    with load(served, 6) as outcomes:
        served.promote(1, canary=True)
        # HAProxy may not have heard of the second replica yet.
        wait_until(lambda: set(versions(served)) == {"v0", "v1"}, "replies of both", 60)
        (model,) = served.client.models.list().data
        shown = model.model_dump()["isogloss"]
        assert (shown["current"]["version"], shown["canary"]["version"]) == ("v0", "v1")
        assert Counter(row["version"] for row in rows(served)) == {0: 1, 1: 1}
        served.promote(1)
        assert set(versions(served)) == {"v1"}
        served.folder.rollback("test")
        served.endpoint.wait_for(0, 60)
        assert set(versions(served)) == {"v0"}
    assert len(outcomes) > 12
    assert whole(outcomes), [text[-300:] for status, text in outcomes if not whole([(status, text)])]


def test_frozen_engines_end_in_504_and_waiting_requests_bring_a_third_replica(served: Served) -> None:
    engines = [engine_of(row) for row in rows(served)]
    assert len(engines) == 2
    body = {"model": "world", "messages": QUESTION, "max_tokens": 200, "ignore_eos": True}
    url = served.endpoint.url + "/chat/completions"
    late: list[httpx.Response] = []
    waiting = [
        threading.Thread(target=lambda: late.append(httpx.post(url, json=body, headers=HEADERS, timeout=60)))
        for _ in range(20)
    ]
    try:
        with httpx.stream("POST", url, json={**body, "stream": True}, headers=HEADERS, timeout=60) as reply:
            parts = reply.iter_text()
            text = next(parts)
            for engine in engines:
                engine.send_signal(signal.SIGSTOP)
            for thread in waiting:
                thread.start()
            text += "".join(parts)
        for thread in waiting:
            thread.join(60)
        # Requests continue waiting: without them the third replica would be taken away before it is there.
        with in_background(lambda: httpx.post(url, json=body, headers=HEADERS, timeout=60), 9) as failures:
            wait_until(lambda: len(rows(served)) == 3, "a third replica", 200)
            for engine in engines:
                engine.send_signal(signal.SIGCONT)
        assert not failures
    finally:
        for engine in engines:
            engine.send_signal(signal.SIGCONT)
    assert [reply.status_code for reply in late] == [504] * 20
    assert "serve.request_timeout_s" in late[0].json()["error"]["message"]
    last = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")][-1]
    assert last["error"]["code"] == 504
    assert text.endswith("data: [DONE]\n\n")
    assert set(versions(served)) == {"v0"}
    assert {row["checksum"] for row in rows(served)} == {served.models[0][1].checksum}


def test_after_the_load_a_replica_goes_and_nobody_notices(served: Served) -> None:
    assert len(rows(served)) == 3
    # Each of the three has a request running when one of them is told to go.
    with load(served, 2) as streams, in_background(lambda: ask(served, 1), 1) as failures:
        wait_until(lambda: len(rows(served)) == 2, "two replicas", 90)
        before = len(streams)
        wait_until(lambda: len(streams) > before + 4, "streams after it went", 60)
        assert set(versions(served, 4)) == {"v0"}
    assert not failures
    assert whole(streams), [text[-300:] for status, text in streams if not whole([(status, text)])]
    assert len(rows(served)) == 2


def test_a_killed_replica_costs_the_requests_it_ran(served: Served) -> None:
    victim, *others = rows(served)
    engine = engine_of(victim)

    def holds_a_stream() -> bool:
        engine.send_signal(signal.SIGSTOP)
        time.sleep(2)
        if outcomes.held(1.5):
            return True
        engine.send_signal(signal.SIGCONT)  # stopped between streams
        return False

    with load(served, 6) as outcomes:
        wait_until(lambda: len(outcomes) > 6, "load", 120)
        wait_until(holds_a_stream, "a stream in the victim's hand", 120)
        os.kill(victim["pid"], signal.SIGKILL)
        engine.send_signal(signal.SIGCONT)  # it ends with its replica
        before = len(outcomes)
        wait_until(lambda: len(outcomes) > before + 18, "answers while a replica is gone", 60)
        assert {row["pid"] for row in others} <= {row["pid"] for row in rows(served)}
    failed = [(status, text) for status, text in outcomes if not whole([(status, text)])]
    # Its streams break off; what had no first byte yet was asked again of the others.
    assert 0 < len(failed) <= 6
    assert {status for status, _ in failed} == {0}, failed
