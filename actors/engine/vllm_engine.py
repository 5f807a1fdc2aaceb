"""The vLLM engine of a rollout actor: generation that repeats exactly, and verified weight updates."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch

from actors.engine.adapters import lora_settings, merged_is_the_cure
from actors.engine.device import device_settings
from actors.engine.feed import sample
from actors.engine.request_seeds import SEED
from actors.engine.requests import EngineRequest, Generated, until
from actors.engine.sync_report import SyncReport
from actors.engine.verify import check_manifest, check_probe, checked_tensors, expected_shapes
from actors.machine.vllm_check import check_vllm
from actors.runtime.env import apply_env, rollout_env
from actors.runtime.health import Health, State, SyncError
from configs.errors import UserError
from configs.json_types import JsonObject
from configs.schema import LoraConfig
from learners.lora import adapter_shapes, write_adapter
from learners.rendezvous import Rendezvous
from learners.weights import WeightsManifest, in_buckets

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.outputs import CompletionOutput

logger = logging.getLogger(__name__)

# Tokens of one step. 16384 was no faster on CPU.
_STEP_TOKENS = 4096

# Weights that go to the processes of a split engine at once.
PART_BYTES = 2**30


def _transfer_settings() -> JsonObject:
    from vllm.config import WeightTransferConfig

    from actors.engine.weight_transfer import BACKEND

    return {"weight_transfer_config": WeightTransferConfig(backend=BACKEND)}


def _logprobs(completion: CompletionOutput) -> bytes | None:
    """Those of the sampled tokens, as ``Generated.logprobs``."""
    found: Any = completion.logprobs
    if found is None:
        return None
    values = [found.logprobs[start] for start in found.start_indices]  # a position's first is the sampled token's
    return np.asarray(values, dtype="<f4").tobytes()


class VllmEngine:
    """A synchronous vLLM engine in this very process.

    **Repeatability.** ``stream`` and ``generate`` give the same tokens for the same requests in the same order,
    whichever engine they run on and whatever ran before: the prefix cache is emptied first, so that prefill happens
    in the same steps, and each request is drawn by a seed of its own (``actors.engine.request_seeds``; on GPUs vLLM's
    own). Besides, on a CPU with one thread a small model computes the same logits for a sequence to the last bit
    whatever shares the step; from some width on (576, not 128) the matrix products depend on how many rows they have,
    so that another list of requests can give other tokens.

    **Weights.** ``update_weights`` either leaves an engine proven to compute with the new weights, or raises
    and leaves it STALE: it then refuses to generate until an update succeeds.

    Args:
        model: Hugging Face folder.
        dtype: "float32" or "bfloat16".
        max_length: Longest prompt plus completion, in tokens.
        kv_cache_gib: Key-value cache, GiB.
        max_num_seqs: Sequences decoded at once.
        tensor_parallel: GPUs the model is split over.
        seed: Seeds what happens outside ``generate`` (nothing that matters).
        gpu: Whether the engine runs on GPUs.
        version: Weight version of ``model``.
        name: For messages.
        lora: Updates bring adapters of this kind for ``model``; without it they bring full weights.
        adapter: Folder of the adapter to begin with, as ``learners.lora.write_adapter`` writes it.
        enforce_eager: No CUDA graphs and no compilation.
        async_scheduling: A step is planned while the one before computes; on a CPU this only adds a thread.
        sleeps: Whether ``rest`` is to free its GPUs.

    Raises:
        UserError: vLLM is missing or of another version, or cannot apply adapters to this model.
    """

    def __init__(
        self,
        model: Path,
        dtype: str,
        max_length: int,
        kv_cache_gib: float,
        max_num_seqs: int,
        *,
        tensor_parallel: int = 1,
        seed: int = 0,
        gpu: bool = False,
        version: int = 0,
        name: str = "engine",
        lora: LoraConfig | None = None,
        adapter: Path | None = None,
        enforce_eager: bool = True,
        async_scheduling: bool = False,
        sleeps: bool = False,
    ) -> None:
        check_vllm(gpu)
        apply_env(rollout_env(gpu))  # read by vLLM when it is imported
        from vllm import LLM

        self._gpu, self._max_length, self._kv_cache_gib = gpu, max_length, kv_cache_gib
        self._dtype, self._lora, self._model = dtype, lora, model
        self._sleeps = sleeps and gpu  # vLLM's CPU worker has no sleep mode
        self._split, self._slots = tensor_parallel > 1, max_num_seqs
        self._shapes = expected_shapes(model)
        self._adapter: LoRARequest | None = None  # goes with every request
        self._adapters_used = 0
        settings: JsonObject = _transfer_settings() if lora is None else lora_settings(lora)
        settings["worker_extension_cls"] = "actors.engine.weight_transfer.Extension"
        settings |= device_settings(gpu)
        self._llm: Any = merged_is_the_cure()(LLM)(
            model=str(model),
            load_format="hf",  # not `consolidated.safetensors` where that lies beside the files of the index
            dtype=dtype,  # type: ignore[arg-type]  # checked by the config
            max_model_len=max_length,
            enforce_eager=enforce_eager,
            kv_cache_memory_bytes=int(kv_cache_gib * 2**30),
            max_num_seqs=max_num_seqs,
            # vLLM's default depends on the machine, and with it which prompts share a step.
            max_num_batched_tokens=max(_STEP_TOKENS, max_num_seqs),
            tensor_parallel_size=tensor_parallel,
            seed=seed,
            enable_prefix_caching=True,
            async_scheduling=async_scheduling,
            generation_config="vllm",  # the model folder's sampling defaults must not leak in
            disable_log_stats=True,
            enable_sleep_mode=self._sleeps,
            **settings,
        )
        self._tokenizer: Any = self._llm.get_tokenizer()
        self.health = Health(name).loaded(version)
        if not gpu:
            self._llm.collective_rpc("seed_by_request")
        if lora is None:
            self._llm.init_weight_transfer_engine({"init_info": {}})
            self._llm.update_weight_version(str(version))
        elif adapter is not None:
            self._use_adapter(version, adapter)

    @property
    def version(self) -> int:
        """Weight version that the engine computes with."""
        return self.health.version

    def mark_stale(self, reason: str) -> None:
        """Refuse work until the next successful update."""
        self.health = self.health.refit_failed(reason)

    def generate(self, requests: Sequence[EngineRequest]) -> list[Generated]:
        """Sample one completion a request, in the order of ``requests``; errors as for ``stream``."""
        ((_, outputs),) = list(self.stream([requests]))
        return outputs

    def stream(self, groups: Iterable[Sequence[EngineRequest]]) -> Iterator[tuple[int, list[Generated]]]:
        """Sample groups of requests, one completion a request, without a pause between groups.

        Args:
            groups: Asked for one by one, when the engine has room for more.

        Yields:
            Number of a group, from 0 in the order given, and its completions in the order of its requests; in the order
            in which groups are done.

        Raises:
            IllegalTransition: The engine is STALE.
            UserError: A prompt leaves no room for a completion.
        """
        self.health = self.health.begin()
        asked: dict[int, Sequence[EngineRequest]] = {}  # groups that are being sampled

        def admitted() -> Iterator[list[tuple[Sequence[int], SamplingParams]]]:
            for number, group in enumerate(groups):
                asked[number] = group
                yield [(request.prompt_ids, self._sampling(index, request)) for index, request in enumerate(group)]

        try:
            self._reset_prefix_cache()
            for number, completions in sample(self._llm.llm_engine, admitted(), self._slots, self._adapter):
                yield number, self._generated(asked.pop(number), completions)
        finally:
            self.health = self.health.finish()

    def _generated(self, requests: Sequence[EngineRequest], completions: Sequence[CompletionOutput]) -> list[Generated]:
        tokens = [list(completion.token_ids) for completion in completions]
        # One call for all: vLLM's own incremental detokenisation costs 5% of the tokens/s.
        texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True) if tokens else []
        return [
            Generated(
                tuple(ids),
                until(text, request.stop),
                "stop" if completion.finish_reason == "stop" else "length",
                _logprobs(completion),
            )
            for ids, text, completion, request in zip(tokens, texts, completions, requests, strict=True)
        ]

    def _sampling(self, index: int, request: EngineRequest) -> SamplingParams:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        room = self._max_length - len(request.prompt_ids)
        if room < 1:
            raise UserError(
                f"request {index}: its prompt has {len(request.prompt_ids)} tokens and model.max_length is "
                f"{self._max_length}; raise model.max_length or shorten the prompt"
            )
        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            max_tokens=min(request.max_new_tokens, room),
            stop_token_ids=list(request.stop_ids),
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
            stop=list(request.stop) or None,
            seed=request.seed if self._gpu else None,
            extra_args={SEED: request.seed},
            detokenize=bool(request.stop),  # vLLM looks for the texts in what it decodes
            output_kind=RequestOutputKind.FINAL_ONLY,
            # vLLM's "raw_logprobs", its default: of the logits before temperature, top-k and top-p.
            logprobs=0 if request.logprobs else None,
            flat_logprobs=request.logprobs,
        )

    def prompt_logprobs(self, ids: Sequence[int]) -> list[float]:
        """Log-probability (nats) of every token of ``ids`` but the first, given those before it."""
        from vllm import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        (output,) = self._llm.generate(
            [{"prompt_token_ids": list(ids)}], params, use_tqdm=False, lora_request=self._adapter
        )
        rows = output.prompt_logprobs[1:]
        return [float(row[token].logprob) for row, token in zip(rows, ids[1:], strict=True)]

    def update_weights(self, manifest: WeightsManifest, arrays: Mapping[str, np.ndarray]) -> SyncReport:
        """Replace all weights, or the adapter, and prove that the engine computes with them.

        Args:
            manifest: What the learner published.
            arrays: Parameter name -> array (bfloat16 as int16); may be read-only and shared.

        Raises:
            SyncError: The arrays are not the manifest's, or the engine's log-probabilities are not the
                learner's. The engine is STALE then.
        """

        def load() -> dict[str, float]:
            begun = time.perf_counter()
            weights = checked_tensors(manifest, arrays, self._expected(manifest))
            checked = time.perf_counter()
            self._load(manifest.version, weights)
            return {"check": checked - begun, "load": time.perf_counter() - checked}

        return self._refit(manifest, load)

    def receive_weights(self, manifest: WeightsManifest, rendezvous: Rendezvous) -> SyncReport:
        """As ``update_weights``, with full weights that the learner broadcasts.

        Args:
            manifest: What the learner sends.
            rendezvous: Where, with the seat of the engine's first process.

        Raises:
            SyncError: The weights are not this model's, did not arrive intact at all who wait for them, or are not what
                the engine computes with. The engine is STALE then.
        """

        def load() -> dict[str, float]:
            begun = time.perf_counter()
            check_manifest(manifest, self._shapes)
            self._llm.start_weight_update()
            self._llm.update_weights({"update_info": {"broadcast": (manifest, rendezvous)}})
            self._finish_update(manifest.version)
            return {"broadcast": time.perf_counter() - begun}

        return self._refit(manifest, load)

    def _refit(self, manifest: WeightsManifest, load: Callable[[], dict[str, float]]) -> SyncReport:
        if self.health.state not in (State.READY, State.STALE):
            raise SyncError(f"{self.health.name}: cannot update while {self.health.state.value}")
        begun = time.perf_counter()
        try:
            seconds = load()
            loaded = time.perf_counter()
            ours = self.prompt_logprobs(manifest.probe_ids)
            error = check_probe(manifest, ours, self._dtype, tf32=self._gpu)
        except Exception as failure:
            self.health = self.health.refit_failed(f"update to version {manifest.version} failed: {failure}")
            raise
        self.health = self.health.refitted(manifest.version)
        probed = time.perf_counter()
        seconds |= {"probe": probed - loaded, "total": probed - begun}
        return SyncReport(version=manifest.version, probe_error=error, seconds=seconds)

    def _expected(self, manifest: WeightsManifest) -> dict[str, tuple[int, ...]]:
        if self._lora is None:
            return self._shapes
        return adapter_shapes(manifest.names, self._shapes, self._lora.rank)

    def _load(self, version: int, weights: dict[str, torch.Tensor]) -> None:
        if self._lora is not None:
            with tempfile.TemporaryDirectory(prefix="isogloss-adapter-") as folder:
                write_adapter(Path(folder), weights, self._lora, self._model)
                self._use_adapter(version, Path(folder))
            return
        self._llm.start_weight_update()
        # Into this process weights go as they are; the processes of a split engine each get a copy, a part at a time.
        most = PART_BYTES if self._split else sys.maxsize
        for part in in_buckets(weights.items(), lambda item: item[1].nbytes, most):
            self._llm.update_weights({"update_info": {"tensors": dict(part)}})
        self._finish_update(version)

    def _finish_update(self, version: int) -> None:
        self._llm.finish_weight_update()
        if failures := [failure for failure in self._llm.collective_rpc("weights_failure") if failure]:
            raise SyncError(f"{self.health.name}: weights of version {version} were not taken: {failures[0]}")
        self._llm.update_weight_version(str(version))
        # vLLM keeps cached keys and values of the old weights over an update.
        self._reset_prefix_cache()

    def _use_adapter(self, version: int, folder: Path) -> None:
        """Put an adapter from a folder, which may go afterwards, in place of the one there is, under a new id."""
        from vllm.lora.request import LoRARequest

        if self._adapter is not None:
            self._llm.llm_engine.remove_lora(self._adapter.lora_int_id)
        # Ids are never used again: vLLM takes an id that it knows for the adapter that it knows.
        self._adapters_used += 1
        self._adapter = LoRARequest(f"v{version}-{self._adapters_used}", self._adapters_used, str(folder))
        with merged_is_the_cure():
            self._llm.llm_engine.add_lora(self._adapter)
        if self._llm.llm_engine.list_loras() != {self._adapters_used}:
            raise SyncError(f"{self.health.name}: holds other adapters than that of version {version}")
        self._reset_prefix_cache()

    def _reset_prefix_cache(self) -> None:
        # It refuses, and only says so in its return value, while requests run or blocks are held.
        if not self._llm.reset_prefix_cache():
            raise SyncError(f"{self.health.name}: the prefix cache could not be reset; requests are still running")

    def rest(self) -> None:
        """Free the GPUs until ``wake``: weights go to main memory, cached keys and values are gone."""
        if self._sleeps:
            self._llm.sleep(level=1)

    def wake(self) -> None:
        """Take the GPUs back; nothing where it is awake."""
        if self._sleeps and self._llm.llm_engine.is_sleeping():
            self._llm.wake_up()

    def memory(self) -> dict[str, float]:
        """Memory of this process and of the key-value cache, GiB."""
        rss = psutil.Process().memory_info().rss / 2**30
        return {"process_gib": rss, "kv_cache_gib": self._kv_cache_gib}
