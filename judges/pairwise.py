"""Comparing answers: every pair in both orders, known answers from the cache, the rest from the judge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from configs.errors import UserError
from configs.schema import JudgeConfig
from judges.cache import Answer, VerdictCache, question_key
from judges.endpoint import Endpoint, Unanswered
from judges.records import TIE, Item, Usage, Verdict
from judges.reply import Reply, shown
from judges.wording import Wording, load_wording, merge_orders
from rollout.languages import language_name

Watch = Callable[[Usage], None]
_KEPT_WORDS = 4000  # characters of a judge's words that the cache keeps


def compare(
    items: Sequence[Item],
    judge: JudgeConfig,
    cache: Path | None,
    *,
    names: Mapping[str, str] | None = None,
    watch: Watch | None = None,
    deadline_s: float | None = None,
) -> list[Verdict]:
    """Ask a judge which answer of each item is better. Not to be called from within a running event loop.

    Args:
        items: What is compared; ids need not be unique.
        judge: Which judge, how.
        cache: SQLite file of verdicts, created if need be; ``judge.cache`` is not looked at. None keeps nothing.
        names: Language code -> English name, beside the built-in ones.
        watch: Called after every answer with what was done so far (see ``judges.progress``).
        deadline_s: Of the whole call; each question has its own (``judge.deadline_s``) anyhow.

    Returns:
        Verdicts in the order of ``items``.

    Raises:
        UserError: The judge cannot be asked, more than ``judge.max_failed_share`` of the asked items got no verdict, or
            the deadline passed. Answers so far are in the cache.
    """
    with Judge(judge, cache, names) as asked:
        return asked.compare(items, watch, deadline_s)


def check_endpoint(judge: JudgeConfig) -> None:
    """Ask the judge one small question and read its answer as a verdict; with a reminder if that fails, as later on.

    Raises:
        UserError: It cannot be asked (address, key or model are wrong), or its answer is no verdict: a judge that
            reaches its limit while it thinks would leave every question of a run open.
    """
    endpoint = Endpoint(judge)
    wording = load_wording(judge.template)
    question = wording.messages("English", "Say hello.", "Hello!", "Goodbye!")

    async def ask() -> Reply | None:
        messages = question
        async with endpoint.opened():
            for _ in range(2):
                reply = await endpoint.probe(messages)
                if reply is None or wording.read(reply, judge.logprobs == "always") is not None:
                    return None
                messages = wording.reminded(question, reply.words or "...")
        return reply

    reply = asyncio.run(ask())
    if reply is None:
        return
    why = _unread(reply, judge)
    if reply.finish == "length":
        raise UserError(
            f"judge.max_tokens: the answer to a plain question is no verdict: {why}; raise it, or let the judge not "
            "think (e.g. judge.extra_body: {chat_template_kwargs: {enable_thinking: false}})"
        )
    raise UserError(
        f"judge.template: the answer to a plain question is no verdict of template '{judge.template}': {why}; take a "
        "judge that follows the template, or the other template"
    )


@dataclass(frozen=True, slots=True)
class _Question:
    key: bytes
    language: str
    messages: list[dict[str, str]]


class Judge:
    """A judge with its cache, for several calls of :meth:`compare`.

    Args:
        judge: Which judge, how.
        cache: See :func:`compare`.
        names: See :func:`compare`.
        reached: The server is known to be there: a refused connection is then tried again like any other failure.
    """

    def __init__(
        self, judge: JudgeConfig, cache: Path | None, names: Mapping[str, str] | None = None, reached: bool = False
    ) -> None:
        self._judge = judge
        self._endpoint = Endpoint(judge, reached)
        self._wording: Wording = load_wording(judge.template)
        self._names = dict(names or {})
        self._cache_path = cache
        self._cache = VerdictCache(cache)

    def close(self) -> None:
        """Close the cache."""
        self._cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def compare(
        self, items: Sequence[Item], watch: Watch | None = None, deadline_s: float | None = None
    ) -> list[Verdict]:
        """See the function :func:`compare`."""
        settled = [_settle(item) for item in items]
        orders: list[tuple[_Question, _Question] | None] = [
            self._questions(item) if verdict is None else None for item, verdict in zip(items, settled, strict=True)
        ]
        errors, answers = self._answers([pair for pair in orders if pair is not None], watch, deadline_s)
        verdicts: list[Verdict] = []
        for item, verdict, pair in zip(items, settled, orders, strict=True):
            if verdict is None and pair is not None:
                verdict = _merge(item, pair, answers, errors)
            assert verdict is not None
            verdicts.append(verdict)
        return verdicts

    def _questions(self, item: Item) -> tuple[_Question, _Question]:
        a_first = self._question(item, item.answer_a, item.answer_b)
        return a_first, self._question(item, item.answer_b, item.answer_a)

    def _question(self, item: Item, first: str, second: str) -> _Question:
        judge, language = self._judge, language_name(item.language, self._names)
        key = question_key(
            model=judge.model,
            revision=judge.revision,
            wording=[self._wording.name, self._wording.version],
            decoding=[judge.temperature, judge.max_tokens, judge.logprobs, judge.extra_body],
            language=language,
            instruction=item.instruction,
            answers=[first, second],
        )
        return _Question(key, item.language, self._wording.messages(language, item.instruction, first, second))

    def _answers(
        self, orders: Sequence[tuple[_Question, _Question]], watch: Watch | None, deadline_s: float | None
    ) -> tuple[dict[bytes, str], dict[bytes, Answer]]:
        """(why there is no answer, answer), each by question."""
        questions = {question.key: question for pair in orders for question in pair}
        run = _Run(self._judge, self._endpoint, self._wording, self._cache, orders, watch=watch)
        answers = self._cache.get(questions)
        todo = [question for key, question in questions.items() if key not in answers]
        try:
            for key, answer in answers.items():
                run.known(key, answer)
            if todo:
                asyncio.run(run.ask(todo, deadline_s))
        except TimeoutError:
            raise UserError(
                f"judge.max_concurrency: {run.usage.total - run.usage.done} of {run.usage.total} questions are open "
                f"after {deadline_s:g} s; raise it, or take fewer at once (in a run: lower rollout.chunk_prompts or "
                f"judge.comparisons_per_candidate, or raise cluster.call_timeout_s). {self._kept()}"
            ) from None
        except _TooManyFailed as error:
            raise UserError(f"{error}. {self._kept()}") from None
        return run.errors, {**answers, **run.answers}

    def _kept(self) -> str:
        if self._cache_path is None:
            return "Nothing was kept: there is no cache"
        return f"{self._cache_path} keeps the answers so far: start again (a run: with --resume)"


class _TooManyFailed(Exception):
    """There is no point in asking on."""


class _Run:
    """The questions of one call."""

    def __init__(
        self,
        judge: JudgeConfig,
        endpoint: Endpoint,
        wording: Wording,
        cache: VerdictCache,
        orders: Sequence[tuple[_Question, _Question]],
        *,
        watch: Watch | None,
    ) -> None:
        self._judge = judge
        self._endpoint = endpoint
        self._wording = wording
        self._cache = cache
        self._watch = watch
        self._items: dict[bytes, set[int]] = {}
        for index, pair in enumerate(orders):
            for question in pair:
                self._items.setdefault(question.key, set()).add(index)
        self._asked_items = len(orders)
        self._failed_items: set[int] = set()
        self._requests_before = endpoint.requests
        self.usage = Usage(total=len(self._items), cost=judge.cost(0, 0))
        self.answers: dict[bytes, Answer] = {}
        self.errors: dict[bytes, str] = {}

    def known(self, key: bytes, answer: Answer) -> None:
        """An answer from the cache."""
        self._count(done=1, cached=1)
        if answer.preference is None:
            self._fail(key, "unparsed")

    async def ask(self, questions: Iterable[_Question], deadline_s: float | None) -> None:
        """Ask them all, ``judge.max_concurrency`` at a time."""
        pending = iter(questions)

        async def work() -> None:
            for question in pending:
                await self._ask(question)

        try:
            async with asyncio.timeout(deadline_s), self._endpoint.opened(), asyncio.TaskGroup() as group:
                for _ in range(min(self._judge.max_concurrency, len(self._items))):
                    group.create_task(work())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _ask(self, question: _Question) -> None:
        self._count(in_flight=1)
        try:
            answer, why = await self._answer(question)
        except Unanswered as error:
            self._count(in_flight=-1, done=1, failed=1)
            self._fail(question.key, str(error))
            return
        except BaseException:
            self._count(in_flight=-1)
            raise
        judge = f"{self._judge.model}@{self._judge.revision}"
        wording = f"{self._wording.name}/{self._wording.version}"
        self.answers[question.key] = self._cache.put(question.key, judge, wording, question.language, answer)
        self._count(
            in_flight=-1, done=1, prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens
        )
        if self.answers[question.key].preference is None:
            self._fail(question.key, f"unparsed: {why}")

    async def _answer(self, question: _Question) -> tuple[Answer, str]:
        """Ask; once more, with a reminder, if the words could not be read. With why they could not."""
        messages, prompt_tokens, completion_tokens = question.messages, 0, 0
        words, why = "", ""
        for _ in range(2):
            reply = await self._endpoint.chat(messages)
            words = reply.words
            prompt_tokens += reply.prompt_tokens
            completion_tokens += reply.completion_tokens
            read = self._wording.read(reply, self._judge.logprobs == "always")
            if read is not None:
                return Answer(*read, words[:_KEPT_WORDS], prompt_tokens, completion_tokens), ""
            why = _unread(reply, self._judge)
            messages = self._wording.reminded(question.messages, words or "...")
        return Answer(None, "", words[:_KEPT_WORDS], prompt_tokens, completion_tokens), why

    def _fail(self, key: bytes, why: str) -> None:
        self.errors[key] = why
        self._failed_items |= self._items[key]
        allowed = self._judge.max_failed_share * self._asked_items
        if len(self._failed_items) > allowed:
            raise _TooManyFailed(
                f"judge.max_failed_share: {len(self._failed_items)} of {self._asked_items} comparisons got no verdict, "
                f"more than {self._judge.max_failed_share:.0%} (the last one: {why}); remove the cause, or raise it"
            )

    def _count(self, **more: int) -> None:
        now = {name: getattr(self.usage, name) + value for name, value in more.items()}
        self.usage = replace(self.usage, requests=self._endpoint.requests - self._requests_before, **now)
        self.usage = replace(self.usage, cost=self._judge.cost(self.usage.prompt_tokens, self.usage.completion_tokens))
        if self._watch is not None:
            self._watch(self.usage)


def _unread(reply: Reply, judge: JudgeConfig) -> str:
    """Why an answer is no verdict: its words, and the limit that cut them."""
    said = repr(shown(reply.words, 80)) if reply.words.strip() else "no words"
    if reply.thoughts:
        said += f" after {reply.thoughts:,} characters of thoughts"
    if reply.finish == "length":
        own = judge.extra_body.get("max_completion_tokens", judge.max_tokens)
        limit = "the server's own limit" if own is None else f"the limit of {own} tokens (judge.max_tokens)"
        return f"{said}; it was cut at {limit}"
    return said if reply.finish in ("", "stop") else f"{said}; it ended for '{reply.finish}'"


def _settle(item: Item) -> Verdict | None:
    """The verdict that needs no judge: an empty answer loses, two empty or equal ones are a tie."""
    a, b = item.answer_a.strip(), item.answer_b.strip()
    if a == b:
        return Verdict(item.id, item.language, TIE, asked=False)
    if a and b:
        return None
    return Verdict(item.id, item.language, 1.0 if a else 0.0, asked=False)


def _merge(
    item: Item, pair: tuple[_Question, _Question], answers: Mapping[bytes, Answer], errors: Mapping[bytes, str]
) -> Verdict:
    found = [answers.get(question.key) for question in pair]
    preferences = [answer.preference for answer in found if answer is not None and answer.preference is not None]
    if len(preferences) < 2:
        why = next(errors[question.key] for question in pair if question.key in errors)
        unparsed = any(answer is not None and answer.preference is None for answer in found)
        return Verdict(item.id, item.language, None, unparsed=unparsed, error=why)
    preference, inconsistent = merge_orders(*preferences)
    return Verdict(item.id, item.language, preference, inconsistent)
