"""The endpoint under load, with a spare engine: swaps one after the other, and a replica killed while it streams.

Shorter forms of both are in ``test_ray.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.serving_load import Load, kill_while_it_streams, swap, wrong_replies
from tests.kits.serving import KEY, QUESTION, Served, serve_two_versions, small_endpoint

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.nightly, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One replica with a spare engine, that lets requests finish before a swap however slow the machine is."""
    config = small_endpoint(drain_s=60, spare_engine=True)
    with serve_two_versions(tmp_path_factory.mktemp("load"), config) as found:
        yield found


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
