"""Which of the run's languages a text is in: lingua where it knows the language, else its script.

Detection is restricted to the run's languages, single-threaded and deterministic.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

# lingua knows two-letter ISO 639-1 codes only; these name the same languages.
_ALIASES = {"no": "nb", "fil": "tl", "cmn": "zh", "iw": "he", "in": "id"}

# Languages that lingua does not know and that their script gives away (first word of Unicode character names).
_SCRIPTS = {
    "am": "ETHIOPIC",
    "as": "BENGALI",
    "dv": "THAANA",
    "km": "KHMER",
    "kn": "KANNADA",
    "lo": "LAO",
    "ml": "MALAYALAM",
    "my": "MYANMAR",
    "ne": "DEVANAGARI",
    "or": "ORIYA",
    "si": "SINHALA",
    "ti": "ETHIOPIC",
}
# Scripts of the languages that lingua knows and that share one with the table above.
_SHARED = {"bn": "BENGALI", "hi": "DEVANAGARI", "mr": "DEVANAGARI"}

# Smallest lead of the best language over the second, in lingua's confidence (0 to 1). Short sentences with foreign
# names lead by less; refusing them would cost more right answers than it would find wrong ones.
MIN_LEAD = 0.15

UNKNOWN = "und"  # BCP-47 for undetermined: surely a language, surely none of the run's


class LanguageDetector:
    """Detects the languages of a run.

    Attributes:
        undetectable: Codes that can't be told apart by lingua or script (:meth:`detect` never answers with them, and
            never contradicts them): the caller should warn that their language gate is open.
    """

    def __init__(self, codes: Sequence[str], min_chars: int = 8) -> None:
        """Build the detector.

        Args:
            codes: BCP-47 codes; only the primary subtag counts (``pt-BR`` and ``pt-PT`` are one language here).
            min_chars: Shorter texts (without outer white space) are never decided.
        """
        from lingua import IsoCode639_1, Language, LanguageDetectorBuilder

        self.min_chars = min_chars
        self._codes: dict[Any, list[str]] = {}  # lingua language -> codes
        self._scripts: dict[str, str] = {}  # script -> code
        undetectable: list[str] = []
        rest: list[str] = []
        for code in codes:
            base = _base(code)
            try:
                language = Language.from_iso_code_639_1(IsoCode639_1.from_str(base))
            except ValueError:
                rest.append(code)
                continue
            self._codes.setdefault(language, []).append(code)
        taken = Counter(_SCRIPTS.get(_base(c)) or _SHARED.get(_base(c)) for c in codes)
        for code in rest:
            script = _SCRIPTS.get(_base(code))
            if script is None or taken[script] > 1:
                undetectable.append(code)
            else:
                self._scripts[script] = code
        self.undetectable: tuple[str, ...] = tuple(undetectable)
        self._lingua = LanguageDetectorBuilder.from_languages(*self._codes).build() if self._codes else None

    def detect(self, text: str, expected: str | None = None) -> str | None:
        """The language of ``text``.

        Args:
            text: Any text.
            expected: The language that the text should be in. Decides between codes of one language (``pt-BR``,
                ``pt-PT``), and keeps an undetectable one from being taken for its neighbour.

        Returns:
            One of the run's codes; ``und`` for letters that none of them is written in; None if unsure.
        """
        text = text.strip()
        if len(text) < self.min_chars or expected in self.undetectable:
            return None
        letters = [ch for ch in text if ch.isalpha()]
        if not letters:
            return None
        script, count = Counter(unicodedata.name(ch, "?").split(" ", 1)[0] for ch in letters).most_common(1)[0]
        if script in self._scripts and 2 * count > len(letters):
            return self._scripts[script]
        if self._lingua is None:
            return None if self.undetectable else UNKNOWN
        values = self._lingua.compute_language_confidence_values(text)
        if values[0].value == 0.0:  # lingua's way to say that no language uses these letters
            return None if self.undetectable or len(letters) < self.min_chars else UNKNOWN
        lead = values[0].value - (values[1].value if len(values) > 1 else 0.0)
        if lead < MIN_LEAD:
            return None
        codes = self._codes[values[0].language]
        return expected if expected in codes else codes[0]


def _base(code: str) -> str:
    base = code.split("-", 1)[0].lower()
    return _ALIASES.get(base, base)
