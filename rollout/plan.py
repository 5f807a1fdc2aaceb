"""The requests of a round: pure, so that a restarted run asks for exactly the same again.

A chunk is one call to a rollout actor and the unit of streaming and of resume. Its composition depends on the
config, the round and (for translations) on one finished answer chunk, never on timing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.errors import UserError
from configs.schema import Config
from rollout.assignment import Assignment, Block, assigned
from rollout.jsonl import id_of, read_rows
from rollout.language import answer_part, visible
from rollout.languages import language_name
from rollout.prompts import PromptSet
from rollout.records import Candidate, CandidateKey, Gate, TranslationOutcome, Turns
from rollout.seeds import stable_seed
from rollout.sources import POLICY, SELF_TRANSLATION, Source, competes, is_answer, sources, targets
from rollout.templates import (
    TRANSLATION_CLOSE,
    TRANSLATION_OPEN,
    TRANSLATION_PRIME,
    translation_instruction,
)
from rollout.token_ids import TokenIds

Stage = Literal["answer", "translate"]


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to sample.

    ``prompt`` is the user turn, or a chat that ends with one; ``prime`` is the start of the assistant turn, not part of
    the answer; ``top_k`` -1 is all tokens; ``temperature`` 0 is greedy.
    """

    key: CandidateKey
    prompt: Turns
    prime: str
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    seed: int
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Requests that are answered in one call; ``origin`` differs from ``language`` in translations."""

    id: str
    round: int
    stage: Stage
    language: str
    origin: str
    requests: tuple[Request, ...]
    source: str = POLICY


@dataclass(frozen=True)
class TranslationPlan:
    """Translations that one answer chunk leads to, and those that it does not: (origin, language, why) -> count."""

    chunks: tuple[Chunk, ...]
    skipped: Counter[tuple[str, str, str]]


def answer_languages(config: Config) -> tuple[str, ...]:
    """Languages whose prompts are answered in a round, the dominant one first.

    A language with share 0 is left out unless its answers are translated for another language's pairs.
    """
    languages = config.languages
    needed = set(targets(config.languages))
    for source in sources(config):
        needed |= {origin for origin, target in source.directions if languages.share(target) > 0}
    return tuple(code for code in (languages.dominant, *languages.others) if code in needed)


def answered_ids(config: Config, block: Block, source: Source, language: str) -> tuple[str, ...]:
    """Prompts of a block that a source answers in ``language``: for its pairs, and to be translated for others'."""
    wanted: set[str] = set(block.ids.get(language, ())) if competes(config, source, language) else set()
    for translation in sources(config):
        if translation.of == source.name and source.origins(language):
            for target in (target for origin, target in translation.directions if origin == language):
                wanted |= set(block.ids.get(language if translation.for_reward else target, ()))
    return tuple(prompt_id for prompt_id in block.order if prompt_id in wanted)


def answer_chunks(
    config: Config, prompts: PromptSet, round_number: int, assignment: Assignment | None = None
) -> list[Chunk]:
    """The answers of a round: blocks of ``rollout.chunk_prompts`` prompts, one language and source each.

    Blocks come before languages, so that translations can start while later blocks are sampled.

    Args:
        config: The run.
        prompts: Training prompts.
        round_number: From 1.
        assignment: Its prompts; None for those of a round without a quota.
    """
    blocks = (assignment or assigned(config, prompts, round_number)).blocks
    return [chunk for block in blocks for chunk in block_chunks(config, prompts, round_number, block)]


def block_chunks(config: Config, prompts: PromptSet, round_number: int, block: Block) -> list[Chunk]:
    """The answers of one block, those of the policy first."""
    chunks: list[Chunk] = []
    for code in answer_languages(config):
        for source in sorted(sources(config), key=lambda one: one.giver != "policy"):
            if source.of is not None or not (ids := answered_ids(config, block, source, code)):
                continue
            requests = tuple(
                _answer(config, source, CandidateKey(round_number, prompt_id, code, source.name, code, sample),
                        prompts.get(prompt_id, code).turns)
                for prompt_id in ids
                for sample in range(source.samples)
            )  # fmt: skip
            part = "" if source.name == POLICY else f"{source.name}/"
            name = f"r{round_number:04d}/answer/{part}{code}/{block.index:04d}"
            chunks.append(Chunk(name, round_number, "answer", code, code, requests, source.name))
    return chunks


def _answer(config: Config, source: Source, key: CandidateKey, turns: Turns) -> Request:
    rollout = config.rollout
    if source.giver != "policy":
        return _asked(key, turns)
    return Request(
        key=key,
        prompt=turns,
        prime="",
        temperature=rollout.temperature_of(key.sample),
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        max_new_tokens=rollout.longest(key.language),
        seed=stable_seed(config.run.seed, key.round, key.prompt_id, key.language, key.language, "answer", key.sample),
        min_p=rollout.min_p,
        repetition_penalty=rollout.repetition_penalty,
        stop=tuple(rollout.stop),
    )


def _asked(key: CandidateKey, turns: Turns) -> Request:
    """A request to what is not the policy, which samples as its own settings say."""
    return Request(key, turns, "", 0.0, 1.0, -1, 0, 0)


def translation_chunks(
    config: Config,
    answers: Chunk,
    candidates: Sequence[Candidate],
    untranslated: frozenset[str] = frozenset(),
    fits: Callable[[str], bool] | None = None,
    *,
    block: Block | None = None,
) -> TranslationPlan:
    """The translations of one finished answer chunk; the policy's own are greedy (LIDR, arXiv 2410.08964).

    Args:
        config: The run.
        answers: An answer chunk.
        candidates: All its candidates, in any order.
        untranslated: Ids of prompts about translation (:func:`load_untranslated`): never translated.
        fits: Whether a user turn and its answer fit ``model.max_length``; None if that is known.
        block: Its block: answers are translated for the languages that it assigns them to; None for all.

    Raises:
        ValueError: ``candidates`` is not exactly what ``answers`` asks for.
    """
    by_key = {candidate.key: candidate for candidate in candidates}
    if set(by_key) != {request.key for request in answers.requests} or len(by_key) != len(candidates):
        raise ValueError(f"chunk {answers.id}: the candidates are not those that it asks for")
    chunks: list[Chunk] = []
    skipped: Counter[tuple[str, str, str]] = Counter()
    made_here = [one for one in sources(config) if one.of == answers.source]
    for source, (origin, target) in ((one, direction) for one in made_here for direction in one.directions):
        if origin != answers.language:
            continue
        wanted = None if block is None else block.ids.get(origin if source.for_reward else target, ())
        requests: list[Request] = []
        for request in answers.requests:
            if wanted is not None and request.key.prompt_id not in wanted:
                continue
            candidate = by_key[request.key]
            prompt = candidate.text
            if source.giver == "policy":
                prompt = translation_instruction(candidate.text, language_name(target, config.languages.names))
            why = _not_translated(candidate, untranslated)
            if why is None and source.giver == "policy" and fits is not None and not fits(prompt):
                why = "too_long"
            if why is not None:
                skipped[origin, target, why] += 1
                continue
            requests.append(_translation(config, source, candidate.key, target, prompt))
        if requests:
            chunks.append(_translation_chunk(answers, source, target, tuple(requests)))
    return TranslationPlan(tuple(chunks), skipped)


def _translation_chunk(answers: Chunk, source: Source, target: str, requests: tuple[Request, ...]) -> Chunk:
    part = "" if source.name == SELF_TRANSLATION else f"{source.name}/"
    block = answers.id.rsplit("/", 1)[-1]
    name = f"r{answers.round:04d}/translate/{part}{answers.language}-{target}/{block}"
    return Chunk(name, answers.round, "translate", target, answers.language, requests, source.name)


def _not_translated(candidate: Candidate, untranslated: frozenset[str]) -> str | None:
    if candidate.key.prompt_id in untranslated:
        return "about_translation"
    if candidate.gate != "ok":
        return candidate.gate
    if not visible(answer_part(candidate.text)):
        return "empty"
    return "truncated" if candidate.finish_reason == "length" else None


def _translation(config: Config, by: Source, source: CandidateKey, target: str, prompt: str) -> Request:
    key = CandidateKey(source.round, source.prompt_id, target, by.name, source.language, source.sample)
    if by.giver != "policy":
        return _asked(key, prompt)
    return Request(
        key=key,
        prompt=prompt,
        prime=TRANSLATION_PRIME,
        temperature=0.0,
        top_p=1.0,
        top_k=-1,
        max_new_tokens=config.candidates.translation_max_new_tokens,
        seed=stable_seed(
            config.run.seed,
            source.round,
            source.prompt_id,
            target,
            source.language,
            "translate",
            source.sample,
        ),
    )


def parse_translation(text: str, finish_reason: str) -> tuple[str | None, TranslationOutcome]:
    """The translation in an assistant turn that began with ``TRANSLATION_PRIME``.

    The released code drops every answer without the closing tag, which drops long ones more often;
    a turn that the model itself ended is kept here.

    Returns:
        (text, "ok") with the closing tag; (text, "salvaged") without it but ended by the model; (None, "failed") if
        nothing is left or the token limit cut it.
    """
    body = text.strip().removeprefix(TRANSLATION_OPEN)
    body, tag, _ = body.partition(TRANSLATION_CLOSE)
    body = body.strip()
    if not body or (not tag and finish_reason != "stop"):
        return None, "failed"
    return body, "ok" if tag else "salvaged"


def finish_candidate(
    key: CandidateKey,
    text: str,
    token_ids: Sequence[int],
    finish_reason: Literal["stop", "length"],
    weight_version: int,
    *,
    logprobs: bytes | None = None,
) -> Candidate:
    """The candidate of one completion; ``text`` is decoded without special tokens and without the prime."""
    if is_answer(key):
        return Candidate(key, text.strip(), TokenIds(token_ids), finish_reason, weight_version, logprobs=logprobs)
    translated, outcome = parse_translation(text, finish_reason)
    return Candidate(
        key,
        translated or "",
        TokenIds(token_ids),
        finish_reason,
        weight_version,
        gate="ok" if translated else "translation_failed",
        translation=outcome,
    )


def foreign_candidate(
    key: CandidateKey, text: str | None, cut: bool, model: str | None, measured: tuple[Sequence[int], bool]
) -> Candidate:
    """The candidate of an answer that is not the policy's.

    Args:
        key: Of the candidate.
        text: The answer; None where the source gave none.
        cut: Whether a limit cut it.
        model: Which model gave it.
        measured: Its token ids, end of turn included, and whether they fit ``model.max_length`` behind the prompt.
    """
    ids, fits = measured
    finish: Literal["stop", "length"] = "length" if cut else "stop"
    outcome: TranslationOutcome | None = None if is_answer(key) else "failed" if text is None or cut else "ok"
    gate: Gate = "ok"
    if outcome == "failed":
        gate = "translation_failed"
    elif text is None:
        gate = "unanswered"
    elif not fits:
        gate = "too_long"
    return Candidate(key, text or "", TokenIds.of(ids), finish, None, gate, translation=outcome, model=model)


def translation_counts(candidates: Sequence[Candidate]) -> dict[str, dict[TranslationOutcome, int]]:
    """How translations ended, by "origin-language"."""
    counts: dict[str, dict[TranslationOutcome, int]] = {}
    for candidate in candidates:
        if candidate.translation is not None:
            pair = counts.setdefault(
                f"{candidate.key.origin}-{candidate.key.language}", {"ok": 0, "salvaged": 0, "failed": 0}
            )
            pair[candidate.translation] += 1
    return counts


def load_untranslated(config: Config) -> frozenset[str]:
    """Ids of the prompts that are themselves about translation (``candidates.untranslated_ids``).

    A line is an object with ``prompts.id_field``, a string or an integer. Ids outside the training prompts are
    allowed: the list belongs to a data set, the run may use a part of it.
    """
    path: Path | None = config.candidates.untranslated_ids
    if path is None:
        return frozenset()
    seen: dict[str, int] = {}
    for number, row in read_rows(path, "candidates.untranslated_ids"):
        where = f"{path}:{number}"
        key = id_of(row, config.prompts.id_field, where, setting="prompts.id_field")
        if key in seen:
            raise UserError(f"{where}: id {json.dumps(key)} was already used in line {seen[key]}; remove one of them")
        seen[key] = number
    return frozenset(seen)
