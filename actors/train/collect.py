"""One round's candidates, from prompts to scores, streaming: a finished answer chunk is translated or judged at
once, while others are still sampled. Whatever the journal already holds is not done again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from rollout.plan import Chunk, answer_chunks, translation_chunks
from rollout.records import Candidate

StoreCall = Callable[..., Any]  # store("put_chunk", ...) -> result


class RoundCollector:
    """Fills the journal with the candidates and scores of one round.

    Args:
        config: The run.
        inputs: Train prompts and what goes with them.
        round: From 1.
        rollouts: Pool whose actors have ``generate(chunk)``.
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
        self.chunks = answer_chunks(config, inputs.prompts, round)

    def start(self) -> None:
        """Queue what the journal lacks; the pools' ``drain`` then does it."""
        scored = self._store("done_chunks", self._round, "score")
        answered = self._store("done_chunks", self._round, "answer")
        translated = self._store("done_chunks", self._round, "translate")
        for chunk in self.chunks:
            if chunk.id in scored:
                self._progress.resumed(1)
                continue
            parts = _Parts(chunk, translated)
            if chunk.id in answered:
                self._answered(parts, self._store("candidates", self._round, chunk.id))
            else:
                self._generate(chunk, partial(self._answered, parts))

    def _generate(self, chunk: Chunk, then: Callable[[list[Candidate]], None]) -> None:
        def done(begin: float, end: float, candidates: list[Candidate]) -> None:
            self._clock.add("generate", begin, end, worker=True)
            self._store("put_chunk", chunk.id, self._round, chunk.stage, candidates)
            self._exported.sampled(candidates)
            self._progress.sampled(candidates)
            then(candidates)

        self._rollouts.submit(Call(f"generate {chunk.id}", "generate", (chunk,), done))

    def _answered(self, parts: _Parts, answers: Sequence[Candidate]) -> None:
        parts.candidates.extend(answers)
        plan = translation_chunks(self._config, parts.answers, answers, self._inputs.untranslated, self._inputs.fits)
        parts.missing = len(plan.chunks)
        if not plan.chunks:
            self._judge(parts)
        for chunk in plan.chunks:
            if chunk.id in parts.translated:
                self._translated(parts, self._store("candidates", self._round, chunk.id))
            else:
                self._generate(chunk, partial(self._translated, parts))

    def _translated(self, parts: _Parts, translations: Sequence[Candidate]) -> None:
        parts.candidates.extend(translations)
        parts.missing -= 1
        if parts.missing == 0:
            self._judge(parts)

    def _judge(self, parts: _Parts) -> None:
        def done(begin: float, end: float, judged: Judged) -> None:
            self._clock.add("score", begin, end, worker=True)
            if judged.usage is not None:
                self.usage = judged.usage if self.usage is None else self.usage + judged.usage
            self._store("put_scores", self._round, parts.answers.id, judged.scores, judged.candidates)
            self._exported.judged(judged)
            self._progress.advance(1)

        # Sorted, so that the composition of the forward passes does not depend on which translation came first.
        candidates = sorted(parts.candidates, key=lambda candidate: candidate.key)
        self._rewards.submit(Call(f"score {parts.answers.id}", "judge", (candidates,), done))


class _Parts:
    """An answer chunk, with the translations that it still waits for before it can be judged."""

    def __init__(self, answers: Chunk, translated: set[str]) -> None:
        self.answers = answers
        self.translated = translated
        self.candidates: list[Candidate] = []
        self.missing = 0
