"""Languages of answers and of their lines, kept in the cache: detection takes milliseconds an answer."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence

import xxhash

from evaluation.fidelity import AnswerFidelity, answer_fidelity
from evaluation.suites.cache import EvalCache
from evaluation.suites.records import Answer
from rollout.language import LanguageDetector
from rollout.language.detector import MIN_LEAD

KIND = "fidelity 2"  # another number whenever answer_fidelity counts otherwise
RULES = "expected language and neighbours"  # part of the keys: what other rules found is not read


def fidelities(
    answers: Mapping[tuple[str, str], Answer], languages: Sequence[str], cache: EvalCache
) -> dict[tuple[str, str], AnswerFidelity]:
    """Fidelity of each answer, by (language, id).

    Args:
        answers: Of a suite.
        languages: That the detector tells apart.
        cache: Holds what was detected before.
    """
    settings = [RULES, sorted(languages), importlib.metadata.version("lingua-language-detector"), MIN_LEAD]
    frame = json.dumps(settings)
    texts = {key: f"{frame}\0{key[0]}\0{answer.text}" for key, answer in answers.items()}
    keys = {key: xxhash.xxh3_128_hexdigest(text.encode()) for key, text in texts.items()}
    known = cache.get_notes(KIND, list(keys.values()))
    missing = [key for key in answers if keys[key] not in known]
    if missing:
        detector = LanguageDetector(sorted(languages))
        fresh = {keys[key]: _packed(answer_fidelity(answers[key].text, key[0], detector)) for key in missing}
        cache.put_notes(KIND, fresh)
        known |= fresh
    return {key: _unpacked(known[keys[key]], key[0]) for key in answers}


def _packed(found: AnswerFidelity) -> str:
    return json.dumps([found.detected, found.lines, found.scripts])


def _unpacked(text: str, language: str) -> AnswerFidelity:
    detected, lines, scripts = json.loads(text)
    return AnswerFidelity(language, detected, tuple(lines), scripts)
