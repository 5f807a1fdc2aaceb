"""New weights into two rollout engines, in one run: by Ray's object store, by broadcast, and by vLLM's own reload.

    python -m benchmarks.sync [--turns 5] [--sizes 512x8 768x17 1024x20]

Time begins with the weights in the process that trains, and ends when both engines have loaded and proven them: by
checksum, by a probe's log-probabilities, the prefix cache reset. vLLM's own reload is ``reload_weights`` of two bare
engines at the same time, with the tensors in their process already. What must hold is asserted: after each turn both
of our engines give the same greedy tokens, and other ones than with the weights before. Sizes are hidden size and
layers of a random Llama: 28, 135 and 270 M parameters. Writes ``runs/bench/sync.json`` and ``sync.md``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.runtime.env import apply_driver_env

apply_driver_env()

import ray  # noqa: E402  # after the environment
import torch  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

from actors.engine.rollout import create_rollout_actor  # noqa: E402
from actors.runtime.calls import call  # noqa: E402
from actors.runtime.cluster import start_cluster  # noqa: E402
from actors.runtime.env import rollout_env, runtime_env  # noqa: E402
from actors.train.publish import broadcast  # noqa: E402
from benchmarks.serving import random_llama  # noqa: E402
from benchmarks.workload import report  # noqa: E402
from configs.load import load_config  # noqa: E402
from configs.running import ClusterConfig  # noqa: E402
from configs.schema import Config  # noqa: E402
from learners.broadcast import send  # noqa: E402
from learners.logprobs import LogprobModel  # noqa: E402
from learners.manifest import WeightsManifest  # noqa: E402
from learners.rendezvous import Rendezvous  # noqa: E402
from learners.weights import checksum, describe_weights, dtype_name, from_numpy, to_numpy  # noqa: E402
from rollout.plan import Chunk, Request  # noqa: E402
from rollout.records import CandidateKey  # noqa: E402

CPU = torch.device("cpu")
WAYS = ("objects", "broadcast", "reload")


def _answers(engine: Any) -> ray.ObjectRef:
    """Begin, end and greedy answers of an engine."""
    reference: ray.ObjectRef = next(engine.generate.options(num_returns="streaming").remote([greedy()]))
    return reference


class Trainer:
    """A process that has weights, as the learner's rank 0 has them when a round is trained."""

    def __init__(self, folder: Path) -> None:
        self._model = LlamaForCausalLM.from_pretrained(folder)
        self._weights: dict[str, torch.Tensor] = {}
        self._manifest: WeightsManifest | None = None

    def step(self, version: int) -> WeightsManifest:
        """Change all weights, and describe them."""
        generator = torch.Generator().manual_seed(version)
        with torch.no_grad():
            for parameter in self._model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.01)
        self._weights = {name: value.detach().clone() for name, value in self._model.named_parameters()}
        scorer = LogprobModel(self._model, 64)
        size = self._model.config.vocab_size
        digest = checksum(self._weights)
        self._manifest = describe_weights(
            version, self._weights, digest, scorer, size, dtype=dtype_name(scorer.head.weight), place=CPU
        )
        return self._manifest

    def put(self) -> list[ray.ObjectRef]:
        """The weights in the object store."""
        return [ray.put(to_numpy(self._weights))]

    def send(self, rendezvous: Rendezvous) -> None:
        """The weights to all who are there."""
        assert self._manifest is not None
        send(rendezvous, self._manifest, self._weights, CPU)


class Reloader:
    """vLLM as one finds it, which takes new weights by its own ``reload_weights``."""

    def __init__(self, folder: str, max_length: int, kv_cache_gib: float) -> None:
        from vllm import LLM

        self._llm = LLM(
            model=folder, dtype="float32", max_model_len=max_length, enforce_eager=True, block_size=32,
            kv_cache_memory_bytes=int(kv_cache_gib * 2**30), generation_config="vllm", disable_log_stats=True,
        )  # fmt: skip

    def ready(self) -> None:
        """Answers once the engine is up."""

    def reload(self, manifest: WeightsManifest, weights: list[ray.ObjectRef]) -> float:
        """Seconds of the reload alone."""
        tensors = from_numpy(ray.get(weights[0]), manifest)
        begun = time.perf_counter()
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(tensors.items())})
        return time.perf_counter() - begun


TRAINER: Any = ray.remote(num_cpus=0.5)(Trainer)
RELOADER: Any = ray.remote(num_cpus=0.5)(Reloader)


@contextmanager
def team(config: Config, folder: Path) -> Iterator[tuple[Any, list[Any], list[Any]]]:
    """The trainer, our engines and the bare ones."""
    with tempfile.TemporaryDirectory() as run, start_cluster(ClusterConfig(num_cpus=2), Path(run)):
        trainer = TRAINER.remote(folder)
        engines = [create_rollout_actor(config, folder, 0, index) for index in range(config.rollout.actors)]
        options = RELOADER.options(num_cpus=0, runtime_env=runtime_env(rollout_env()))
        settings = (str(folder), config.model.max_length, config.rollout.kv_cache_gb)
        bare = [options.remote(*settings) for _ in engines]
        call([engine.ready.remote() for engine in (*engines, *bare)], 300, "engines to start")
        yield trainer, engines, bare


def sync(way: str, config: Config, trainer: Any, engines: list[Any], manifest: WeightsManifest) -> list[Any]:
    """The trainer's weights into all engines, one way or the other; their reports."""
    if way == "objects":
        weights = call(trainer.put.remote(), 120, "objects")
        return list(call([engine.sync.remote(manifest, weights) for engine in engines], 120, "objects"))
    with ThreadPoolExecutor(1) as thread:

        def sending(rendezvous: Rendezvous) -> Future[None]:
            return thread.submit(call, trainer.send.remote(rendezvous), 120, "broadcast")

        return broadcast(config, engines, manifest, sending)


def greedy() -> Chunk:
    """Eight prompts, answered greedily."""
    keys = [CandidateKey(1, f"p{index}", "en", "policy", "en", 0) for index in range(8)]
    requests = [
        Request(key, f"What is {index} and {index}?", "", 0.0, 1.0, -1, 16, index) for index, key in enumerate(keys)
    ]
    return Chunk("r0001/answer/en/000", 1, "answer", "en", "en", tuple(requests))


def measure(hidden: int, layers: int, turns: int) -> dict[str, Any]:
    """Seconds of all turns by way, and the size in MiB."""
    with tempfile.TemporaryDirectory() as place:
        folder = random_llama(Path(place) / "model", hidden, layers)
        overrides = [f"model.policy={folder}", "rollout.kv_cache_gb=0.25", "rollout.actors=2"]
        config = load_config(Path("configs/icr.yaml"), overrides)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        with team(config, folder) as (trainer, engines, bare):
            before: list[Any] = []
            for turn in range(len(WAYS) * (turns + 1)):
                way = WAYS[(turn + turn // len(WAYS)) % len(WAYS)]  # none is always after the same one
                manifest = call(trainer.step.remote(turn + 1), 120, "a step")
                begun = time.perf_counter()
                if way == "reload":
                    weights = call(trainer.put.remote(), 120, "objects")
                    spent = max(call([one.reload.remote(manifest, weights) for one in bare], 120, "reload"))
                else:
                    reports = sync(way, config, trainer, engines, manifest)
                    spent = time.perf_counter() - begun
                    assert [report.version for report in reports] == [turn + 1] * 2
                    answers = call([_answers(engine) for engine in engines], 120, "answers")
                    one, two = ([candidate.token_ids for candidate in found] for _, _, (_, found) in answers)
                    assert one == two != before
                    before = one
                if turn >= len(WAYS):  # each way once to warm up
                    seconds[way].append(spent)
        return {"mib": (folder / "model.safetensors").stat().st_size / 2**20, "seconds": seconds}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="measured turns of each way")
    parser.add_argument("--sizes", nargs="+", default=["512x8", "768x17", "1024x20"], help="hidden size x layers")
    given = parser.parse_args()
    result: dict[str, Any] = {"ratios": {}, "sizes": {}}
    table = [
        "| float32 weights | objects | broadcast (gloo) | vLLM's reload alone | objects / reload |",
        "|---|---|---|---|---|",
    ]
    for name in given.sizes:
        hidden, layers = map(int, name.split("x"))
        found = measure(hidden, layers, given.turns)
        medians = {way: statistics.median(values) for way, values in found["seconds"].items()}
        ratio = medians["objects"] / medians["reload"]
        result["ratios"][name], result["sizes"][name] = ratio, found
        cells = [
            f"{medians[way]:.2f} s ({min(values):.2f} to {max(values):.2f})" for way, values in found["seconds"].items()
        ]
        table.append(f"| {found['mib']:.0f} MiB | {' | '.join(cells)} | {ratio:.2f} |")
        report("sync", result, table)


if __name__ == "__main__":
    main()
