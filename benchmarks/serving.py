"""The endpoint measured in one run: throughput against the same engine fed directly, and hot swaps under load.

    python -m benchmarks.serving [--swaps 50] [--clients 16] [--parts swaps,tiny,large]

Prints tables for docs/benchmarks.md. What must hold is asserted: no failed request, every reply with a version, no
reply of two versions that does not say so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from actors.runtime.env import apply_driver_env

apply_driver_env()

import torch  # noqa: E402  # after the environment
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM  # noqa: E402

from actors.runtime.cluster import start_cluster  # noqa: E402
from configs.running import ClusterConfig  # noqa: E402
from configs.serving import ServeConfig  # noqa: E402
from learners.model_files import fill_model_folder, write_model_folder  # noqa: E402
from serving.app import Endpoint, serving  # noqa: E402
from serving.describe import describe  # noqa: E402
from serving.engine import EngineSettings, ServingEngine  # noqa: E402
from serving.folder import ServingFolder  # noqa: E402
from serving.gate import GateDecision  # noqa: E402

POLICY = Path("worlds/default/policy")
PROMPT_TOKENS, NEW_TOKENS = 48, 128
TURNS = 5
RAW = "raw engine"
PORT = 8919
MEASURED = GateDecision(True, "benchmark")
SETTINGS = EngineSettings("policy", "float32", 256, 0)


def random_llama(folder: Path, hidden: int = 512, layers: int = 8) -> Path:
    """A random Llama with the embedded world's tokenizer."""
    vocabulary = json.loads((POLICY / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers, num_attention_heads=8,
        num_key_value_heads=8, vocab_size=vocabulary, max_position_embeddings=512, tie_word_embeddings=True,
        eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    folder.mkdir(parents=True)
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    fill_model_folder(folder, weights, POLICY, "float32")
    model.config.save_pretrained(folder)
    return folder


def serve_config(**fields: Any) -> ServeConfig:
    """One replica."""
    values = {"port": PORT, "cpus_per_replica": 1.0, "max_tokens": 256, "kv_cache_gb": 0.5, "drain_s": 5.0}
    return ServeConfig(**{**values, **fields})


def requests(count: int) -> list[dict[str, Any]]:
    """Completion requests of token ids, each another prompt; lengths fixed, so that all routes do the same work."""
    rng = np.random.default_rng(0)
    return [
        {
            "model": "policy", "prompt": rng.integers(5, 2800, PROMPT_TOKENS).tolist(), "max_tokens": NEW_TOKENS,
            "ignore_eos": True, "temperature": 1.0,
        }
        for _ in range(count)
    ]  # fmt: skip


Work = Callable[[dict[str, Any]], Awaitable[int]]


async def rate(work: Work, count: int, concurrency: int) -> float:
    """Tokens a second of ``count`` requests, that many at once."""
    gate = asyncio.Semaphore(concurrency)

    async def one(request: dict[str, Any]) -> int:
        async with gate:
            return await work(request)

    begun = time.perf_counter()
    tokens = sum(await asyncio.gather(*(one(request) for request in requests(count))))
    assert tokens == count * NEW_TOKENS, f"{tokens} tokens"
    return tokens / (time.perf_counter() - begun)


def raw_route(engine: ServingEngine) -> Work:
    """The same engine, fed directly in this process; detokenises as the endpoint does."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    numbers = itertools.count()

    async def work(request: dict[str, Any]) -> int:
        params = SamplingParams(
            max_tokens=NEW_TOKENS, ignore_eos=True, temperature=1.0, output_kind=RequestOutputKind.FINAL_ONLY
        )
        prompt = {"prompt_token_ids": request["prompt"]}
        outputs = [output async for output in engine.raw.generate(prompt, params, f"raw-{next(numbers)}")]
        return len(outputs[-1].outputs[0].token_ids)

    return work


def whole_route(session: aiohttp.ClientSession, url: str) -> Work:
    """Through the endpoint, not streamed."""

    async def work(request: dict[str, Any]) -> int:
        async with session.post(url + "/completions", json=request) as reply:
            return int((await reply.json())["usage"]["completion_tokens"])

    return work


def streamed_route(session: aiohttp.ClientSession, url: str, interval: int | None) -> Work:
    """Through the endpoint, streamed with that many tokens a chunk; None leaves it to the endpoint."""
    more = {"stream": True, "stream_options": {"include_usage": True}}
    if interval:
        more["stream_interval"] = interval

    async def work(request: dict[str, Any]) -> int:
        last = {}
        async with session.post(url + "/completions", json={**request, **more}) as reply:
            async for line in reply.content:
                if line.startswith(b"data: {") and b'"usage":{' in line:
                    last = json.loads(line[6:])
        return int(last["usage"]["completion_tokens"])

    return work


@contextlib.contextmanager
def endpoint_of(versions: list[Path], config: ServeConfig) -> Iterator[tuple[Endpoint, ServingFolder]]:
    """An endpoint of a fresh cluster; version 0, the first, is current."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder = ServingFolder(root)
        folder.promote(versions[0], describe(versions[0], 0), MEASURED, "benchmark")
        cluster = ClusterConfig(num_cpus=None if config.gpus_per_replica else 2)
        with start_cluster(cluster, root), serving(folder, config, SETTINGS, 300, 120) as endpoint:
            yield endpoint, folder


async def throughput(title: str, model: Path, url: str, count: int, levels: list[int]) -> None:
    """One table: tokens a second by route and concurrency, with the share of the raw engine's.

    The routes take turns, so that a machine that is slower for a while is so for all of them; the share is taken turn
    by turn.
    """
    engine = await ServingEngine.start(model, SETTINGS, serve_config())
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            routes = {
                RAW: raw_route(engine),
                "not streamed": whole_route(session, url),
                "streamed": streamed_route(session, url, None),
                "streamed, 1 token a chunk": streamed_route(session, url, 1),
            }
            found: dict[tuple[str, int], list[float]] = {}
            for level, turn in itertools.product(levels, range(1 + TURNS)):
                for name, work in routes.items():
                    speed = await rate(work, count, level)
                    if turn:  # the first warms up
                        found.setdefault((name, level), []).append(speed)
    finally:
        engine.close()
    print(f"\n{title}: {count} requests of {PROMPT_TOKENS} + {NEW_TOKENS} tokens, tokens/s, median of {TURNS} turns")
    print("| route | " + " | ".join(f"{level} at once" for level in levels) + " |")
    print("|---|" + "---|" * len(levels))
    for name in routes:
        print(f"| {name} | " + " | ".join(_cell(found[name, level], found[RAW, level]) for level in levels) + " |")


def _cell(speeds: list[float], raw: list[float]) -> str:
    shares = np.array(speeds) / np.array(raw)
    share = "" if speeds is raw else f" ({np.median(shares):.2f}, {shares.min():.2f} to {shares.max():.2f})"
    return f"{np.median(speeds):,.0f}{share}"


async def _stream(session: aiohttp.ClientSession, url: str, record: dict[str, Any]) -> AsyncIterator[float]:
    """One streamed request: yields the arrival times of its chunks."""
    body = {**requests(1)[0], "max_tokens": 64, "stream": True}
    async with session.post(url + "/completions", json=body) as reply:
        record["status"], record["header"] = reply.status, reply.headers.get("x-isogloss-version")
        async for line in reply.content:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                assert "error" not in event, event
                record["versions"].append(event["isogloss"]["version"])
                record["tokens"] += 1
                yield time.monotonic()
            elif line.startswith(b"data: [DONE]"):
                record["done"] = True


async def _load(url: str, over: asyncio.Event, records: list[dict[str, Any]]) -> None:
    async with aiohttp.ClientSession() as session:
        while not over.is_set():
            record: dict[str, Any] = {"begun": time.monotonic(), "versions": [], "tokens": 0, "done": False}
            arrivals = [at async for at in _stream(session, url, record)]
            record["first"], record["end"] = arrivals[0], arrivals[-1]
            record["gap"] = max(np.diff(arrivals), default=0.0)
            records.append(record)


async def swaps(endpoint: Endpoint, folder: ServingFolder, models: list[Path], count: int, clients: int) -> None:
    """Hot swaps under a constant load of streaming clients."""
    over = asyncio.Event()
    records: list[Any] = []
    moments: list[Any] = []
    versions = [(model, describe(model, number)) for number, model in enumerate(models)]
    load = [asyncio.create_task(_load(endpoint.url, over, records)) for _ in range(clients)]
    await asyncio.sleep(3)
    for number in range(count):
        version = 1 - number % 2
        model, manifest = versions[version]
        begun = time.monotonic()
        folder.promote(model, manifest, MEASURED, "benchmark")
        status = await asyncio.to_thread(endpoint.wait_for, version, 60)
        moments.append((begun, time.monotonic()))
        assert all(row["checksum"] == manifest.checksum for row in status["replicas"].values())
        await asyncio.sleep(0.5)
    over.set()
    await asyncio.gather(*load)  # raises if any request failed
    _report_swaps(records, moments, clients)


def _report_swaps(records: list[dict[str, Any]], moments: list[tuple[float, float]], clients: int) -> None:
    failed = [r for r in records if r["status"] != 200 or not r["done"] or not r["tokens"]]
    unnamed = [r for r in records if not r["header"] or not all(r["versions"])]
    mixed = [r for r in records if len({v for v in r["versions"] if "-" not in v}) > 1]
    unmarked = [r for r in records if len(set(r["versions"])) > 1 and not any("-" in v for v in r["versions"])]
    spans = [r for r in records if any("-" in v for v in r["versions"])]
    assert not failed, failed[:3]
    assert not unnamed, unnamed[:3]
    assert not mixed, mixed[:3]
    assert not unmarked, unmarked[:3]

    def touches(record: dict[str, Any]) -> bool:
        return any(record["begun"] <= end and record["end"] >= begin for begin, end in moments)

    near = [r for r in records if touches(r)]
    calm = [r for r in records if not touches(r)] or records
    seconds = [end - begin for begin, end in moments]
    base = np.median([r["first"] - r["begun"] for r in calm])
    waits = np.array([r["first"] - r["begun"] for r in near]) - base
    print(f"\n{len(moments)} hot swaps, {clients} streaming clients, {len(records)} replies")
    print("| | p50 | p99 |")
    print("|---|---|---|")
    for name, values in (
        ("swap, from promotion to proof in the replica, s", np.array(seconds)),
        ("time to first token away from swaps, s", np.array([r["first"] - r["begun"] for r in calm])),
        ("added to it at a swap, s", waits),
        ("longest gap in a stream at a swap, s", np.array([r["gap"] for r in near])),
    ):
        print(f"| {name} | {np.percentile(values, 50):.3f} | {np.percentile(values, 99):.3f} |")
    print(
        f"failed or dropped 0, without a version 0, mixed and not marked 0, marked as spanning {len(spans)}", flush=True
    )


def other_version(folder: Path) -> Path:
    """The embedded world's policy with noise on every weight."""
    model = AutoModelForCausalLM.from_pretrained(POLICY, dtype="auto")
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: value.detach() + 0.02 * torch.randn(value.shape, generator=generator)
        for name, value in model.named_parameters()
    }
    write_model_folder(folder, weights, POLICY, "float32")
    return folder


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--drain", type=float, default=5.0, help="serve.drain_s")
    parser.add_argument("--parts", default="swaps,tiny,large")
    parser.add_argument("--gpu", action="store_true", help="swaps: the replica has a GPU")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if "swaps" in arguments.parts:
            models = [POLICY, other_version(Path(name) / "other")]
            on = {"gpus_per_replica": 1.0, "kv_cache_gb": 8.0} if arguments.gpu else {}
            with endpoint_of(models, serve_config(drain_s=arguments.drain, **on)) as (endpoint, folder):
                asyncio.run(swaps(endpoint, folder, models, arguments.swaps, arguments.clients))
        kinds = {
            "tiny": ("1.0 M parameters (embedded world)", lambda: POLICY),
            "large": ("Llama 512 x 8", lambda: random_llama(Path(name) / "large")),
        }
        for kind, (title, make) in kinds.items():
            if kind in arguments.parts:
                model = make()
                with endpoint_of([model], serve_config()) as (endpoint, _):
                    asyncio.run(throughput(title, model, endpoint.url, 64, [16, 64]))


if __name__ == "__main__":
    main()
