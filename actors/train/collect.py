"""One round's candidates, from prompts to scores, streaming: a finished answer chunk is judged at once, while others
are still sampled. What the journal holds stays; a feed of which it lacks a part is sampled again (``rollout.feeds``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from actors.observe.metrics import StageClock
from actors.observe.run_metrics import RunMetrics
from actors.observe.screen import StageProgress
from actors.plan.preflight import Inputs
from actors.reward.worker import Judged
from actors.runtime.pool import Call, Pool
from configs.schema import Config
from judges.records import Usage
from rollout.feeds import deal
from rollout.plan import Chunk, answer_chunks, translation_chunks
from rollout.records import Candidate

StoreCall = Callable[..., Any]  # store("put_chunk", ...) -> result


class RoundCollector:
    """Fills the journal with the candidates and scores of one round.

    Args:
        config: The run.
        inputs: Train prompts and what goes with them.
        round: From 1.
        rollouts: Pool whose actors have ``generate(chunks)``.
        rewards: Pool whose actors have ``judge(candidates)``.
        store: Calls a method of the journal.
        clock: Gets the actors' busy intervals as stages "generate" and "score".
        progress: Told of the candidates that come back and of every answer chunk that is scored.
        exported: Told of every chunk that comes back.
    """

    def __init__(
        self,
        config: Config,
        inputs: Inputs,
        round: int,
        rollouts: Pool,
        rewards: Pool,
        store: StoreCall,
        clock: StageClock,
        progress: StageProgress,
        exported: RunMetrics,
    ) -> None:
        self._config = config
        self._inputs = inputs
        self._round = round
        self._rollouts = rollouts
        self._rewards = rewards
        self._store = store
        self._clock = clock
        self._progress = progress
        self.usage: Usage | None = None  # of a judge, for what was scored since the start
        self._exported = exported
        self._by_ids = True  # whether the round's answers are scored by their tokens as sampled
        self.chunks = answer_chunks(config, inputs.prompts, round)
        self._answered: set[str] = set()  # in the journal when this began
        self._translated: set[str] = set()

    def start(self) -> None:
        """Queue what the journal lacks; the pools' ``drain`` then does it."""
        # An answer that a text ended has that text among its tokens, and no end: what it is worth is in its text.
        self._by_ids = not self._config.rollout.stop and self._store("begin_round", self._round)
        scored = self._store("done_chunks", self._round, "score")
        self._answered = self._store("done_chunks", self._round, "answer")
        self._translated = self._store("done_chunks", self._round, "translate")
        for chunks in deal(self._config.rollout, self.chunks):
            feed = _Feed([_Parts(chunk, chunk.id in scored) for chunk in chunks])
            done = sum(parts.scored for parts in feed.parts.values())
            self._progress.resumed(done)
            if done == len(chunks):
                continue
            if all(chunk.id in self._answered for chunk in chunks):
                for chunk in chunks:
                    self._have_answers(feed, chunk.id, self._store("candidates", self._round, chunk.id))
            else:
                self._generate(chunks, self._answered, partial(self._have_answers, feed))

    def _generate(self, chunks: Sequence[Chunk], known: set[str], then: Callable[[str, list[Candidate]], None]) -> None:
        """Sample a feed; what the journal has of it already stays as it is there."""
        by_id = {chunk.id: chunk for chunk in chunks}
        told: set[str] = set()  # a feed that is sampled again, as an actor died, brings all chunks again

        def done(begin: float, end: float, found: tuple[str, list[Candidate]]) -> None:
            self._clock.add("generate", begin, end, worker=True)
            name, candidates = found
            if name in told:
                return
            told.add(name)
            if name in known:
                candidates = self._store("candidates", self._round, name)
            else:
                self._store("put_chunk", name, self._round, by_id[name].stage, candidates)
                self._exported.sampled(candidates)
                self._progress.sampled(candidates)
            then(name, candidates)

        first = chunks[0].id
        what = f"generate {first}" + (f" and {len(chunks) - 1} more" if len(chunks) > 1 else "")
        self._rollouts.submit(Call(what, "generate", (list(chunks),), done, streams=True))

    def _have_answers(self, feed: _Feed, name: str, answers: Sequence[Candidate]) -> None:
        """Judge a chunk that needs no translations; those of a feed are sampled once all its answers are there."""
        parts = feed.parts[name]
        parts.candidates.extend(answers)
        # As they were sampled: of a chunk that is scored the journal also has what its gates said.
        sampled = [replace(answer, gate="ok") for answer in answers]
        plan = translation_chunks(self._config, parts.answers, sampled, self._inputs.untranslated, self._inputs.fits)
        parts.translations = plan.chunks
        parts.missing = len(plan.chunks)
        if not plan.chunks:
            self._judge(parts)
        feed.unanswered -= 1
        if not feed.unanswered:
            self._translate(feed)

    def _translate(self, feed: _Feed) -> None:
        owners = {chunk.id: parts for parts in feed.parts.values() for chunk in parts.translations}
        if not owners:
            return

        def then(name: str, translations: Sequence[Candidate]) -> None:
            parts = owners[name]
            parts.candidates.extend(translations)
            parts.missing -= 1
            if parts.missing == 0:
                self._judge(parts)

        chunks = [chunk for parts in feed.parts.values() for chunk in parts.translations]
        if all(name in self._translated for name in owners):
            for name in owners:
                then(name, self._store("candidates", self._round, name))
        else:
            self._generate(chunks, self._translated, then)

    def _judge(self, parts: _Parts) -> None:
        def done(begin: float, end: float, judged: Judged) -> None:
            self._clock.add("score", begin, end, worker=True)
            if judged.usage is not None:
                self.usage = judged.usage if self.usage is None else self.usage + judged.usage
            self._store("put_scores", self._round, parts.answers.id, judged.scores, judged.candidates)
            self._exported.judged(judged)
            self._progress.advance(1)

        if parts.scored:
            return
        # Sorted, so that the composition of the forward passes does not depend on which translation came first.
        candidates = sorted(parts.candidates, key=lambda candidate: candidate.key)
        self._rewards.submit(Call(f"score {parts.answers.id}", "judge", (candidates, self._by_ids), done))


class _Parts:
    """An answer chunk, with the translations that it still waits for before it can be judged."""

    def __init__(self, answers: Chunk, scored: bool) -> None:
        self.answers = answers
        self.scored = scored
        self.candidates: list[Candidate] = []
        self.translations: tuple[Chunk, ...] = ()
        self.missing = 0


class _Feed:
    """Chunks that are sampled in one go, by id, and how many have no answers yet."""

    def __init__(self, parts: Sequence[_Parts]) -> None:
        self.parts = {one.answers.id: one for one in parts}
        self.unanswered = len(parts)
