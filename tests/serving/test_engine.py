"""A replica's engine for real: what a swap does to requests that are running, and what a request gets by default."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.runtime.health import SyncError
from configs.serving import ServeConfig
from learners.encode import ChatEncoder
from learners.manifest import WeightsManifest
from learners.model_files import write_model_folder
from serving.describe import describe, folder_weights
from serving.engine import EngineSettings, ServingEngine
from serving.errors import RequestRefused
from tests.kits.serving import POLICY, QUESTION, write_other_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

LIMIT_S = 60.0
ASKED = "Which template?"
# The world's own but for one question.
TEMPLATE = (POLICY / "chat_template.jinja").read_text(encoding="utf-8") + (
    f"{{% if messages[0]['content'] == '{ASKED}' %}}The one of the run.{{% endif %}}"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, WeightsManifest]]:
    """Two versions, and a third that fails in the middle of loading: only its last layers have another shape."""
    root = tmp_path_factory.mktemp("models")
    write_other_model(root / "other")
    weights = folder_weights(POLICY)
    last = max(name for name in weights if ".layers." in name and name.endswith("down_proj.weight"))
    write_model_folder(root / "wrong", {**weights, last: weights[last][:, :-8].contiguous()}, POLICY, "float32")
    found = [(path, describe(path, number)) for number, path in enumerate((POLICY, root / "other"))]
    return [*found, (root / "wrong", _manifest_of(root / "wrong", found[0][1]))]


def _manifest_of(folder: Path, like: WeightsManifest) -> WeightsManifest:
    from learners.weights import checksum

    weights = folder_weights(folder)
    shapes = tuple(tuple(weights[name].shape) for name in like.names)
    return replace(like, version=2, checksum=checksum({name: weights[name] for name in like.names}), shapes=shapes)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The engine belongs to one event loop, and tests share the engine."""
    found = asyncio.new_event_loop()
    yield found
    found.close()


@pytest.fixture(scope="module")
def engine(loop: asyncio.AbstractEventLoop, models: list[tuple[Path, WeightsManifest]]) -> Iterator[ServingEngine]:
    config = ServeConfig(kv_cache_gb=0.125, max_tokens=512)
    settings = EngineSettings("world", "float32", 256, 0, TEMPLATE)
    found = loop.run_until_complete(ServingEngine.start(POLICY, settings, config))
    loop.run_until_complete(found.load(*models[0], LIMIT_S))
    yield found
    found.close()


class Stream:
    """A greedy streamed reply: its text so far, and how it ended."""

    def __init__(self, engine: ServingEngine, tokens: int = 180) -> None:
        self.text, self.finish, self.arrived = "", "", asyncio.Event()
        self.body = {"messages": QUESTION, "temperature": 0.0, "max_tokens": tokens, "ignore_eos": True}
        self._engine = engine
        self.task = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        reply = await self._engine.answer("chat", {**self.body, "model": "world", "stream": True})
        assert not isinstance(reply, str)
        async for event in reply:
            if event.startswith("data: {"):
                (choice,) = json.loads(event[6:])["choices"]
                self.text += choice["delta"].get("content") or ""
                self.finish = choice["finish_reason"] or self.finish
                if self.text:
                    self.arrived.set()


def test_a_load_that_fails_half_way_shows_nothing_of_it(
    loop: asyncio.AbstractEventLoop, engine: ServingEngine, models: list[tuple[Path, WeightsManifest]]
) -> None:
    async def scene() -> None:
        whole = Stream(engine)
        await whole.task
        running = Stream(engine)
        await running.arrived.wait()
        seen: list[int] = []
        with pytest.raises(SyncError, match="v2: "):
            await engine.load(*models[2], LIMIT_S, lambda: seen.append(2))
        # Paused: nothing is computed with weights that nobody knows, neither for those inside nor for new ones.
        text, late = running.text, Stream(engine)
        await asyncio.sleep(0.5)
        assert (running.text, late.text, engine.manifest) == (text, "", None)
        # A second version that does not prove itself changes nothing about that.
        unproven = replace(models[1][1], version=3, probe_logprob=(-1.0,) * len(models[1][1].probe_logprob))
        with pytest.raises(SyncError, match="probe of version 3"):
            await engine.load(models[1][0], unproven, LIMIT_S, lambda: seen.append(3))
        await asyncio.sleep(0.5)
        assert (running.text, late.text) == (text, "")
        await engine.load(*models[0], LIMIT_S, lambda: seen.append(0))
        assert seen == [0], "told of a version that was never proven"
        await asyncio.gather(running.task, late.task)
        assert running.text == late.text == whole.text
        assert len(text) < len(whole.text), "the reply was over before the swap"

    loop.run_until_complete(asyncio.wait_for(scene(), LIMIT_S))


def test_requests_continue_with_weights_that_are_proven(
    loop: asyncio.AbstractEventLoop, engine: ServingEngine, models: list[tuple[Path, WeightsManifest]]
) -> None:
    async def scene() -> None:
        first = Stream(engine)
        await first.task
        running = Stream(engine)
        await running.arrived.wait()
        at: list[str] = []
        begun = time.monotonic()
        await engine.load(*models[1], LIMIT_S, lambda: at.append(running.text))
        assert time.monotonic() - begun < LIMIT_S
        await running.task
        assert running.text.startswith(at[0])
        assert running.text != first.text
        assert running.finish == "length"
        await engine.load(*models[0], LIMIT_S)

    loop.run_until_complete(asyncio.wait_for(scene(), LIMIT_S))


def test_weights_that_are_stored_in_another_arithmetic_are_proven(
    loop: asyncio.AbstractEventLoop, engine: ServingEngine, models: list[tuple[Path, WeightsManifest]], tmp_path: Path
) -> None:
    """A model is described in the arithmetic that it is stored in; a bfloat16 one may be served in float32."""
    folder = tmp_path / "half"
    halves = {name: weight.bfloat16() for name, weight in folder_weights(POLICY).items()}
    write_model_folder(folder, halves, POLICY, "bfloat16")
    described = describe(folder, 4)
    assert described.probe_dtype == "bfloat16"

    async def scene() -> None:
        assert 0 < await engine.load(folder, described, LIMIT_S) < 0.15
        with pytest.raises(SyncError, match="probe of version 4: .* more than 0.001"):
            await engine.load(folder, replace(described, probe_dtype="float32"), LIMIT_S)
        await engine.load(*models[0], LIMIT_S)

    loop.run_until_complete(asyncio.wait_for(scene(), LIMIT_S))


def test_what_names_no_length_gets_what_is_left_of_it(loop: asyncio.AbstractEventLoop, engine: ServingEngine) -> None:
    async def ask(kind: str, **body: Any) -> dict[str, Any]:
        reply = await engine.answer(kind, {"model": "world", "ignore_eos": True, **body})
        if isinstance(reply, str):
            found: dict[str, Any] = json.loads(reply)
            return found
        usage: dict[str, Any] = {}
        async for event in reply:
            if event.startswith("data: {"):
                usage = json.loads(event[6:])
        return usage

    async def scene() -> None:
        more = {"stream": True, "stream_options": {"include_usage": True}}
        for stream in ({}, more):
            short = await ask("chat", messages=QUESTION, **stream)
            assert short["usage"]["total_tokens"] == 256
            for prompt, expected in (([5] * 40, 216), ([5] * 100, 156), ([5] * 255, 1)):
                reply = await ask("completions", prompt=prompt, **stream)
                assert reply["usage"]["completion_tokens"] == expected
            both = await ask("completions", prompt=[[5] * 100, [5] * 250], **stream)
            assert both["usage"]["completion_tokens"] == 156 + 6
            for prompt in ([5] * 256, [5] * 300):
                with pytest.raises(RequestRefused, match="256") as caught:
                    await ask("completions", prompt=prompt, **stream)
                assert caught.value.status == 400

    loop.run_until_complete(asyncio.wait_for(scene(), LIMIT_S))


def test_the_chat_template_of_a_run_is_rendered(loop: asyncio.AbstractEventLoop, engine: ServingEngine) -> None:
    def tokens(question: str) -> tuple[int, int]:
        body = {"model": "world", "messages": [{"role": "user", "content": question}], "max_tokens": 1}
        reply = loop.run_until_complete(asyncio.wait_for(engine.answer("chat", body), LIMIT_S))
        assert isinstance(reply, str)
        return json.loads(reply)["usage"]["prompt_tokens"], len(ChatEncoder(POLICY).prompt_ids(question))

    served, own = tokens("Another one?")
    assert served == own
    served, own = tokens(ASKED)
    assert served == own + len(ChatEncoder(POLICY).completion_ids("The one of the run.")) - 1


def test_after_a_second_failure_nothing_runs(loop: asyncio.AbstractEventLoop, engine: ServingEngine) -> None:
    """The last one: the engine stays paused."""

    async def scene() -> None:
        running = Stream(engine)
        await running.arrived.wait()
        await engine.abort(LIMIT_S)
        await running.task
        assert running.finish == "abort"
        late = Stream(engine)
        await asyncio.sleep(0.3)
        assert not late.text
        late.task.cancel()

    loop.run_until_complete(asyncio.wait_for(scene(), LIMIT_S))
