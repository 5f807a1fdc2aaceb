"""The engine of a replica: vLLM's asynchronous engine under vLLM's own OpenAI request handlers."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from actors.engine.device import device_settings
from actors.engine.verify import check_probe
from actors.machine.vllm_check import check_vllm
from actors.runtime.env import apply_env, rollout_env
from actors.runtime.health import SyncError
from configs.json_types import JsonObject
from configs.serving import ServeConfig
from learners.manifest import WeightsManifest
from serving.errors import ENGINE_FAILED, RequestRefused
from serving.requests import MAX_LOGPROBS

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an engine is made of, beside ``ServeConfig``.

    Attributes:
        name: Of the model, in requests.
        dtype: "float32" or "bfloat16".
        max_length: Longest prompt plus completion, in tokens.
        seed: For requests that bring none.
        chat_template: In place of that of the model's folder.
    """

    name: str
    dtype: str
    max_length: int
    seed: int
    chat_template: str | None = None


class ServingEngine:
    """An engine and its weights. Made by ``start``; all methods belong to that event loop.

    Requests may bring seeds. On CPUs vLLM 0.32 fails on seeds when a prompt is prefilled in two parts, so prompts are
    prefilled in one: chunked prefill is off and a step takes at least the longest prompt.
    """

    def __init__(self, engine: Any, chat: Any, completions: Any, settings: EngineSettings, config: ServeConfig) -> None:
        self._engine, self._settings = engine, settings
        self._max_tokens = min(config.max_tokens, settings.max_length)
        self._gpu = config.gpus_per_replica > 0
        self._handlers = {"chat": chat, "completions": completions}
        self.vocabulary: int = engine.model_config.get_vocab_size()
        self.manifest: WeightsManifest | None = None

    @property
    def raw(self) -> Any:
        """vLLM's engine itself, for measurements."""
        return self._engine

    @classmethod
    async def start(cls, folder: Path, settings: EngineSettings, config: ServeConfig) -> ServingEngine:
        """Start the engine process; its weights are unproven until ``load``.

        Args:
            folder: Model folder.
            settings: What it is made of.
            config: The serve section.
        """
        gpu = config.gpus_per_replica > 0
        check_vllm(gpu)
        apply_env(rollout_env(gpu))
        from starlette.datastructures import State
        from vllm.config import WeightTransferConfig
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser
        from vllm.v1.engine.async_llm import AsyncLLM

        from actors.engine.weight_transfer import BACKEND

        args = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", str(folder)])
        args.served_model_name = [settings.name]
        args.load_format = "hf"  # not `consolidated.safetensors` where that lies beside the files of the index
        args.dtype, args.max_model_len, args.seed = settings.dtype, settings.max_length, settings.seed
        args.chat_template = settings.chat_template  # vLLM takes a path or, as here, the text
        args.enforce_eager = config.eager
        args.kv_cache_memory_bytes = int(config.kv_cache_gb * 2**30)
        args.max_logprobs = MAX_LOGPROBS
        args.max_num_seqs = config.max_num_seqs
        args.max_num_batched_tokens = max(4096, settings.max_length, config.max_num_seqs)
        args.enable_chunked_prefill = gpu
        args.enable_prefix_caching = True
        args.stream_interval = config.stream_interval
        args.generation_config = "vllm"  # the model folder's sampling defaults must not leak in
        args.disable_log_stats = True
        args.weight_transfer_config = WeightTransferConfig(backend=BACKEND)
        args.worker_extension_cls = "serving.worker.ServingWorker"
        args.async_scheduling = config.plans_ahead
        scheduler = "ProvingAsyncScheduler" if args.async_scheduling else "ProvingScheduler"
        args.scheduler_cls = f"serving.scheduler.{scheduler}"
        for name, value in device_settings(gpu).items():
            setattr(args, name, value)
        # vLLM waits for its process without giving the event loop back, which a replica that answers already needs.
        engine = await asyncio.to_thread(AsyncLLM.from_engine_args, AsyncEngineArgs.from_cli_args(args))
        state = State()
        await init_app_state(engine, state, args, supported_tasks=("generate",))
        await engine.collective_rpc("init_weight_transfer_engine", args=({},))
        return cls(engine, state.openai_serving_chat, state.openai_serving_completion, settings, config)

    async def load(
        self, folder: Path, manifest: WeightsManifest, timeout: float, proven: Callable[[], None] = lambda: None
    ) -> float:
        """Replace all weights, and prove that the engine computes with them.

        Requests that are running are frozen meanwhile and continue with the new weights once these are proven: their
        keys and values are computed again.

        Args:
            folder: Model folder.
            manifest: What the folder must hold and the engine must reproduce.
            timeout: For each of the steps, in seconds.
            proven: Called when nothing more is computed with the old weights, and nothing yet with the new ones for
                any request.

        Returns:
            Difference of the probe, nats per token.

        Raises:
            SyncError: Other bytes, or other log-probabilities, than the manifest's. Which weights the engine would
                compute with is unknown then, so it stays paused: load others, or end what waits with ``abort``.
        """
        self.manifest = None
        async with asyncio.timeout(timeout):
            await self._engine.pause_generation(mode="keep", clear_cache=True)
            try:
                text = json.dumps(dataclasses.asdict(manifest))
                await self._engine.collective_rpc("isogloss_load", args=(str(folder), text))
            except Exception as error:  # what the engine process raised arrives as a plain exception
                raise SyncError(f"v{manifest.version}: {error}") from None
        async with asyncio.timeout(timeout):
            await self._engine.pause_generation(mode="wait", clear_cache=False)  # but for the probe: ProvingScheduler
            logprobs = await self._prompt_logprobs(manifest.probe_ids)
        difference = check_probe(manifest, logprobs, self._settings.dtype, tf32=self._gpu)
        self.manifest = manifest
        proven()
        await self._engine.resume_generation()
        return difference

    async def abort(self, timeout: float) -> None:
        """End all requests, and take no more: the weights are not known any longer.

        Args:
            timeout: In seconds; the engine may be why it came to this.
        """
        async with asyncio.timeout(timeout):
            await self._engine.pause_generation(mode="abort", clear_cache=True)

    async def _prompt_logprobs(self, ids: tuple[int, ...]) -> list[float]:
        from vllm import SamplingParams

        from serving.scheduler import PROBE

        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        stream = self._engine.generate({"prompt_token_ids": list(ids)}, params, PROBE + uuid.uuid4().hex)
        outputs = [output async for output in stream]
        rows = outputs[-1].prompt_logprobs[1:]
        return [float(row[token].logprob) for row, token in zip(rows, ids[1:], strict=True)]

    async def answer(self, kind: str, body: JsonObject) -> str | AsyncIterator[str]:
        """Answer a request that was checked.

        Args:
            kind: "chat" or "completions".
            body: The request.

        Returns:
            A JSON object as text or, for a streamed request, server-sent events.

        Raises:
            RequestRefused: vLLM refused it, or failed.
        """
        from pydantic import ValidationError
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest
        from vllm.entrypoints.serve import create_error_response
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse

        handler, named = self._handlers[kind], True
        try:
            named = "max_tokens" in body or "max_completion_tokens" in body
            if named:
                request = (ChatCompletionRequest if kind == "chat" else CompletionRequest).model_validate(body)
            else:
                request = _open_request(kind).model_validate({**body, "max_tokens": self._max_tokens})
            if kind == "chat":
                reply = await handler.create_chat_completion(request, None)
            else:
                reply = await handler.create_completion(request, None)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"][:1])
            raise RequestRefused(400, f"{place}: {first['msg']}", place or None) from None
        except Exception as error:
            reply = create_error_response(error)
            if reply.error.code >= 500:
                logger.exception("a request failed")
                reply.error.message = ENGINE_FAILED
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError  # vLLM answers "client disconnected" instead, also where the time was over
        if isinstance(reply, ErrorResponse):
            if not named and reply.error.message.startswith("max_tokens must be at least 1"):
                length = self._settings.max_length
                raise RequestRefused(400, f"the prompt leaves nothing of the length of {length} tokens", "prompt")
            raise RequestRefused(reply.error.code, reply.error.message, reply.error.param)
        return reply if hasattr(reply, "__aiter__") else reply.model_dump_json()

    async def check(self) -> None:
        """Raises if the engine process is gone."""
        await self._engine.check_health()

    def close(self) -> None:
        """End the engine process."""
        self._engine.shutdown()


@functools.cache
def _open_request(kind: str) -> Any:
    """vLLM's request type for one that names no length: its ``max_tokens`` bounds what is left, and no prompt.

    vLLM refuses a prompt that leaves less than ``max_tokens``, and has 16 as a completion's default.
    """
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    base: Any = ChatCompletionRequest if kind == "chat" else CompletionRequest

    class OpenRequest(base):
        def build_tok_params(self, model_config: Any) -> Any:
            return dataclasses.replace(super().build_tok_params(model_config), max_output_tokens=1)

    return OpenRequest


def request_models() -> dict[str, JsonObject]:
    """JSON Schema of vLLM's request model of each kind."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    return {"chat": ChatCompletionRequest.model_json_schema(), "completions": CompletionRequest.model_json_schema()}
