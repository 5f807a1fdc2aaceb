"""Which language a text is in: right, other or undecided, with the reason."""

from rollout.language.cleaning import answer_part, normalised, prose, visible
from rollout.language.detector import UNKNOWN, LanguageDetector, Verdict, undetectable

__all__ = ["UNKNOWN", "LanguageDetector", "Verdict", "answer_part", "normalised", "prose", "undetectable", "visible"]
