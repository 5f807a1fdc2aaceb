"""What a candidate must pass before it can enter a pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from configs.schema import GatesConfig
from rollout.language import LanguageDetector, answer_part, normalised, visible
from rollout.records import Candidate, Gate


def apply_gates(
    gates: GatesConfig,
    candidates: Sequence[Candidate],
    detector: LanguageDetector,
    any_language: frozenset[str] = frozenset(),
) -> list[Candidate]:
    """Judge candidates; the order of the result is that of ``candidates``.

    A candidate gets the first gate that it fails, in the order empty, garbled, truncated, language,
    duplicate. The reasoning before an answer is no part of it. Of equal answers (in NFC, without what nobody sees)
    within (round, prompt, language, source, origin) the one with the lowest sample index stays, so all candidates of
    such a group must be given together. Equality is judged among those that pass the other gates.

    Args:
        gates: Which gates are on.
        candidates: Fresh or judged before; judging again gives the same.
        detector: Also used with the language gate off, so that ``detected_language`` can be reported.
        any_language: Ids of prompts whose answer may be in any language (prompts about translation).
    """
    answers = [answer_part(candidate.text) for candidate in candidates]
    judged = [_judge(gates, *one, detector, any_language) for one in zip(candidates, answers, strict=True)]
    if not gates.duplicates:
        return judged
    first: dict[tuple[object, ...], int] = {}
    groups = [_text_group(*one) if one[0].gate == "ok" else None for one in zip(judged, answers, strict=True)]
    for candidate, group in zip(judged, groups, strict=True):
        if group is not None:
            first[group] = min(first.get(group, candidate.key.sample), candidate.key.sample)
    return [
        replace(candidate, gate="duplicate")
        if group is not None and first[group] != candidate.key.sample
        else candidate
        for candidate, group in zip(judged, groups, strict=True)
    ]


def _text_group(candidate: Candidate, answer: str) -> tuple[object, ...]:
    key = candidate.key
    return (key.round, key.prompt_id, key.language, key.source, key.origin, normalised(answer))


def _judge(
    gates: GatesConfig, candidate: Candidate, answer: str, detector: LanguageDetector, any_language: frozenset[str]
) -> Candidate:
    language = candidate.key.language
    detected = detector.detect(candidate.text, language)
    gate: Gate = "ok"
    if candidate.gate in ("unanswered", "too_long"):  # which the text does not show
        gate = candidate.gate
    elif candidate.translation == "failed":
        gate = "translation_failed"
    elif gates.empty and not visible(answer):
        gate = "empty"
    elif gates.empty and "\ufffd" in candidate.text:  # bytes that are no text: nothing to learn from
        gate = "garbled"
    elif gates.truncated and candidate.finish_reason == "length" and candidate.translation is None:
        # A translation with its closing tag is whole, whatever the model continued to write.
        gate = "truncated"
    elif (
        gates.language and detected is not None and detected != language and candidate.key.prompt_id not in any_language
    ):
        gate = "language"
    return replace(candidate, gate=gate, detected_language=detected)


def passed(candidates: Sequence[Candidate]) -> tuple[list[Candidate], Counter[tuple[str, str]]]:
    """Those that passed the gates, in their order; and (language, "gated") -> how many did not."""
    kept = [candidate for candidate in candidates if candidate.gate == "ok"]
    return kept, Counter((one.key.language, "gated") for one in candidates if one.gate != "ok")


def gate_counts(candidates: Sequence[Candidate]) -> dict[str, dict[str, dict[str, int]]]:
    """Counters for the metrics: source ("policy", "translation") -> language -> gate -> candidates."""
    counts: Counter[tuple[str, str, str]] = Counter((c.key.source, c.key.language, c.gate) for c in candidates)
    out: dict[str, dict[str, dict[str, int]]] = {}
    for (source, language, gate), count in sorted(counts.items()):
        out.setdefault(source, {}).setdefault(language, {})[gate] = count
    return out
