"""One round's candidates, from prompts to scores, streaming: a finished chunk of answers is judged at once, while
others are still sampled or asked for. What the journal holds stays; a feed of which it lacks a part is sampled again
(``rollout.feeds``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from actors.observe.metrics import StageClock
from actors.observe.run_metrics import RunMetrics
from actors.observe.screen import StageProgress
from actors.plan.preflight import Inputs
from actors.reward.worker import ScoredCandidates
from actors.runtime.pool import Call, Pool
from actors.train.source_coordinator import SourceCoordinator
from configs.errors import UserError
from configs.schema import Config
from configs.sources import FileSource
from judges.answers import Answered
from judges.records import Usage
from rollout.assignment import Block
from rollout.feeds import deal
from rollout.journal import Journal
from rollout.plan import Chunk, block_chunks, foreign_candidate, translation_chunks
from rollout.records import Candidate
from rollout.sources import ASKED, Source, setting, sources


class RoundCollector:
    """Fills the journal with the candidates and scores of some blocks of a round.

    Args:
        config: The run.
        inputs: Train prompts and what goes with them.
        round_number: From 1.
        blocks: Of the round's prompts.
        rollouts: Pool whose actors have ``generate(chunks)``.
        rewards: Pool whose actors have ``score(candidates)``.
        coordinator: Asks servers and commands; None where no source needs one.
        store: Calls a method of the journal.
        clock: Gets the actors' busy intervals as stages "generate" and "score".
        progress: Told of the candidates that come back and of every unit that is scored.
        exported: Told of every chunk that comes back.
    """

    def __init__(
        self,
        config: Config,
        inputs: Inputs,
        round_number: int,
        blocks: Sequence[Block],
        rollouts: Pool,
        *,
        rewards: Pool,
        coordinator: SourceCoordinator | None,
        store: Journal,
        clock: StageClock,
        progress: StageProgress,
        exported: RunMetrics,
    ) -> None:
        self._config = config
        self._inputs = inputs
        self._round = round_number
        self._rollouts = rollouts
        self._rewards = rewards
        self._coordinator = coordinator
        self._store = store
        self._clock = clock
        self._progress = progress
        self.usage: Usage | None = None  # of a judge, for what was scored since the start
        self._exported = exported
        self._by_ids = True  # whether the round's answers are scored by their tokens as sampled
        self._sources = {source.name: source for source in sources(config)}
        self._done: dict[str, set[str]] = {}
        self._planned: Counter[tuple[str, str]] = Counter()  # (source, language) -> questions to servers
        self._failed: Counter[tuple[str, str]] = Counter()
        self._answers: list[_Node] = []
        self._units = [unit for block in blocks for unit in self._block_units(block)]

    @property
    def units(self) -> int:
        """How many there are to be scored: a language of a block each."""
        return len(self._units)

    def start(self) -> None:
        """Queue what the journal lacks; ``drain`` of pools and coordinator then does it."""
        # An answer that a text ended has that text among its tokens, and no end: what it is worth is in its text.
        self._by_ids = not self._config.rollout.stop and self._store.begin_round(self._round)
        stages = ("score", "answer", "translate")
        self._done = {stage: self._store.done_chunks(self._round, stage) for stage in stages}
        for unit in self._units:
            if unit.id in self._done["score"]:
                self._progress.resumed(1)
                continue
            unit.missing = len(unit.nodes)
            for node in unit.nodes:
                node.waiting.append(unit)
        # Only now, as what is in the journal is there at once.
        sampled = {chunk.id: node for node in self._answers if (chunk := node.chunk) and self._is_policy(node)}
        for chunks in deal(self._config.rollout, [node.chunk for node in sampled.values() if node.chunk is not None]):
            feed = _Feed([sampled[chunk.id] for chunk in chunks])
            if any(node.needed for node in feed.nodes.values()):
                self._sample(feed)
        for node in self._answers:
            if node.needed and not self._is_policy(node):
                assert node.chunk is not None
                self._get(node, node.chunk)

    def _is_policy(self, node: _Node) -> bool:
        return node.chunk is not None and self._sources[node.chunk.source].giver == "policy"

    # --- the plan of a block --------------------------------------------------------------------------------------

    def _block_units(self, block: Block) -> list[_Unit]:
        """What is scored together: all scored candidates of a language, and what they are translated into for their
        reward or for other languages' pairs.
        """
        units: dict[str, _Unit] = {}

        def unit(language: str) -> _Unit:
            name = f"r{self._round:04d}/answer/{language}/{block.index:04d}"
            return units.setdefault(language, _Unit(name))

        for chunk in block_chunks(self._config, self._inputs.prompts, self._round, block):
            node = _Node(block, chunk)
            self._answers.append(node)
            unit(chunk.language).nodes.append(node)
            if self._sources[chunk.source].giver != "policy":
                self._planned[chunk.source, chunk.language] += len(chunk.requests)
            for source in self._sources.values():
                for origin, target in source.directions if source.of == chunk.source else ():
                    if origin == chunk.language:
                        # A translation that is scored competes in its language; one that is not only needs its gates.
                        translation = _Node(block, None, node, source, (origin, target))
                        node.translations.append(translation)
                        unit(target if source.scored else origin).nodes.append(translation)
                        if source.giver != "policy":
                            ids = block.ids.get(target, ())
                            self._planned[source.name, target] += sum(r.key.prompt_id in ids for r in chunk.requests)
        return [one for _, one in sorted(units.items(), key=lambda item: self._order(item[0]))]

    def _order(self, language: str) -> int:
        languages = self._config.languages
        return [languages.dominant, *languages.others].index(language)

    # --- from node to node ----------------------------------------------------------------------------------------

    def _sample(self, feed: _Feed) -> None:
        """The policy's answers of a feed; its own translations of them are a feed too, once all answers are there."""

        def then(name: str, candidates: Sequence[Candidate]) -> None:
            self._complete(feed.nodes[name], candidates)
            feed.unanswered -= 1
            if feed.unanswered == 0:
                self._translate_feed(feed)

        self._feed([node.chunk for node in feed.nodes.values() if node.chunk is not None], then)

    def _translate_feed(self, feed: _Feed) -> None:
        owners: dict[str, _Node] = {}
        chunks: list[Chunk] = []
        for node in feed.nodes.values():
            made = self._translations(node)
            for one in node.translations:
                assert one.source is not None
                if one.source.giver == "policy":
                    if (chunk := made.get((one.source.name, *one.direction))) is None:
                        self._complete(one, [])
                    else:
                        owners[chunk.id] = one
                        chunks.append(chunk)
        if any(one.waiting for one in owners.values()):
            self._feed(chunks, lambda name, candidates: self._complete(owners[name], candidates))

    def _feed(self, chunks: Sequence[Chunk], then: Callable[[str, list[Candidate]], None]) -> None:
        """What a feed gives: from the journal where it is all there, else sampled whole."""
        known = self._done[chunks[0].stage]
        if all(chunk.id in known for chunk in chunks):
            for chunk in chunks:
                then(chunk.id, self._store.candidates(self._round, chunk.id))
        else:
            self._generate(chunks, known, then)

    def _get(self, node: _Node, chunk: Chunk) -> None:
        """What one chunk gives that is no part of a feed."""
        giver = self._sources[chunk.source].giver
        if giver == "policy":
            self._feed([chunk], lambda _name, candidates: self._complete(node, candidates))
        elif chunk.id in self._done[chunk.stage]:
            candidates = self._store.candidates(self._round, chunk.id)
            self._note_failed(chunk, candidates)
            self._complete(node, candidates)
        elif giver == "file":
            self._taken(node, chunk, 0.0, 0.0, self._from_file(chunk))
        else:
            assert self._coordinator is not None
            self._coordinator.submit(chunk, partial(self._taken, node, chunk))

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
                candidates = self._store.candidates(self._round, name)
            else:
                self._store.put_chunk(name, self._round, by_id[name].stage, candidates)
                self._exported.sampled(candidates)
                self._progress.sampled(candidates)
            then(name, candidates)

        first = chunks[0].id
        what = f"generate {first}" + (f" and {len(chunks) - 1} more" if len(chunks) > 1 else "")
        self._rollouts.submit(Call(what, "generate", (list(chunks),), done, streams=True))

    def _from_file(self, chunk: Chunk) -> list[Answered]:
        texts = self._inputs.answers[chunk.source].texts
        found: list[Answered] = []
        for request in chunk.requests:
            rows = texts.get((request.key.prompt_id, request.key.language), [])
            if request.key.sample < len(rows):
                text, model = rows[request.key.sample]
                found.append(Answered(text, False, model or ""))
            else:
                found.append(Answered(None, why="no row in the file"))
        return found

    def _taken(self, node: _Node, chunk: Chunk, begin: float, end: float, answers: list[Answered]) -> None:
        """The answers of a source that is not the policy."""
        if end:
            self._clock.add("generate", begin, end, worker=True)
        prompts = self._inputs.prompts
        candidates = [
            foreign_candidate(
                request.key,
                answer.text,
                answer.cut,
                answer.model or None,
                self._inputs.measure(prompts.get(request.key.prompt_id, request.key.language).turns, answer.text or ""),
            )
            for request, answer in zip(chunk.requests, answers, strict=True)
        ]
        self._note_failed(chunk, candidates, next((one.why for one in answers if one.text is None), ""))
        self._store.put_chunk(chunk.id, self._round, chunk.stage, candidates)
        self._exported.sampled(candidates)
        self._progress.sampled(candidates)
        self._complete(node, candidates)

    def _note_failed(self, chunk: Chunk, candidates: Iterable[Candidate], why: str = "") -> None:
        """Count answers that a server owes; stop where too many of a round's are missing.

        Raises:
            UserError: Names source, language, counts and the cure.
        """
        source = self._sources[chunk.source]
        if source.giver not in ASKED:
            return
        own = setting(self._config.candidates, source)
        assert not isinstance(own, FileSource)
        place = (source.name, chunk.language)
        self._failed[place] += sum(one.gate in ("unanswered", "translation_failed") for one in candidates)
        failed, planned = self._failed[place], self._planned[place]
        if why and failed > (1 - own.min_answered) * planned + 1e-9:
            raise UserError(
                f"candidates.sources.{source.place} ({source.name}): {failed} of {planned} questions in "
                f"'{chunk.language}' got no answer, more than min_answered {own.min_answered:g} allows (the last: "
                f"{why}); remove the cause, or lower min_answered. What was answered is kept: continue with --resume"
            )

    def _complete(self, node: _Node, candidates: Sequence[Candidate]) -> None:
        node.candidates = list(candidates)
        for unit in node.waiting:
            self._arrived(unit)
        if open_ones := [one for one in node.translations if one.waiting and not self._in_feed(node, one)]:
            made = self._translations(node)
            for one in open_ones:
                assert one.source is not None
                chunk = made.get((one.source.name, *one.direction))
                if chunk is None:
                    self._complete(one, [])
                else:
                    self._get(one, chunk)

    def _in_feed(self, node: _Node, translation: _Node) -> bool:
        assert translation.source is not None
        return self._is_policy(node) and translation.source.giver == "policy"

    def _translations(self, node: _Node) -> dict[tuple[str, str, str], Chunk]:
        """(source, origin, language) -> the translations of an answered node."""
        assert node.chunk is not None
        assert node.candidates is not None
        inputs = self._inputs
        # As they came: of a chunk that is scored the journal also has what its gates said.
        kept = ("unanswered", "too_long")
        came = [one if one.gate in kept else replace(one, gate="ok") for one in node.candidates]
        plan = translation_chunks(self._config, node.chunk, came, inputs.untranslated, inputs.fits, block=node.block)
        return {(chunk.source, chunk.origin, chunk.language): chunk for chunk in plan.chunks}

    def _arrived(self, unit: _Unit) -> None:
        unit.missing -= 1
        if unit.missing == 0:
            self._judge(unit)

    def _judge(self, unit: _Unit) -> None:
        def done(begin: float, end: float, judged: ScoredCandidates) -> None:
            self._clock.add("score", begin, end, worker=True)
            if judged.usage is not None:
                self.usage = judged.usage if self.usage is None else self.usage + judged.usage
            self._store.put_scores(self._round, unit.id, judged.scores, judged.candidates)
            self._exported.judged(judged)
            self._progress.advance(1)

        # Sorted, so that the composition of the forward passes does not depend on which translation came first.
        found = [candidate for node in unit.nodes for candidate in node.candidates or ()]
        candidates = sorted(found, key=lambda candidate: candidate.key)
        unit.nodes = []
        self._rewards.submit(Call(f"score {unit.id}", "score", (candidates, self._by_ids), done))


class _Node:
    """The answers of one source to a block in one language, or a translation of such."""

    def __init__(
        self,
        block: Block,
        chunk: Chunk | None,
        parent: _Node | None = None,
        source: Source | None = None,
        direction: tuple[str, str] = ("", ""),
    ) -> None:
        self.block = block
        self.chunk = chunk
        self.parent = parent
        self.source = source
        self.direction = direction
        self.translations: list[_Node] = []
        self.waiting: list[_Unit] = []
        self.candidates: list[Candidate] | None = None

    @property
    def needed(self) -> bool:
        """Whether anything waits for it, or for a translation of it."""
        return bool(self.waiting) or any(one.waiting for one in self.translations)


class _Feed:
    """The policy's answers that are sampled in one go, by the id of their chunk, and how many are not there yet."""

    def __init__(self, nodes: Sequence[_Node]) -> None:
        self.nodes = {node.chunk.id: node for node in nodes if node.chunk is not None}
        self.unanswered = len(nodes)


class _Unit:
    """What is gated and scored in one call, and how many nodes it still waits for."""

    def __init__(self, name: str) -> None:
        self.id = name
        self.nodes: list[_Node] = []
        self.missing = 0
