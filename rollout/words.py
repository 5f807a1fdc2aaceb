"""A text as words: one way of cutting for all measures that count, look up or compare words. Pure."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence

import regex

from rollout.language.scripts import script_of

# Scripts that put no spaces between words.
_UNSPACED = frozenset({"Hani", "Kana", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"})
# Letters with their marks (vowel signs of Indic scripts, and the joiners between them) and digits. An apostrophe is a
# letter's part where Cyrillic is written so, as in Ukrainian; elsewhere it parts words.
_TOKEN = regex.compile(r"[\p{L}\p{N}_](?:[\p{L}\p{N}_\p{M}\u200c\u200d]|(?<=\p{Cyrillic})['\u2019](?=\p{Cyrillic}))*")
_LONGEST = 64  # characters; what is longer is no word, but a loop of letters
_DOTS = str.maketrans({"İ": "i", "I": "ı"})  # Turkish has two letters i, each with its own capital


def words(text: str, language: str = "") -> list[str]:
    """Words in lower case, NFC; of scripts without spaces each character is one.

    Args:
        text: Any.
        language: Its code, if that is known: small letters are not the same in all.
    """
    if language.partition("-")[0] in ("tr", "az"):
        text = text.translate(_DOTS)
    found: list[str] = []
    for token in _TOKEN.findall(unicodedata.normalize("NFC", text.casefold())):
        if len(token) > _LONGEST or any(map(is_unspaced, token)):
            found += characters(token)
        else:
            found.append(token)
    return found


def characters(text: str) -> list[str]:
    """What a reader takes for a character: a letter with its marks, an emoji of several code points; no white space."""
    return [one for one in regex.findall(r"\X", text) if not one.isspace()]


@functools.lru_cache(maxsize=1 << 14)
def is_unspaced(char: str) -> bool:
    """Whether a character is a letter of a script without spaces."""
    return char.isalpha() and script_of(char) in _UNSPACED


def of_letters(word: str) -> bool:
    """Whether a word is two characters or more, and letters alone."""
    return len(word) > 1 and not any(char == "_" or char.isnumeric() for char in word)


def ngrams(found: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """All runs of ``size`` words, in order; none where there are fewer words."""
    return [tuple(found[start : start + size]) for start in range(len(found) - size + 1)]
