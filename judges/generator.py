"""Servers and commands that answer prompts or translate: a queue each, so that many chunks keep one server full."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from configs.endpoint import GeneratorConfig
from configs.errors import UserError, shortened
from configs.reading import shown
from judges.answers import AnswerCache, Answered
from judges.cache import question_key
from judges.endpoint import Endpoint, Unanswered
from judges.reply import MOST_BYTES
from rollout.records import Message


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a server.

    Attributes:
        messages: The chat.
        sample: Which of several answers to the same chat.
    """

    messages: tuple[Message, ...]
    sample: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    """What a command translates.

    Attributes:
        id: Told to the command, and expected back.
        text: The text.
        origin: Its language.
        language: The language to translate into.
    """

    id: str
    text: str
    origin: str
    language: str


class Server:
    """One server: as many questions in flight as ``max_concurrency`` says, from however many callers.

    Args:
        name: In ``endpoints``.
        settings: Address, model, patience.
        cache: Known answers.
    """

    def __init__(self, name: str, settings: GeneratorConfig, cache: AnswerCache) -> None:
        self._settings = settings
        self._cache = cache
        self._endpoint = Endpoint(settings, reached=False, field=f"endpoints.{name}")
        self._queue: asyncio.Queue[tuple[Question, Callable[[Answered | Exception], None]]] = asyncio.Queue()
        self.asked = 0

    def put(self, question: Question, done: Callable[[Answered | Exception], None]) -> None:
        """Queue a question; ``done`` gets its outcome, or the error that ends the run."""
        self._queue.put_nowait((question, done))

    async def serve(self) -> None:
        """Answer what is queued, until cancelled."""
        async with self._endpoint.opened(), asyncio.TaskGroup() as group:
            for _ in range(self._settings.max_concurrency):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            question, done = await self._queue.get()
            try:
                done(await self._answer(question))
            except UserError as error:
                done(error)

    async def _answer(self, question: Question) -> Answered:
        settings = self._settings
        key = question_key(
            model=settings.model,
            revision=settings.revision,
            decoding=[settings.temperature, settings.max_tokens, settings.extra_body],
            messages=[list(message) for message in question.messages],
            sample=question.sample,
        )
        if (known := self._cache.get(key)) is not None:
            return known
        self.asked += 1
        try:
            reply = await self._endpoint.chat([message._asdict() for message in question.messages])
        except Unanswered as error:
            return Answered(None, why=str(error))
        answer = checked(reply.words, reply.finish == "length", settings.model)
        if answer.text is not None:
            self._cache.put(key, answer)
        return answer


def checked(text: str, cut: bool, model: str) -> Answered:
    """An answer, or why it is none: it is empty, or holds half a character."""
    if not text.strip():
        return Answered(None, why="an empty answer")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return Answered(None, why=f"an answer that is not UTF-8: {shown(text)!r}")
    return Answered(text.strip(), cut, model)


async def run_command(
    command: Sequence[str], texts: Sequence[Text], timeout_s: float, field: str, cache: AnswerCache
) -> list[Answered]:
    """Let a command translate texts; those that are known are not given to it.

    Args:
        command: Program and arguments.
        texts: What to translate; ids are unique.
        timeout_s: Longest that it may take.
        field: Config field that names it, for messages.
        cache: Known translations.

    Returns:
        One a text. A text that it wrote no line for, or an empty one, has no translation.

    Raises:
        UserError: It cannot be started, fails, is late, or writes something else than it should.
    """
    keys = [question_key(command=list(command), text=[t.text, t.origin, t.language]) for t in texts]
    known = [cache.get(key) for key in keys]
    todo = [text for text, answer in zip(texts, known, strict=True) if answer is None]
    written = await _written(command, todo, timeout_s, field) if todo else {}
    found: list[Answered] = []
    for text, key, answer in zip(texts, keys, known, strict=True):
        if answer is None:
            answer = (
                checked(written[text.id], False, command[0])
                if text.id in written
                else Answered(None, why="no line from the command")
            )
            if answer.text is not None:
                cache.put(key, answer)
        found.append(answer)
    return found


async def _written(command: Sequence[str], texts: Sequence[Text], timeout_s: float, field: str) -> dict[str, str]:
    lines = [json.dumps({"id": t.id, "text": t.text, "from": t.origin, "to": t.language}) + "\n" for t in texts]
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MOST_BYTES,
        )
    except OSError as error:
        raise UserError(f"{field}: {shown(command[0])} cannot be started ({error.strerror}); correct it") from None
    try:
        async with asyncio.timeout(timeout_s):
            output, complaint = await process.communicate("".join(lines).encode())
    except TimeoutError:
        raise UserError(
            f"{field}: {shown(command[0])} is not done with {len(texts)} texts after {timeout_s:g} s; raise "
            "command_timeout_s, or lower rollout.chunk_prompts"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        said = shown(complaint.decode("utf-8", "replace").strip()[-400:])
        raise UserError(f"{field}: {shown(command[0])} failed with status {process.returncode}: {said}")
    expected = {text.id for text in texts}
    found: dict[str, str] = {}
    for number, line in enumerate(output.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = row["id"], row["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{field}: line {number} of its output is no {{id, text}}: {shown(line)!r}") from None
        if not isinstance(text, str) or name not in expected:
            raise UserError(
                f"{field}: line {number} of its output "
                + ("has no text" if not isinstance(text, str) else f"has an id that was not given: {shown(name)!r}")
                + "; it must write {id, text} with the ids that it read"
            )
        found[name] = text
    return found


def check_server(name: str, settings: GeneratorConfig) -> None:
    """Ask a server one small question before a run.

    Raises:
        UserError: It cannot be asked; the field to correct is named.
    """
    endpoint = Endpoint(settings, reached=False, field=f"endpoints.{name}")

    async def ask() -> None:
        async with endpoint.opened():
            reply = await endpoint.probe([{"role": "user", "content": "Say hello."}])
            if reply is not None and not reply.words.strip():
                limit = "" if reply.finish != "length" else f" (it was cut at max_tokens {settings.max_tokens})"
                raise UserError(
                    f"endpoints.{name}: the server answers a plain question with an empty text{limit}; "
                    f"{shortened('raise max_tokens, or let the model not think' if limit else 'correct its settings')}"
                )

    asyncio.run(ask())
