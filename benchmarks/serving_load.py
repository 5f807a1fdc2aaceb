"""The endpoint under load, with the OpenAI client: conversations while versions are promoted and rolled back.

    python -m benchmarks.serving_load [--swaps 50] [--clients 32] [--replicas 1] [--drain 5] [--kill]

Prints tables for docs/serving.md. What must hold is asserted: no request fails, each reply is the greedy reply of the
version that it names, and says so in its header and in every chunk. ``--kill`` then kills a replica while it streams.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai

from actors.runtime.env import apply_driver_env

apply_driver_env()

from actors.runtime.cluster import start_cluster  # noqa: E402  # after the environment
from configs.running import ClusterConfig  # noqa: E402
from configs.serving import ServeConfig  # noqa: E402
from learners.manifest import WeightsManifest  # noqa: E402
from learners.model_files import write_model_folder  # noqa: E402
from serving.app import Endpoint, serving  # noqa: E402
from serving.describe import describe, folder_weights  # noqa: E402
from serving.engine import EngineSettings  # noqa: E402
from serving.facts import ReplicaRow  # noqa: E402
from serving.folder import ServingFolder  # noqa: E402
from serving.gate import GateDecision  # noqa: E402

POLICY = Path("worlds/default/policy").resolve()
PORT = 8920
MEASURED = GateDecision(True, "benchmark")
TURNS, TOKENS = 3, 32
QUESTIONS = ("Which city does Bob live in?", "What does Ann like?", "Who is older, Ann or Bob?", "Name three animals.")
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
Version = tuple[Path, WeightsManifest]
Messages = list[dict[str, Any]]


@dataclass
class Reply:
    """One reply: what was asked, when, what came, and the versions that header and chunks name."""

    messages: str
    begun: float
    end: float = 0.0
    text: str = ""
    header: str = ""
    versions: set[str] = field(default_factory=set)
    problem: str = ""

    def overlaps(self, windows: Sequence[tuple[float, float]]) -> bool:
        """Whether a swap was under way while it was answered or waited."""
        return any(begin < self.end and self.begun < end for begin, end in windows)


class Load:
    """Clients that hold conversations without a pause, each turn streamed or not.

    Args:
        url: Of the endpoint.
        clients: How many.
        key: API key.
    """

    def __init__(self, url: str, clients: int, key: str = "none") -> None:
        self.replies: list[Reply] = []
        self.streaming: set[int] = set()  # streams on their way, by the ids of their replies
        self.refused = 0  # requests with tools, as they must be
        self._over = asyncio.Event()
        self._client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=120)
        self._tasks = [asyncio.create_task(self._converse(number)) for number in range(clients)]

    async def close(self) -> None:
        """End the conversations after their turn; raises what must not happen."""
        self._over.set()
        await asyncio.gather(*self._tasks)
        await self._client.close()

    async def _converse(self, number: int) -> None:
        while not self._over.is_set():
            messages: Messages = [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}]
            for turn in range(TURNS):
                reply = await self.ask(messages, stream=(number + turn) % 2 == 0)
                if reply.problem:
                    await asyncio.sleep(0.1)
                if reply.problem or self._over.is_set():
                    break
                messages += [{"role": "assistant", "content": reply.text, "refusal": None, "tool_calls": []},
                             {"role": "user", "content": QUESTIONS[(number + turn + 1) % len(QUESTIONS)]}]  # fmt: skip
            else:
                await self._ask_for_tools(messages)

    async def _ask_for_tools(self, messages: Messages) -> None:
        body: Any = {"model": "world", "messages": messages, "tools": [TOOL]}
        try:
            await self._client.chat.completions.create(**body)
        except openai.BadRequestError as error:
            self.refused += "tools are not supported" in str(error)

    async def ask(self, messages: Messages, stream: bool) -> Reply:
        """One turn, greedy and of a fixed length; a failure is in the reply's ``problem``."""
        reply = Reply(json.dumps(messages), time.monotonic())
        create: Any = self._client.chat.completions.with_raw_response.create
        try:
            raw = await create(
                model="world", messages=messages, temperature=0, max_tokens=TOKENS, stream=stream,
                extra_body={"ignore_eos": True},
            )  # fmt: skip
            reply.header = raw.headers["x-isogloss-version"]
            found = raw.parse()
            if stream:
                self.streaming.add(id(reply))
                async for chunk in found:
                    reply.text += chunk.choices[0].delta.content or ""
                    reply.versions.add(chunk.model_dump()["isogloss"]["version"])
            else:
                reply.text = found.choices[0].message.content
                reply.versions.add(found.model_dump()["isogloss"]["version"])
        except (openai.OpenAIError, httpx.HTTPError) as error:
            reply.problem = f"{type(error).__name__}: {error}"[:200]
        reply.end = time.monotonic()
        self.streaming.discard(id(reply))
        self.replies.append(reply)
        return reply


async def swap(
    endpoint: Endpoint, folder: ServingFolder, versions: Sequence[Version], number: int
) -> tuple[float, float]:
    """Swap number so and so: promotions of the second version, each rolled back by the next; from when until when."""
    begun = time.monotonic()
    if number % 2:
        await asyncio.to_thread(folder.rollback, "benchmark")
    else:
        await asyncio.to_thread(folder.promote, *versions[1], MEASURED, "benchmark")
    await asyncio.to_thread(endpoint.wait_for, 1 - number % 2, 120)
    return begun, time.monotonic()


async def wrong_replies(
    replies: Sequence[Reply], promote: Callable[[int], Any], url: str, key: str = "none"
) -> tuple[list[str], int]:
    """What is wrong with replies, and how many name two versions: those are the greedy reply of neither.

    Args:
        replies: Without failed ones.
        promote: Serves a version and waits for it.
        url: Of the endpoint.
        key: API key.
    """
    wrong = [f"header {r.header}, chunks {sorted(r.versions)}" for r in replies if r.versions != {r.header}]
    one = [reply for reply in replies if reply.versions == {reply.header} and "-" not in reply.header]
    for version in (0, 1):
        await asyncio.to_thread(promote, version)
        mine = [reply for reply in one if reply.header == f"v{version}"]
        quiet = Load(url, 0, key)
        texts = {
            asked: (await quiet.ask(json.loads(asked), False)).text for asked in sorted({r.messages for r in mine})
        }
        await quiet.close()
        wrong += [f"v{version} does not say {r.text[:60]!r}" for r in mine if r.text != texts[r.messages]]
    return wrong, len(replies) - len(one)


def quiet_windows(swaps: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """As many windows in which nothing is swapped, each as long as the swap before it, half way to the next one.

    A long reply meets a given window sooner than a short one does, so what meets a swap has to be compared with what
    meets such a window, and not with all the rest.
    """
    found = []
    for (begin, end), (following, _) in pairwise(swaps):
        middle, length = (end + following) / 2, end - begin
        found.append((middle - length / 2, middle + length / 2))
    return found


def latencies(replies: Sequence[Reply], swaps: Sequence[tuple[float, float]]) -> dict[str, tuple[int, float, float]]:
    """Number, median and 95th percentile of the seconds of a reply, during swaps and during windows between them."""
    found = {}
    for name, windows in (("between", quiet_windows(swaps)), ("during", swaps)):
        met = [reply for reply in replies if reply.overlaps(windows)]
        seconds = [reply.end - reply.begun for reply in met if name == "during" or not reply.overlaps(swaps)]
        p50, p95 = np.percentile(seconds, [50, 95]) if seconds else (float("nan"), float("nan"))
        found[name] = (len(seconds), float(p50), float(p95))
    return found


def two_versions(root: Path) -> list[Version]:
    """The embedded world's policy, and another one of its form: every weight a little larger."""
    weights = {name: value * 1.05 for name, value in folder_weights(POLICY).items()}
    write_model_folder(root / "other", weights, POLICY, "float32")
    return [(path, describe(path, number)) for number, path in enumerate((POLICY, root / "other"))]


async def measure_swaps(endpoint: Endpoint, folder: ServingFolder, versions: list[Version], *, count: int, clients: int,
                        pause: float) -> None:  # fmt: skip
    """Swaps under load; prints what they cost."""
    load = Load(endpoint.url, clients)
    await asyncio.sleep(5)
    load.replies.clear()
    windows = []
    for number in range(count):
        windows.append(await swap(endpoint, folder, versions, number))
        await asyncio.sleep(pause)
    await load.close()
    failed = [reply.problem for reply in load.replies if reply.problem]
    assert not failed, failed[:5]

    def promote(version: int) -> None:
        folder.promote(*versions[version], MEASURED, "benchmark")
        endpoint.wait_for(version, 120)

    wrong, two = await wrong_replies(load.replies, promote, endpoint.url)
    assert not wrong, wrong[:5]
    found = latencies(load.replies, windows)
    print(f"{count} swaps, {clients} clients: {len(load.replies)} replies, 0 failed, 0 wrong, {two} of two versions; "
          f"{load.refused} requests with tools refused; a swap takes "
          f"{np.median([end - begin for begin, end in windows]):.2f} s")  # fmt: skip
    print("| | replies | p50, s | p95, s |\n|---|---|---|---|")
    for name, (number, p50, p95) in found.items():
        print(f"| {name} swaps | {number} | {p50:.3f} | {p95:.3f} |")
    ratios = [found["during"][i] / found["between"][i] for i in (1, 2)]
    print(f"| ratio | | {ratios[0]:.2f} | {ratios[1]:.2f} |", flush=True)


async def kill_while_it_streams(load: Load, replica: int) -> None:
    """SIGKILL to a process that surely holds a stream: one that stands still is looked at first."""
    while True:
        os.kill(replica, signal.SIGSTOP)
        await asyncio.sleep(0.5)  # what it had sent has arrived
        if load.streaming:
            os.kill(replica, signal.SIGKILL)
            return
        os.kill(replica, signal.SIGCONT)
        await asyncio.sleep(0.1)


async def measure_kill(endpoint: Endpoint, clients: int) -> None:
    """Kill a replica while it streams; prints what its clients see, and when the next request is answered."""
    load = Load(endpoint.url, clients)
    await asyncio.sleep(3)
    load.replies.clear()
    status = await asyncio.to_thread(endpoint.status)
    replicas = [row for row in status["replicas"].values() if "pid" in row]
    await kill_while_it_streams(load, replicas[0]["pid"])
    killed, clock = time.monotonic(), time.time()
    while not any(reply.begun > killed and not reply.problem for reply in load.replies):
        await asyncio.sleep(0.02)
    first = min(reply.end for reply in load.replies if reply.begun > killed and not reply.problem)
    there: list[ReplicaRow] = []
    while not there:
        rows = (await asyncio.to_thread(endpoint.status))["replicas"].values()
        there = [row for row in rows if row.get("started", {}).get("process", 0) > clock]
        await asyncio.sleep(0.1)
    up = time.time()
    await load.close()
    problems = sorted({reply.problem.split(":")[0] for reply in load.replies if reply.problem})
    broken = sum(bool(reply.problem) for reply in load.replies)
    print(
        f"a replica of {len(replicas)} killed: {broken} of {len(load.replies)} requests end with {problems}; one "
        f"that came after it is answered {first - killed:.1f} s later"
    )
    at = there[0]["started"]
    print(
        f"its successor: process after {at['process'] - clock:.1f} s, imports {at['imports'] - at['process']:.1f} s, "
        f"engine {at['engine'] - at['imports']:.1f} s, weights and report {up - at['engine']:.1f} s",
        flush=True,
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--drain", type=float, default=5.0)
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two swaps")
    parser.add_argument("--spare", action="store_true", help="a spare engine in each replica")
    parser.add_argument("--kill", action="store_true")
    arguments = parser.parse_args()
    config = ServeConfig(
        port=PORT, min_replicas=arguments.replicas, max_replicas=arguments.replicas, cpus_per_replica=0.5,
        kv_cache_gb=0.25, drain_s=arguments.drain, spare_engine=arguments.spare,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        root = Path(name)
        versions, folder = two_versions(root), ServingFolder(root / "run")
        folder.promote(*versions[0], MEASURED, "benchmark")
        stack.enter_context(start_cluster(ClusterConfig(num_cpus=2), root))
        settings = EngineSettings("world", "float32", 512, 0)
        endpoint = stack.enter_context(serving(folder, config, settings, 300, 120))
        if arguments.swaps:
            asyncio.run(
                measure_swaps(
                    endpoint, folder, versions, count=arguments.swaps, clients=arguments.clients, pause=arguments.pause
                )
            )
        if arguments.kill:
            asyncio.run(measure_kill(endpoint, arguments.clients))


if __name__ == "__main__":
    main()
