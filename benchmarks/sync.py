"""New weights into two rollout engines, in one run: by broadcast against Ray's object store.

    python -m benchmarks.sync [--turns 5]

Prints a table for docs/benchmarks.md. Time begins with the weights in the process that trains, and ends when both
engines have loaded and proven them. What must hold is asserted: after each turn both engines give the same greedy
tokens, and other ones than with the weights before.
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
from actors.train.publish import broadcast  # noqa: E402
from benchmarks.serving import random_llama  # noqa: E402
from configs.load import load_config  # noqa: E402
from configs.running import ClusterConfig  # noqa: E402
from configs.schema import Config  # noqa: E402
from learners.broadcast import send  # noqa: E402
from learners.logprobs import LogprobModel  # noqa: E402
from learners.manifest import WeightsManifest  # noqa: E402
from learners.rendezvous import Rendezvous  # noqa: E402
from learners.weights import checksum, describe_weights, to_numpy  # noqa: E402
from rollout.plan import Chunk, Request  # noqa: E402
from rollout.records import CandidateKey  # noqa: E402

CPU = torch.device("cpu")
WAYS = ("objects", "broadcast")


def _answers(engine: Any) -> ray.ObjectRef:
    """Begin, end and greedy answers of an engine."""
    reference: ray.ObjectRef = next(engine.generate.options(num_returns="streaming").remote([greedy()]))
    return reference


@ray.remote(num_cpus=0.5)
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
        self._manifest = describe_weights(version, self._weights, checksum(self._weights), scorer, size, place=CPU)
        return self._manifest

    def put(self) -> list[ray.ObjectRef]:
        """The weights in the object store."""
        return [ray.put(to_numpy(self._weights))]

    def send(self, rendezvous: Rendezvous) -> None:
        """The weights to all who are there."""
        assert self._manifest is not None
        send(rendezvous, self._manifest, self._weights, CPU)


@contextmanager
def team(config: Config, folder: Path) -> Iterator[tuple[Any, list[Any]]]:
    """The trainer, and the engines."""
    with tempfile.TemporaryDirectory() as run, start_cluster(ClusterConfig(num_cpus=2), Path(run)):
        trainer = Trainer.remote(folder)
        engines = [create_rollout_actor(config, folder, 0, index) for index in range(config.rollout.actors)]
        call([engine.ready.remote() for engine in engines], 300, "engines to start")
        yield trainer, engines


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


def measure(hidden: int, layers: int, turns: int) -> str:
    """One row: the model's size, both medians, their ratio."""
    with tempfile.TemporaryDirectory() as place:
        folder = random_llama(Path(place) / "model", hidden, layers)
        size = (folder / "model.safetensors").stat().st_size / 2**20
        overrides = [f"model.policy={folder}", "rollout.kv_cache_gb=0.0625", "rollout.actors=2"]
        config = load_config(Path("configs/icr.yaml"), overrides)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        with team(config, folder) as (trainer, engines):
            before: list[Any] = []
            for turn in range(2 * turns + 2):
                way = WAYS[(turn + turn // 2) % 2]  # a b b a a b: neither is always the second
                manifest = call(trainer.step.remote(turn + 1), 120, "a step")
                begun = time.perf_counter()
                reports = sync(way, config, trainer, engines, manifest)
                spent = time.perf_counter() - begun
                if turn >= 2:  # each way once to warm up
                    seconds[way].append(spent)
                assert [report.version for report in reports] == [turn + 1] * 2
                answers = call([_answers(engine) for engine in engines], 120, "answers")
                one, two = ([candidate.token_ids for candidate in found] for _, _, (_, found) in answers)
                assert one == two != before
                before = one
        medians = [statistics.median(seconds[way]) for way in WAYS]
        spread = [f"{min(seconds[way]):.2f} to {max(seconds[way]):.2f}" for way in WAYS]
        return (
            f"| {size:.0f} MiB | {medians[0]:.2f} s ({spread[0]}) | {medians[1]:.2f} s ({spread[1]}) | "
            f"{medians[1] / medians[0]:.2f} |"
        )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="measured turns of each way")
    turns = parser.parse_args().turns
    print("| float32 weights | objects | broadcast (gloo) | ratio |\n|---|---|---|---|")
    for hidden, layers in ((512, 8), (1024, 12)):
        print(measure(hidden, layers, turns), flush=True)


if __name__ == "__main__":
    main()
