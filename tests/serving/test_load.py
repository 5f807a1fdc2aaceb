"""The endpoint under load, with the OpenAI client: conversations over swaps, and a replica that is killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from ray import serve

from benchmarks.serving_load import Load, kill_while_it_streams, swap, wrong_replies
from tests.kits.serving import KEY, QUESTION, Served, in_background, serve_two_versions, small_endpoint

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One replica with a spare engine, that lets requests finish before a swap however slow the machine is."""
    config = small_endpoint(drain_s=60, spare_engine=True, cors_origins=["https://chat.example"])
    with serve_two_versions(tmp_path_factory.mktemp("load"), config) as found:
        yield found


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
    assert open_end.usage.total_tokens == min(256, open_end.usage.prompt_tokens + 512)
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


def test_five_swaps_under_32_clients_drop_and_mix_nothing(served: Served) -> None:
    def has_spare() -> bool:
        (row,) = served.endpoint.status()["replicas"].values()
        return bool(row["spare_engine"])

    async def scene() -> None:
        while not await asyncio.to_thread(has_spare):
            await asyncio.sleep(0.2)
        load = Load(served.endpoint.url, 32, KEY)
        versions = [served.models[0], served.models[1]]
        for number in range(5):
            before = len(load.replies)
            await swap(served.endpoint, served.folder, versions, number)
            while len(load.replies) < before + 32:
                await asyncio.sleep(0.05)
        await load.close()
        assert [reply.problem for reply in load.replies if reply.problem] == []
        assert {reply.header for reply in load.replies} == {"v0", "v1"}
        assert load.refused > 0
        wrong, of_two = await wrong_replies(load.replies, served.promote, served.endpoint.url, KEY)
        assert wrong == []
        assert of_two == 0, "a reply mixes versions although there was time to finish it"

    asyncio.run(asyncio.wait_for(scene(), 300))


def test_a_replica_killed_while_it_streams_ends_them_with_an_error_and_comes_back(served: Served) -> None:
    served.promote(1)

    async def scene() -> None:
        load = Load(served.endpoint.url, 8, KEY)
        while len(load.replies) < 8:
            await asyncio.sleep(0.05)
        (row,) = (await asyncio.to_thread(served.endpoint.status))["replicas"].values()
        await kill_while_it_streams(load, row["pid"])
        while not any(reply.problem for reply in load.replies):
            await asyncio.sleep(0.05)
        await load.close()

    asyncio.run(asyncio.wait_for(scene(), 200))
    retrying: Any = served.client.with_options(max_retries=10)
    reply = retrying.chat.completions.create(model="world", messages=QUESTION, temperature=0, max_tokens=4)
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
