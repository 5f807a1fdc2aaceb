"""The rollout actor: a vLLM engine behind Ray that turns chunks of requests into candidates."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import ray
from ray.util.placement_group import PlacementGroup

from actors.engine.requests import EngineRequest
from actors.engine.sync_report import SyncReport
from actors.engine.worker_actor import WorkerActor
from actors.runtime.env import rollout_env
from actors.runtime.spawn import ActorOptions, absolute_dump, actor_name, spawn
from configs.errors import UserError
from configs.json_types import JsonObject
from configs.schema import Config
from learners.checkpoint_layout import ADAPTER_FOLDER, publishes_adapter
from learners.encode import ChatEncoder
from learners.manifest import WeightsManifest
from learners.rendezvous import Rendezvous
from rollout.plan import Chunk, finish_candidate
from rollout.records import Candidate, Turns
from rollout.staleness import sampler_has_reference


class RolloutWorker:
    """What a rollout actor does, as a plain class (``RolloutActor`` is this behind Ray).

    Args:
        config: The run's config, as ``Config.model_dump(mode="json")``.
        folder: Hugging Face folder of the weights to begin with. Where adapters are published, its adapter is put
            over ``model.policy``, the weights of version 0.
        version: Their weight version.
        name: For messages.
        restarted: Ray started this process again: the weights are not the newest, so it is STALE.
    """

    def __init__(
        self, config: JsonObject, folder: Path, version: int, name: str = "rollout", restarted: bool = False
    ) -> None:
        # Late: the driver imports this module too, and torch would cost it a second.
        from actors.engine.vllm_engine import VllmEngine

        begun = time.perf_counter()
        self._config = Config.model_validate(config)
        rollout, model = self._config.rollout, self._config.model
        self._encoder = ChatEncoder.of(model, Path(folder))
        adapts = publishes_adapter(self._config.learner)
        self._engine = VllmEngine(
            model.policy if adapts else Path(folder),
            model.dtype,
            model.max_length,
            rollout.kv_cache_gb,
            rollout.max_num_seqs,
            tensor_parallel=rollout.tensor_parallel,
            seed=self._config.run.seed,
            gpu=rollout.gpus_per_actor > 0,
            version=version,
            name=name,
            lora=self._config.learner.lora if adapts else None,
            adapter=Path(folder) / ADAPTER_FOLDER if adapts and version > 0 else None,
            enforce_eager=rollout.eager,
            async_scheduling=rollout.plans_ahead,
            sleeps=self._config.colocated,
        )
        if restarted:
            self._engine.mark_stale("restarted with the weights it began with; needs a refit")
        self._stats: defaultdict[str, float] = defaultdict(float)
        self._stats["start_seconds"] = time.perf_counter() - begun

    def version(self) -> int:
        """Weight version that the engine computes with."""
        return self._engine.version

    def generate(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, list[Candidate]]]:
        """Sample every request of all chunks, without a pause between them.

        Yields:
            Number of a chunk and its candidates, in the order of its requests; in the order in which chunks are done.

        Raises:
            IllegalTransition: The engine is STALE.
            UserError: A prompt is too long; names its id and language.
        """
        prompts: dict[tuple[Turns, str], tuple[int, ...]] = {}
        begun = time.perf_counter()
        for number, outputs in self._engine.stream(self._requests(chunk, prompts) for chunk in chunks):
            chunk, version = chunks[number], self._engine.version
            candidates = [
                finish_candidate(
                    request.key, output.text, output.token_ids, output.finish_reason, version, logprobs=output.logprobs
                )
                for request, output in zip(chunk.requests, outputs, strict=True)
            ]
            self._stats["generate_seconds"] += time.perf_counter() - begun
            self._stats["generate_calls"] += 1
            self._stats["prompt_tokens"] += sum(len(prompts[one.prompt, one.prime]) for one in chunk.requests)
            self._stats["completion_tokens"] += sum(len(output.token_ids) for output in outputs)
            yield number, candidates
            begun = time.perf_counter()

    def _requests(self, chunk: Chunk, prompts: dict[tuple[Turns, str], tuple[int, ...]]) -> list[EngineRequest]:
        requests = []
        logprobs = chunk.stage == "answer" and sampler_has_reference(self._config, chunk.round)
        for request in chunk.requests:
            text = (request.prompt, request.prime)
            if text not in prompts:
                prompts[text] = tuple(self._encoder.prompt_ids(*text))
                self._check_room(prompts[text], request.key.prompt_id, request.key.language)
            requests.append(
                EngineRequest(
                    prompts[text],
                    request.temperature,
                    request.top_p,
                    request.top_k,
                    request.max_new_tokens,
                    request.seed,
                    self._encoder.stop_ids,
                    request.min_p,
                    request.repetition_penalty,
                    request.stop,
                    logprobs,
                )
            )
        return requests

    def _check_room(self, ids: Sequence[int], prompt_id: str, language: str) -> None:
        limit = self._config.model.max_length
        if len(ids) >= limit:
            raise UserError(
                f"prompt '{prompt_id}' ({language}) has {len(ids)} tokens, which leaves no room in model.max_length "
                f"{limit}; raise it or remove the prompt"
            )

    def receive(self, manifest: WeightsManifest, rendezvous: Rendezvous) -> SyncReport:
        """Update to the weights that the learner broadcasts and prove it.

        Args:
            manifest: What is published.
            rendezvous: Where, with the seat of the engine's first process.

        Raises:
            SyncError: Refused, or not all got them, or not proven; the actor is STALE.
        """
        begun = time.perf_counter()
        report = self._engine.receive_weights(manifest, rendezvous)
        self._count_sync(begun)
        return report

    def sync(self, manifest: WeightsManifest, weights: list[ray.ObjectRef]) -> SyncReport:
        """Update to the published weights and prove it.

        Args:
            manifest: What was published.
            weights: One reference to the arrays, in a list so that Ray does not resolve it: the arrays are then
                read in place, without a copy.

        Raises:
            SyncError: Refused or not proven; the actor is STALE.
        """
        begun = time.perf_counter()
        try:
            tensors = ray.get(weights[0])
        except ray.exceptions.RayError as error:
            self._engine.mark_stale(f"weights of version {manifest.version} could not be fetched: {error}")
            raise
        fetched = time.perf_counter() - begun
        report = self._engine.update_weights(manifest, tensors)
        report.seconds["fetch"] = fetched
        report.seconds["total"] += fetched
        self._count_sync(begun)
        return report

    def _count_sync(self, begun: float) -> None:
        self._stats["sync_seconds"] += time.perf_counter() - begun
        self._stats["sync_calls"] += 1

    def turn(self, mine: bool) -> None:
        """Take the GPUs, or leave them to another stage (``cluster.colocate``)."""
        if mine:
            self._engine.wake()
        else:
            self._engine.rest()

    def stats(self) -> dict[str, float]:
        """Counters since the start: seconds, calls and tokens; memory (GiB); process id."""
        return {**self._stats, **self._engine.memory(), "version": self._engine.version, "pid": os.getpid()}


@ray.remote
class RolloutActor(WorkerActor[RolloutWorker]):
    """``RolloutWorker`` behind Ray."""

    def __init__(self, config: JsonObject, folder: Path, version: int, name: str = "rollout") -> None:
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        super().__init__(name, lambda: RolloutWorker(config, folder, version, name, restarted))

    def generate(self, chunks: Sequence[Chunk]) -> Iterator[tuple[float, float, tuple[str, list[Candidate]]]]:
        """See ``RolloutWorker.generate``: since when a chunk was the next, when it was done (Unix seconds), its id and
        candidates. To be called with ``num_returns="streaming"``.
        """
        begin = time.time()
        for number, candidates in self._start.worker.generate(chunks):
            end = time.time()
            yield begin, end, (chunks[number].id, candidates)
            begin = end


def create_rollout_actor(
    config: Config, folder: Path, version: int, index: int, group: PlacementGroup | None = None
) -> ray.actor.ActorHandle:
    """Start a rollout actor; wait for it with ``call(actor.ready.remote(), ...)``.

    Args:
        config: The run.
        folder: Hugging Face folder of the weights to begin with.
        version: Their weight version.
        index: Which of the rollout actors; also its bundle in ``group``.
        group: Placement group of the rollout actors.
    """
    rollout = config.rollout
    gpu = rollout.gpus_per_actor > 0
    env = rollout_env(gpu, loopback=config.cluster.address is None)
    options = ActorOptions(rollout.cpus_per_actor, rollout.gpus_per_actor, env, group, index, threads=rollout.threads)
    name = actor_name(config.run.name, "rollout", index)
    return spawn(RolloutActor, name, options, absolute_dump(config), Path(folder), version, name)
