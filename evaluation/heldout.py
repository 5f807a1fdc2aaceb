"""Held-out prompts: what is asked, and how the answers are scored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from configs.json_types import JsonObject
from configs.schema import Config, EvaluationConfig
from rollout.language import LanguageDetector, answer_part
from rollout.plan import Chunk, Request
from rollout.prompts import PromptSet
from rollout.records import Candidate, CandidateKey
from rollout.rewards import is_correct
from rollout.seeds import stable_seed

GREEDY = 0  # sample index of the greedy answer; 1 to n are the sampled ones


@dataclass(frozen=True, slots=True)
class PromptResult:
    """One prompt in one language; accuracies are 0 to 1, and None without gold answers.

    Attributes:
        id: Of the prompt.
        greedy: Whether the greedy answer is right.
        sampled: Share of the answers sampled at ``evaluation.temperature`` that are right.
        any_sampled: Whether one of them is.
        by_temperature: Temperature -> share of the answers sampled at it (``evaluation.temperatures``).
        cluster: Of the prompt.
        group: Of the prompt.
        answer: The greedy answer, without reasoning before it; kept where ``evaluation.judge`` compares it.
        judged: Whether the judge was asked to compare it with that of the start.
        preference: 1 where it is better than that of the start, 0 where it is worse, 0.5 for a tie, in between by the
            verdict's probability; None where the judge was not asked, or failed.
        inconsistent: The verdict depended on the order of the answers, and counts as a tie.
        marked: Share of the answers sampled at ``evaluation.temperature`` that hold a marker (``evaluation.markers``);
            None without markers for the language.
    """

    id: str
    greedy: float | None
    sampled: float | None
    any_sampled: float | None = None
    by_temperature: dict[str, float] = field(default_factory=dict)
    cluster: str | None = None
    group: str | None = None
    answer: str | None = None
    judged: bool = False
    preference: float | None = None
    inconsistent: bool = False
    marked: float | None = None


@dataclass(frozen=True, slots=True)
class LanguageResult:
    """One language.

    Attributes:
        accuracy_greedy: Share of greedy answers that are right; None without gold answers.
        accuracy_sampled: Mean over prompts of the share of sampled answers that are right.
        right_language: Share of the sampled answers in a decided language that are in the right one; None if none was
            decided.
        undecided_language: Share of the sampled answers whose language was not decided (short, or unsure).
        mean_length: Characters of a sampled answer.
        mean_length_tokens: Tokens of a sampled answer, end of turn included.
        truncated: Share of the sampled answers that hit the token limit.
        marked: Share of the sampled answers that hold a marker; None without markers for the language.
        prompts: By prompt, in the order of the prompt set: what the intervals are computed from.
    """

    accuracy_greedy: float | None
    accuracy_sampled: float | None
    right_language: float | None
    undecided_language: float
    mean_length: float
    mean_length_tokens: float
    truncated: float
    prompts: tuple[PromptResult, ...]
    marked: float | None = None


@dataclass(frozen=True, slots=True)
class HeldoutResult:
    """All languages, with the weight version that answered."""

    weight_version: int
    languages: dict[str, LanguageResult]

    def to_json(self) -> JsonObject:
        """Plain data for the journal."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: JsonObject) -> HeldoutResult:
        """The inverse of :meth:`to_json`, also after a way through JSON."""
        return cls(
            data["weight_version"],
            {
                code: LanguageResult(**{**fields, "prompts": tuple(PromptResult(**row) for row in fields["prompts"])})
                for code, fields in data["languages"].items()
            },
        )


def heldout_chunks(config: Config, prompts: PromptSet, round_number: int) -> list[Chunk]:
    """One greedy and ``evaluation.samples_per_prompt`` sampled answers to every held-out prompt, all languages.

    Then as many at each of ``evaluation.temperatures``.

    The seeds don't depend on ``round_number``, so evaluations before and after are paired draws. It is the round whose
    weights answer (0 at the start) and stands in the keys and chunk ids only.
    """
    rollout = config.rollout
    chunks: list[Chunk] = []
    for code in prompts.languages:
        for block, start in enumerate(range(0, len(prompts.ids), rollout.chunk_prompts)):
            requests = tuple(
                Request(
                    key=CandidateKey(round_number, prompt_id, code, "policy", code, sample),
                    prompt=prompts.get(prompt_id, code).turns,
                    prime="",
                    temperature=temperature,
                    top_p=1.0,
                    top_k=-1,
                    max_new_tokens=rollout.longest(code),
                    seed=stable_seed(config.run.seed, "heldout", prompt_id, code, sample),
                    stop=tuple(rollout.stop),
                )
                for prompt_id in prompts.ids[start : start + rollout.chunk_prompts]
                for sample, temperature in enumerate(_temperatures(config.evaluation))
            )
            chunks.append(
                Chunk(f"eval{round_number:04d}/{code}/{block:04d}", round_number, "answer", code, code, requests)
            )
    return chunks


def _temperatures(evaluation: EvaluationConfig) -> list[float]:
    """By sample index: the greedy answer's, then those of the sampled accuracy, then ``evaluation.temperatures``."""
    return [0.0] + [
        temperature
        for temperature in (evaluation.temperature, *evaluation.temperatures)
        for _ in range(evaluation.samples_per_prompt)
    ]


def score_heldout(
    prompts: PromptSet,
    candidates: Sequence[Candidate],
    detector: LanguageDetector,
    *,
    temperatures: Sequence[float] = (),
    keep_answers: bool = False,
    markers: Mapping[str, Sequence[str]] | None = None,
) -> HeldoutResult:
    """Score the answers to :func:`heldout_chunks`, in any order.

    Args:
        prompts: The held-out prompts.
        candidates: All answers.
        detector: Says which language an answer is in.
        temperatures: ``evaluation.temperatures`` of the config that the answers were sampled with.
        keep_answers: Whether the result holds the greedy answers.
        markers: ``evaluation.markers``.

    Raises:
        ValueError: An answer is missing or the answers are of several weight versions: the figures would be wrong.
    """
    versions = {candidate.weight_version for candidate in candidates if candidate.weight_version is not None}
    if len(versions) != 1:
        raise ValueError(f"held-out answers of weight versions {sorted(versions)}, expected exactly one")
    by_prompt: dict[tuple[str, str], dict[int, Candidate]] = {}
    for candidate in candidates:
        key = candidate.key
        by_prompt.setdefault((key.prompt_id, key.language), {})[key.sample] = candidate
    samples = {sample for answers in by_prompt.values() for sample in answers}
    expected = len(prompts.ids) * len(prompts.languages)
    if len(by_prompt) != expected or any(set(answers) != samples for answers in by_prompt.values()):
        raise ValueError(f"held-out answers are incomplete: {len(by_prompt)} of {expected} prompts, samples {samples}")
    if GREEDY not in samples or len(samples) < 2:
        raise ValueError(f"held-out answers have samples {sorted(samples)}; one greedy and one sampled are needed")
    return HeldoutResult(
        versions.pop(),
        {
            code: _language(
                prompts,
                code,
                [by_prompt[prompt_id, code] for prompt_id in prompts.ids],
                detector,
                temperatures=temperatures,
                keep_answers=keep_answers,
                markers=[re.compile(pattern) for pattern in (markers or {}).get(code, ())],
            )
            for code in prompts.languages
        },
    )


def _language(
    prompts: PromptSet,
    code: str,
    answers: Sequence[dict[int, Candidate]],
    detector: LanguageDetector,
    *,
    temperatures: Sequence[float],
    keep_answers: bool,
    markers: Sequence[re.Pattern[str]],
) -> LanguageResult:
    rows: list[PromptResult] = []
    sampled: list[Candidate] = []
    for prompt_id, of_prompt in zip(prompts.ids, answers, strict=True):
        drawn = [candidate for sample, candidate in sorted(of_prompt.items()) if sample != GREEDY]
        size = len(drawn) // (1 + len(temperatures))
        sampled += drawn[:size]
        prompt = prompts.get(prompt_id, code)
        answer = answer_part(of_prompt[GREEDY].text) if keep_answers else None
        marked = _mean([float(any(one.search(c.text) for one in markers)) for c in drawn[:size]]) if markers else None
        if prompt.answer is None:
            rows.append(PromptResult(prompt_id, None, None, answer=answer, marked=marked))
            continue
        right = [float(is_correct(candidate.text, prompt.answer)) for candidate in drawn]
        others = {
            f"{temperature:g}": sum(right[number * size : (number + 1) * size]) / size
            for number, temperature in enumerate(temperatures, start=1)
        }
        rows.append(
            PromptResult(
                prompt_id,
                greedy=float(is_correct(of_prompt[GREEDY].text, prompt.answer)),
                sampled=sum(right[:size]) / size,
                any_sampled=max(right[:size]),
                by_temperature=others,
                cluster=prompt.cluster,
                group=prompt.group,
                answer=answer,
                marked=marked,
            )
        )
    detected = [detector.detect(candidate.text, code) for candidate in sampled]
    decided = [language for language in detected if language is not None]
    return LanguageResult(
        accuracy_greedy=_mean([row.greedy for row in rows]),
        accuracy_sampled=_mean([row.sampled for row in rows]),
        right_language=_mean([float(language == code) for language in decided]),
        undecided_language=1 - len(decided) / len(detected),
        mean_length=sum(len(c.text) for c in sampled) / len(sampled),
        mean_length_tokens=sum(len(c.token_ids) for c in sampled) / len(sampled),
        truncated=sum(c.finish_reason == "length" for c in sampled) / len(sampled),
        prompts=tuple(rows),
        marked=_mean([row.marked for row in rows]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
