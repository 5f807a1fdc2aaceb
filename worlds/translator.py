"""The world's worse translator: it renders English answers with fillers that no direct answer holds."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError
from configs.reading import shown
from configs.yaml12 import read_yaml
from worlds.languages import PIVOT, Language

MARKERS_FILE = Path(__file__).with_name("translator.yaml")
_END = "."


@dataclass(frozen=True, slots=True)
class Fillers:
    """What is left in the translations into one language."""

    opening: str  # in front of the sentence
    closing: str  # before its full stop

    @property
    def patterns(self) -> list[str]:
        """Regular expressions that find them: the values of ``evaluation.markers``."""
        return [f"^{re.escape(self.opening)}".replace("\\ ", " "), re.escape(self.closing).replace("\\ ", " ")]

    def put(self, sentence: str, rng: random.Random, rate: float) -> str:
        """A sentence with the opening, the closing or both: each at ``rate``, at least one."""
        first, last = rng.random() < rate, rng.random() < rate
        if not first and not last:
            first = rng.random() < 0.5
            last = not first
        body, stop = (sentence[: -len(_END)], _END) if sentence.endswith(_END) else (sentence, "")
        return f"{self.opening if first else ''}{body}{self.closing if last else ''}{stop}"


def load_fillers(languages: Mapping[str, Language], path: Path = MARKERS_FILE) -> dict[str, Fillers]:
    """The fillers of every language but the pivot.

    Raises:
        UserError: The file is malformed, lacks a language, or a filler occurs in a direct answer of its language.
    """
    raw = read_yaml(path, "fillers of the translator")
    found: dict[str, Fillers] = {}
    for code, language in languages.items():
        if code == PIVOT:
            continue
        entry = raw.get(code) if isinstance(raw, dict) else None
        if not isinstance(entry, dict) or set(entry) != {"opening", "closing"}:
            raise UserError(f"{path}: {code}: needs opening and closing; add them")
        one = Fillers(str(entry["opening"]), str(entry["closing"]))
        for relation, form in language.relations.items():
            for value in form.values:
                sentence = language.answer(next(iter(language.people)), relation, value)
                if any(re.search(pattern, sentence) for pattern in one.patterns):
                    raise UserError(f"{path}: {code}: '{shown(sentence)}' holds a filler itself; choose another")
        found[code] = one
    return found
