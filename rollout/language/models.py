"""lingua's models: which stand for a code, and how sure they are of a text."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from configs.json_types import JsonObject
from rollout.language.scripts import base_of, scripts_of

if TYPE_CHECKING:
    import lingua

# lingua knows two-letter ISO 639-1 codes only; these name the same languages.
_ALIASES = {"no": "nb", "fil": "tl", "cmn": "zh", "yue": "zh", "iw": "he", "in": "id", "arb": "ar"}
# Short texts are decided in two steps, see `of_the_likely`: the length from which lingua counts trigrams alone, how few
# languages are not worth it, and how many nats by trigrams a language is behind that is left out: fewer where the one
# asked for is ahead. Of 40,299 sentences and pieces of sentences of the Universal Declaration, each in its own
# language, as its neighbours' and strangers' and in a run of 23 languages, none got another verdict by it. Of those and
# 30,086 pieces more, the largest lead of the language asked for that all n-grams contradict was 13 nats, the largest
# lead over it 27.
_LONG, _FEW = 120, 2
_LEAST, _SURE = math.exp(-30.0), math.exp(-16.0)


@functools.cache
def _lingua() -> JsonObject:
    """ISO 639-1 -> lingua's language."""
    from lingua import Language

    return {language.iso_code_639_1.name.lower(): language for language in Language.all()}


@functools.cache
def models_of(code: str, script: str) -> frozenset[str]:
    """lingua's languages (ISO 639-1) that stand for a code in a script."""
    base = _ALIASES.get(base_of(code), base_of(code))
    if script not in scripts_of(code):
        return frozenset()
    if base == "sr":
        return frozenset({"sr"}) if script == "Cyrl" else frozenset({"bs", "hr"})
    if base not in _lingua() or script != scripts_of(base)[0]:
        return frozenset()
    return frozenset({"nb", "nn"}) if base_of(code) == "no" else frozenset({base})


def modelled(languages: Iterable[str], script: str) -> frozenset[str]:
    """Those of some languages that lingua has a model of in a script."""
    return frozenset(language for language in languages if models_of(language, script))


@functools.cache
def all_models(script: str) -> frozenset[str]:
    """lingua's languages (ISO 639-1) that are written in a script."""
    return frozenset(name for name in _lingua() if script in scripts_of(name) and models_of(name, script))


@functools.lru_cache(maxsize=4096)
def _built(languages: frozenset[str], trigrams_alone: bool = False) -> lingua.LanguageDetector:
    from lingua import LanguageDetectorBuilder

    builder = LanguageDetectorBuilder.from_languages(*(_lingua()[name] for name in sorted(languages)))
    return (builder.with_low_accuracy_mode() if trigrams_alone else builder).build()


@functools.cache
def _code(language: lingua.Language) -> str:
    code: str = language.iso_code_639_1.name.lower()
    return code


def confidences(text: str, languages: frozenset[str], trigrams_alone: bool = False) -> dict[str, float]:
    """lingua's confidence by language, which add up to 1, or to 0 where no language uses these letters."""
    if len(languages) == 1:
        return dict.fromkeys(languages, 1.0)
    found = _built(languages, trigrams_alone).compute_language_confidence_values(text)
    return {_code(value.language): value.value for value in found}


def of_the_likely(text: str, own: frozenset[str], languages: frozenset[str]) -> dict[str, float] | None:
    """:func:`confidences` as if the languages that are far behind by trigrams were not there; None where that is not
    known to be near, or saves nothing.

    lingua counts n-grams of one to five letters in a short text, which takes five times as long as trigrams alone for
    each language; it counts trigrams alone in a long one.
    """
    if len(text) >= _LONG or len(languages) <= _FEW:
        return None
    rough = confidences(text, languages, trigrams_alone=True)
    first = max(rough.values())
    if not first:
        return None  # no trigram: words of two letters
    mine = max(rough[language] for language in own)
    # What has letters that a language does not use is 0 in it, by all n-grams too.
    least = first * (_SURE if mine == first else _LEAST)
    likely = frozenset(language for language, value in rough.items() if value >= least)
    if likely <= own or len(likely) == 1:
        return dict.fromkeys(likely, 1 / len(likely))
    if 10 * len(likely) > 9 * len(languages):
        return None
    found = confidences(text, likely)
    return found if any(found.values()) else None
