"""Which language a text is in: right, other or undecided, with the reason."""

from rollout.language.cleaning import answer_part, normalised, prose, visible
from rollout.language.detector import UNKNOWN, LanguageCheck, LanguageDetector, undetectable

__all__ = [
    "UNKNOWN",
    "LanguageCheck",
    "LanguageDetector",
    "answer_part",
    "normalised",
    "prose",
    "undetectable",
    "visible",
]
