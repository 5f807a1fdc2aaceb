"""Answers of servers, commands and functions for the driver: asked in a thread of its own, so that they stay busy
whatever the driver does meanwhile, and taken by the driver's thread."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from configs.errors import UserError
from configs.schema import Config
from configs.sources import EndpointSource, TranslationSource
from judges.answers import AnswerCache, Answered
from judges.generator import Question, Server, Text, run_command
from judges.own_source import LoadedSource, own_answers
from rollout.languages import language_name
from rollout.plan import Chunk, Request
from rollout.records import Message, Prompt, Turns, chat_of, text_of_turns
from rollout.sources import ASKED, Source, setting, sources

Taken = Callable[[float, float, list[Answered]], None]  # begin and end (Unix seconds), one outcome a request
_END_S = 10.0  # for the thread to end


@dataclass
class _Open:
    """A chunk that is being answered."""

    taken: Taken
    begin: float
    answers: list[Answered | None]
    missing: int


@contextmanager
def source_coordinator(config: Config) -> Iterator[SourceCoordinator | None]:
    """The coordinator of a run, open; None where no source asks a server, a command or a function.

    Answers are kept in the run's folder unless ``candidates.cache`` says otherwise.
    """
    if not any(source.giver in ASKED for source in sources(config)):
        yield None
        return
    cache = config.candidates.cache or config.run.dir / config.run.name / "answers.sqlite"
    with contextlib.closing(SourceCoordinator(config, cache)) as coordinator:
        yield coordinator


class SourceCoordinator:
    """Servers, commands and functions of a run's sources (:func:`source_coordinator`).

    Args:
        config: The run.
        cache: SQLite file of answers, so that a resumed run asks nothing twice.
    """

    def __init__(self, config: Config, cache: Path) -> None:
        self._config = config
        self._sources = {source.name: source for source in sources(config)}
        self._own = {one.name: LoadedSource.load(config, one.place) for one in sources(config) if one.giver == "custom"}
        self._cache = AnswerCache(cache)
        self._loop = asyncio.new_event_loop()
        self._finished: queue.SimpleQueue[_Open | BaseException] = queue.SimpleQueue()
        self._servers: dict[str, Server] = {}
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending = 0
        self._thread = threading.Thread(target=self._run, name="isogloss-sources", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def submit(self, chunk: Chunk, taken: Taken) -> None:
        """Queue a chunk of a source that is not the policy; ``taken`` is called by :meth:`collect`."""
        self._pending += 1
        open_chunk = _Open(taken, time.time(), [None] * len(chunk.requests), len(chunk.requests))
        self._loop.call_soon_threadsafe(self._begin, chunk, open_chunk)

    @property
    def idle(self) -> bool:
        """Nothing is asked, and everything answered was taken."""
        return self._pending == 0

    @property
    def asked(self) -> int:
        """Questions that went to servers, as they were not known."""
        return sum(server.asked for server in self._servers.values())

    def collect(self, wait_s: float) -> None:
        """Hand over what is answered; wait for it where there is nothing.

        Raises:
            UserError: A server cannot be asked, or a command or a function fails.
        """
        until = time.monotonic() + wait_s
        while self._pending:
            try:
                one = self._finished.get(timeout=max(until - time.monotonic(), 0.0))
            except queue.Empty:
                return
            if isinstance(one, BaseException):
                raise one
            self._pending -= 1
            one.taken(one.begin, time.time(), [answer for answer in one.answers if answer is not None])
            until = time.monotonic()

    def close(self) -> None:
        """End what is under way; answers so far are kept."""

        async def end() -> None:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(_END_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_END_S)
        self._loop.close()
        self._cache.close()

    # --- in the thread -------------------------------------------------------------------------------------------

    def _begin(self, chunk: Chunk, open_chunk: _Open) -> None:
        source = self._sources[chunk.source]
        try:
            if source.giver == "command":
                self._task(self._command(source, chunk, open_chunk))
                return
            if source.giver == "custom":
                self._task(self._function(source, chunk, open_chunk))
                return
            own = setting(self._config.candidates, source)
            assert isinstance(own, EndpointSource | TranslationSource)
            server = self._server(own.endpoint if isinstance(own, EndpointSource) else own.by)
            for place, request in enumerate(chunk.requests):
                question = Question(self._messages(own, chunk.language, request.prompt), request.key.sample)
                server.put(question, partial(self._answered, open_chunk, place))
        except UserError as error:
            self._finished.put(error)

    def _messages(self, own: EndpointSource | TranslationSource, code: str, turns: Turns) -> tuple[Message, ...]:
        """The chat; templates are put around its last turn, the user's."""
        name = language_name(code, self._config.languages.names)
        place = "{text}" if isinstance(own, TranslationSource) else "{prompt}"
        chat = [Message(turn["role"], turn["content"]) for turn in chat_of(turns)]
        last = own.template.replace("{language}", name).replace(place, chat[-1].content)
        system = own.system if isinstance(own, EndpointSource) else None
        return (*([] if system is None else [Message("system", system)]), *chat[:-1], Message("user", last))

    def _server(self, name: str) -> Server:
        if name not in self._servers:
            self._servers[name] = Server(name, self._config.endpoints[name], self._cache)
            self._task(self._servers[name].serve())
        return self._servers[name]

    def _answered(self, open_chunk: _Open, place: int, outcome: Answered | Exception) -> None:
        if isinstance(outcome, Exception):
            self._finished.put(outcome)
            return
        open_chunk.answers[place] = outcome
        open_chunk.missing -= 1
        if open_chunk.missing == 0:
            self._finished.put(open_chunk)

    async def _command(self, source: Source, chunk: Chunk, open_chunk: _Open) -> None:
        own = setting(self._config.candidates, source)
        assert isinstance(own, TranslationSource)
        texts = [
            Text(f"{place}", text_of_turns(request.prompt), chunk.origin, chunk.language)
            for place, request in enumerate(chunk.requests)
        ]
        field = f"candidates.sources.{source.place}.command"
        async with self._turn(source):  # it may hold a model in memory
            found = await run_command(own.command, texts, own.command_timeout_s, field, self._cache)
        open_chunk.answers = list(found)
        self._finished.put(open_chunk)

    async def _function(self, source: Source, chunk: Chunk, open_chunk: _Open) -> None:
        prompts = [_asked(request) for request in chunk.requests]
        samples = [request.key.sample for request in chunk.requests]
        async with self._turn(source):
            found = await own_answers(self._own[source.name], prompts, samples, self._cache)
        open_chunk.answers = list(found)
        self._finished.put(open_chunk)

    def _turn(self, source: Source) -> asyncio.Semaphore:
        """One call of a source at a time."""
        return self._turns.setdefault(source.name, asyncio.Semaphore(1))

    def _task(self, work: Coroutine[object, object, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
            self._finished.put(inner)


def _asked(request: Request) -> Prompt:
    """The prompt of a request, as a function gets it: without the gold answer."""
    *before, last = [Message(turn["role"], turn["content"]) for turn in chat_of(request.prompt)]
    return Prompt(request.key.prompt_id, request.key.language, last.content, before=tuple(before))
