"""A source of the user's own: what its function is called with, its trial before a run, and what it may return."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from configs.errors import UserError, shortened
from configs.plugins import Plugin, load_plugin, typed
from configs.schema import Config
from configs.sources import CustomSource
from judges.answers import AnswerCache, Answered
from judges.cache import question_key
from judges.generator import checked
from rollout.prompts import PromptSet
from rollout.records import Prompt

T = TypeVar("T")


class SourceFunction(Protocol):
    """What ``candidates.sources.N.function`` names.

    Called in the run's first process, in a thread, with the prompts of a chunk in one language: one call of a source at
    a time. What it answers is kept (``candidates.cache``), and a resumed run does not ask for it again. For equal
    inputs it should give equal answers, or the run cannot be repeated.
    """

    def __call__(self, prompts: Sequence[Prompt], samples: Sequence[int], **options: object) -> Sequence[str | None]:
        """The answer to each prompt.

        Args:
            prompts: ``text``, ``language``, ``id``, and ``before``, the turns in front of the text; no gold answer. A
                prompt stands there once for each of the source's ``samples``.
            samples: Beside each prompt: which of several answers to it, from 0.
            options: The source's ``options``.

        Returns:
            One text a prompt; None, or an empty one, for no answer, which is then counted (``min_answered``).
        """
        ...


@dataclass(frozen=True, slots=True)
class LoadedSource:
    """A function with its settings, loaded and known to take its options."""

    plugin: Plugin
    setting: CustomSource

    @classmethod
    def load(cls, config: Config, place: int) -> LoadedSource:
        """Import the function of the source at ``place`` in ``candidates.sources``.

        Raises:
            UserError: It cannot be imported, has another source than when the run began, or takes no such options.
        """
        own = config.candidates.sources[place]
        assert isinstance(own, CustomSource)
        field = f"candidates.sources.{place}.function"
        plugin = load_plugin(own.function, field, "isogloss.sources", config.run.plugins.get(field))
        plugin.accepts(((), ()), own.options, f"candidates.sources.{place}.options")
        return cls(plugin, own)

    def __call__(self, prompts: Sequence[Prompt], samples: Sequence[int]) -> list[Answered]:
        """Its answers, one a prompt.

        Raises:
            UserError: It failed, is late, or returned something else than one text or None a prompt.
        """
        first = f"'{shortened(prompts[0].id)}' in '{prompts[0].language}'"
        about = f"prompt {first}" if len(prompts) == 1 else f"{len(prompts)} prompts from {first}"
        own = self.setting
        given = self.plugin.run(
            tuple(prompts), tuple(samples), seconds=own.timeout_s, about=about, options=dict(own.options)
        )
        wanted = "return one text a prompt, or None where there is no answer"
        if not isinstance(given, Sequence) or isinstance(given, str | bytes):
            raise UserError(f"{self.plugin}: returned {typed(given)} for {about}; {wanted}")
        if len(given) != len(prompts):
            raise UserError(f"{self.plugin}: returned {len(given)} answers for {len(prompts)} prompts; {wanted}")
        return [self._checked(value, prompt) for value, prompt in zip(given, prompts, strict=True)]

    def _checked(self, value: object, prompt: Prompt) -> Answered:
        if value is None:
            return Answered(None, why="None from the function")
        if not isinstance(value, str):
            raise UserError(
                f"{self.plugin}: returned {typed(value)} for prompt '{shortened(prompt.id)}' in '{prompt.language}'; "
                "return a text, or None where there is no answer"
            )
        return checked(value, False, self.plugin.name)

    def key(self, prompt: Prompt, sample: int) -> bytes:
        """Under which an answer is kept: another version of the function's file has answers of its own."""
        turns = [*map(list, prompt.before), prompt.text]
        return question_key(
            function=self.plugin.name,
            digest=self.plugin.digest,
            options=self.setting.options,
            prompt=[prompt.id, prompt.language, turns],
            sample=sample,
        )


async def own_answers(
    source: LoadedSource, prompts: Sequence[Prompt], samples: Sequence[int], cache: AnswerCache
) -> list[Answered]:
    """The answers of a function, one a prompt; what is known is not asked for.

    Raises:
        UserError: See :class:`LoadedSource`.
    """
    keys = [source.key(prompt, sample) for prompt, sample in zip(prompts, samples, strict=True)]
    found = {place: known for place, key in enumerate(keys) if (known := cache.get(key)) is not None}
    todo = [place for place in range(len(keys)) if place not in found]
    if todo:
        asked, numbers = [prompts[place] for place in todo], [samples[place] for place in todo]
        for place, answer in zip(todo, await _in_thread(lambda: source(asked, numbers)), strict=True):
            found[place] = answer
            if answer.text is not None:
                cache.put(keys[place], answer)
    return [found[place] for place in range(len(keys))]


async def _in_thread(work: Callable[[], T]) -> T:
    """``work`` in a thread that neither the loop's end nor the process's waits for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(settled: Callable[[], None]) -> None:
        if not done.done():
            settled()

    def run() -> None:
        settled: Callable[[], None]
        try:
            settled = partial(done.set_result, work())
        except Exception as error:
            settled = partial(done.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, settled)

    threading.Thread(target=run, name="isogloss-own-source", daemon=True).start()
    return await done


def try_sources(config: Config, prompts: PromptSet) -> None:
    """Call each function on two prompts, before anything starts.

    Raises:
        UserError: It cannot be used, or answers neither; names the function and the cure.
    """
    for place, own in enumerate(config.candidates.sources):
        if not isinstance(own, CustomSource):
            continue
        source = LoadedSource.load(config, place)
        codes = own.languages or config.languages.codes
        rows = [row for row in prompts.rows.values() if row.language in codes]
        if not rows:
            raise UserError(f"candidates.sources.{place}.languages: there is no prompt in {', '.join(codes)}")
        taken = [_without_answer(row) for row in (rows[0], rows[-1])]
        answers = source(taken, [0, 0])
        if all(answer.text is None for answer in answers):
            raise UserError(
                f"{source.plugin}: answers neither prompt '{shortened(taken[0].id)}' in '{taken[0].language}' nor "
                f"'{shortened(taken[1].id)}' in '{taken[1].language}' ({answers[0].why}); correct it"
            )


def _without_answer(prompt: Prompt) -> Prompt:
    return Prompt(prompt.id, prompt.language, prompt.text, before=prompt.before)
