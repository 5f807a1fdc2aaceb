"""Line and word pass rates of the Language Confusion Benchmark (Marchisio et al. 2024, arXiv 2406.20052).

An answer passes by lines if every line of at least five words is in the language that was asked for; by words, if no
English word stands in it besides. The published script asks fastText for a line's language and a list of English words
for its words; here the project's own detector decides, lines that it cannot decide count as nothing, and any word of
four or more small Latin letters counts in a language that is written in another script: names, which begin with a
capital letter, are none, and no list of words is needed. docs/evaluation.md has both on the published answers.
"""

from __future__ import annotations

import re

from evaluation.fidelity import AnswerFidelity
from rollout.language import prose
from rollout.language.scripts import script_counts, scripts_of

LEAST_WORDS = 5  # of a line that counts
_LETTERS_A_WORD = 2  # in scripts without spaces between words
_UNSPACED = frozenset({"Hani", "Kana", "Thai", "Laoo", "Khmr", "Mymr"})
_LATIN_RUN = re.compile(r"[^\W\d_]+")
_SHORTEST = 4  # letters of a word that counts


def line_passes(text: str, found: AnswerFidelity) -> bool | None:
    """Whether all lines of an answer are in its language; None where no line of enough words was decided.

    Args:
        text: The answer.
        found: Its lines' languages.
    """
    lines = zip(prose(text), found.lines, strict=True)
    decided = [code == found.language for line, code in lines if code is not None and words(line) >= LEAST_WORDS]
    return all(decided) if decided else None


def word_passes(text: str, language: str) -> bool | None:
    """Whether no foreign word in small Latin letters stands in an answer; None where the language is written in them.

    Args:
        text: An answer that passes by lines.
        language: That it should be in.
    """
    if "Latn" in scripts_of(language):
        return None
    lines = (line for line in prose(text) if words(line) >= LEAST_WORDS)
    return not any(_foreign(run) for line in lines for run in _LATIN_RUN.findall(line))


def words(line: str) -> int:
    """About how many words a line has; in scripts without spaces two letters count as one."""
    letters = script_counts(line)
    unspaced = sum(letters[script] for script in _UNSPACED)
    return len(line.split()) + unspaced // _LETTERS_A_WORD


def _foreign(run: str) -> bool:
    return len(run) >= _SHORTEST and run.isascii() and run.islower()
