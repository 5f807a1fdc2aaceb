"""Sampling by our actors against bare ``LLM.generate`` of the same requests, in one run.

    python -m benchmarks.rollout [--sizes 1m_32 135m_64] [--model FOLDER] [--turns 3]

Two rollout actors of one thread, fed as a run feeds them, take turns with two bare engines of one thread, each given
its half of the requests in one call, and with one bare engine of two threads given all; with ``--gpu`` one actor on a
GPU with one bare engine on it. What is compared is completion
tokens a second. Asserted: greedy answers of our actors are those of a bare engine, and all samples are there. A size
such as ``135m_64:4`` is one of four prompts, to see that all runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from actors.runtime.env import apply_driver_env

apply_driver_env()

import ray  # noqa: E402  # after the environment

from actors.engine.device import device_settings  # noqa: E402
from actors.engine.rollout import create_rollout_actor  # noqa: E402
from actors.runtime.calls import call  # noqa: E402
from actors.runtime.cluster import start_cluster  # noqa: E402
from actors.runtime.env import rollout_env, runtime_env  # noqa: E402
from actors.runtime.pool import Call, Pool, drain  # noqa: E402
from benchmarks.workload import OUT, Size, add_sizes, chosen_sizes, config_of, report  # noqa: E402
from configs.running import ClusterConfig  # noqa: E402
from configs.schema import Config  # noqa: E402
from learners.encode import ChatEncoder  # noqa: E402
from rollout.feeds import deal  # noqa: E402
from rollout.plan import Chunk, answer_chunks  # noqa: E402
from rollout.prompts import PromptSet  # noqa: E402
from rollout.records import Candidate  # noqa: E402
from rollout.staleness import sampler_has_reference  # noqa: E402

Asked = list[tuple[list[int], float, int]]  # prompt ids, temperature, longest answer


class Bare:
    """vLLM as one finds it, with the settings that suit this machine (docs/benchmarks.md)."""

    def __init__(self, folder: str, settings: dict[str, Any]) -> None:
        from vllm import LLM

        self._llm = LLM(
            model=folder, max_num_batched_tokens=4096, enable_prefix_caching=True, generation_config="vllm",
            disable_log_stats=True, **settings,
        )  # fmt: skip

    def ready(self) -> int:
        return 0

    def generate(self, asked: Asked, end: int, logprobs: bool) -> list[tuple[int, ...]]:
        from vllm import SamplingParams, TokensPrompt

        self._llm.reset_prefix_cache()
        outputs = self._llm.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids, _, _ in asked],
            [
                SamplingParams(
                    temperature=temperature,
                    max_tokens=most,
                    stop_token_ids=[end],
                    detokenize=False,
                    logprobs=0 if logprobs else None,
                    flat_logprobs=logprobs,
                )
                for _, temperature, most in asked
            ],
            use_tqdm=False,
        )
        return [tuple(output.outputs[0].token_ids) for output in outputs]


BARE: Any = ray.remote(num_cpus=0.5)(Bare)


def ours(pool: Pool, feeds: list[list[Chunk]]) -> tuple[float, list[Candidate]]:
    """Seconds, and what was sampled."""
    found: list[Candidate] = []
    begun = time.perf_counter()
    for feed in feeds:
        pool.submit(
            Call(
                f"generate {feed[0].id}", "generate", (feed,), lambda _b, _e, part: found.extend(part[1]), streams=True
            )
        )
    drain([pool], lambda: False)
    return time.perf_counter() - begun, found


def bare(engines: list[Any], parts: list[Asked], end: int, *, logprobs: bool) -> tuple[float, list[tuple[int, ...]]]:
    """Seconds, and the answers' tokens, of engines that each get a part; ``logprobs``: they give those as well."""
    begun = time.perf_counter()
    found = call(
        [one.generate.remote(part, end, logprobs) for one, part in zip(engines, parts, strict=True)],
        900,
        "bare engines",
    )
    return time.perf_counter() - begun, [tokens for part in found for tokens in part]


def measure(size: Size, dtype: str, turns: int, *, gpu: bool) -> dict[str, Any]:
    """All turns of a size."""
    with tempfile.TemporaryDirectory() as name:
        config = config_of(size, Path(name), dtype, gpu=gpu)
        with start_cluster(ClusterConfig(num_cpus=None if gpu else 2), Path(name)):
            return _measured(config, size, turns)


def _engines(config: Config, size: Size) -> dict[str, list[Any]]:
    """Bare engines by the column that they stand in."""
    rollout, gpu = config.rollout, config.rollout.gpus_per_actor > 0
    how = {
        "dtype": config.model.dtype, "max_model_len": config.model.max_length,
        "kv_cache_memory_bytes": int(rollout.kv_cache_gb * 2**30), "max_num_seqs": rollout.max_num_seqs,
        "enforce_eager": not gpu, "async_scheduling": gpu, **device_settings(gpu),
    }  # fmt: skip
    made = BARE.options(num_gpus=rollout.gpus_per_actor, runtime_env=runtime_env(rollout_env(gpu)))
    found = {"bare": [made.remote(str(size.model), how) for _ in range(rollout.actors)]}
    if not gpu:
        two_threads = {**rollout_env(), "OMP_NUM_THREADS": "2"}
        found["one_with_two_threads"] = [
            BARE.options(num_cpus=0, runtime_env={"env_vars": two_threads}).remote(str(size.model), how)
        ]
    return found


def _measured(config: Config, size: Size, turns: int) -> dict[str, Any]:
    encoder, count = ChatEncoder(size.model, config.model.add_bos), config.rollout.actors
    feeds = deal(config.rollout, answer_chunks(config, PromptSet.from_config(config), 1))
    assert len(feeds) % count == 0
    parts: list[Asked] = [
        [
            (encoder.prompt_ids(request.prompt), request.temperature, request.max_new_tokens)
            for feed in feeds[part::count] for chunk in feed for request in chunk.requests
        ]
        for part in range(count)
    ]  # fmt: skip
    whole = [one for part in parts for one in part]
    end = encoder.end_of_turn_id
    logprobs = sampler_has_reference(config, 1)  # then ours give log-probabilities, and so do the bare ones
    pool = Pool("rollout actor", lambda i: create_rollout_actor(config, size.model, 0, i), count, 900, 0)
    engines = _engines(config, size)
    call([*pool.start(), *(one.ready.remote() for each in engines.values() for one in each)], 600, "engines to start")
    _check(pool, feeds, engines["bare"][0], parts, end)
    rates: dict[str, list[float]] = {"ours": [], **{what: [] for what in engines}}
    for turn in range(turns + 1):  # the first is for warming up
        seconds, candidates = ours(pool, feeds)
        assert len(candidates) == len(whole)
        got = {"ours": sum(len(one.token_ids) for one in candidates) / seconds}
        for what, who in engines.items():
            seconds, tokens = bare(who, parts if len(who) == count else [whole], end, logprobs=logprobs)
            assert len(tokens) == len(candidates)
            got[what] = sum(map(len, tokens)) / seconds
        if turn:
            for what, rate in got.items():
                rates[what].append(rate)
    return rates


def _check(pool: Pool, feeds: list[list[Chunk]], engine: Any, parts: list[Asked], end: int) -> None:
    """Greedily, the first requests give the same tokens here and there."""
    chunk = feeds[0][0]
    requests = tuple(dataclasses.replace(one, temperature=0.0, max_new_tokens=8) for one in chunk.requests[:8])
    _, candidates = ours(pool, [[dataclasses.replace(chunk, requests=requests)]])
    asked = [(ids, 0.0, 8) for ids, _, _ in parts[0][:8]]
    _, tokens = bare([engine], [asked], end, logprobs=False)
    assert [one.token_ids for one in candidates] == tokens, "greedy answers differ"


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sizes(parser, ["1m_32", "135m_64"])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--gpu", action="store_true", help="one actor and one bare engine on a GPU")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of rollout.json and rollout.md")
    given = parser.parse_args()
    chosen = chosen_sizes(given)
    result: dict[str, Any] = {"ratios": {}, "rates": {}, "load_before": os.getloadavg()}
    table = [
        "| size | here, tokens/s | bare engines | ours / bare | one bare engine of two threads |",
        "|---|---|---|---|---|",
    ]
    for size in chosen:
        rates = measure(size, "float32" if size.small else "bfloat16", given.turns, gpu=given.gpu)
        shares = [mine / theirs for mine, theirs in zip(rates["ours"], rates["bare"], strict=True)]
        middle = {what: f"{statistics.median(values):,.0f}" for what, values in rates.items()}
        share = statistics.median(shares)
        result["ratios"][size.name], result["rates"][size.name] = share, rates
        table.append(
            f"| {size.name} | {middle['ours']} | {middle['bare']} | {share:.2f} ({min(shares):.2f} to "
            f"{max(shares):.2f}) | {middle.get('one_with_two_threads', '')} |"
        )
        report("rollout", result, table, given.out)


if __name__ == "__main__":
    main()
