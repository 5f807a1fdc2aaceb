"""Language fidelity: is an answer, and each of its lines, in the language that was asked for?"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rollout.language import LanguageDetector, prose

UNSURE = "unsure"
# Scripts that one language mixes as a matter of course count as one (first words of Unicode character names).
_ONE_SCRIPT = {
    "HIRAGANA": "CJK",
    "KATAKANA": "CJK",
    "KATAKANA-HIRAGANA": "CJK",
    "HALFWIDTH": "CJK",
    "FULLWIDTH": "LATIN",
}
_CONFUSED_SHARE = 0.1  # of the letters; less is a name or a term


@dataclass(frozen=True, slots=True)
class AnswerFidelity:
    """One answer.

    Attributes:
        language: Asked for.
        detected: Of the whole answer; None if unsure.
        lines: Detected language of each line that has letters outside code; None if unsure.
        scripts: Letters by script, of the text outside code.
    """

    language: str
    detected: str | None
    lines: tuple[str | None, ...]
    scripts: dict[str, int]

    @property
    def wrong_lines(self) -> int:
        """Lines that are surely in another language."""
        return sum(line is not None and line != self.language for line in self.lines)

    @property
    def switches(self) -> bool:
        """Whether two lines are surely in different languages."""
        return len({line for line in self.lines if line is not None}) > 1


def scripts(text: str) -> dict[str, int]:
    """Letters by script, by the first word of their Unicode names; Japanese and Chinese scripts count as one."""
    names = (unicodedata.name(char, "?").split(" ", 1)[0] for char in text if char.isalpha())
    return dict(Counter(_ONE_SCRIPT.get(name, name) for name in names))


def answer_fidelity(text: str, language: str, detector: LanguageDetector) -> AnswerFidelity:
    """Detect an answer as a whole and line by line; code, formulas and addresses have no language."""
    lines = prose(text)
    whole = "\n".join(lines)
    detected = detector.detect(whole, language)
    return AnswerFidelity(
        language=language,
        detected=detected,
        lines=(detected,) if len(lines) == 1 else tuple(detector.detect(line, language) for line in lines),
        scripts=scripts(whole),
    )


def confused_scripts(code: str, rows: Sequence[AnswerFidelity]) -> list[bool | None]:
    """Of each answer in one language, whether over a tenth of its letters are in an unusual script.

    None for an answer without letters.
    The usual script is the most frequent one over the answers that are in the language, or over all where none is.
    """
    lettered = [row for row in rows if row.scripts]
    usual = _usual_script([row for row in lettered if row.detected == code] or lettered)
    return [
        1 - row.scripts.get(usual, 0) / sum(row.scripts.values()) > _CONFUSED_SHARE if row.scripts else None
        for row in rows
    ]


def _usual_script(rows: Sequence[AnswerFidelity]) -> str:
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row.scripts)
    return min(total, key=lambda name: (-total[name], name)) if total else ""


def confusion(pairs: Iterable[tuple[str, str | None]]) -> dict[str, dict[str, int]]:
    """Language asked for -> language detected ("unsure" where it was not decided) -> answers.

    Args:
        pairs: (asked, detected) of each answer.
    """
    table: dict[str, Counter[str]] = {}
    for asked, detected in pairs:
        table.setdefault(asked, Counter())[detected or UNSURE] += 1
    return {asked: dict(sorted(row.items())) for asked, row in sorted(table.items())}
