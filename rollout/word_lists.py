"""Is a word one of the language? By word lists: files of the user's own, and wordfreq's (extra ``isogloss[words]``)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import langcodes

from configs.errors import UserError
from configs.reading import read_text
from configs.schema import Config

IsWord = Callable[[str], bool]

_NEAR = 10  # langcodes' distance up to which a list is the language's own, as for `pt-BR` that of `pt`
_SEGMENTED = frozenset(
    {"zh", "ja", "ko"}
)  # wordfreq cuts these into words with tokenizers of its own, others by spaces


def word_test(files: Mapping[str, Path], language: str) -> IsWord | None:
    """What tells whether a word (case folded) is one of the language; None where there is no list.

    wordfreq's lists (Speer 2022) hold what is found in several corpora of the language, which is common foreign words
    too.

    Args:
        files: Language -> list of the user's own, a word a line; it goes before wordfreq's.
        language: Code.

    Raises:
        UserError: A file cannot be read or holds no word, or wordfreq is needed and not installed.
    """
    if language in files:
        return _listed(files[language]).__contains__
    return _in_wordfreq(language)


def check_word_lists(config: Config) -> list[str]:
    """Read the lists of every ``words`` term; a line for each that has none for some language.

    Raises:
        UserError: As :func:`word_test`; or no language of the run has a list, or a file is for none of the run's.
    """
    lines = []
    for field, measure in config.reward.words.items():
        for code in measure.files:
            if code not in config.languages.codes:
                raise UserError(f"{field}.files: '{code}' is not in languages.codes; add it or remove it")
        without = [code for code in config.languages.codes if word_test(measure.files, code) is None]
        if len(without) == len(config.languages.codes):
            raise UserError(
                f"{field}: there is no word list for {', '.join(without)}, so that no answer is better; name files of "
                f"your own in {field}.files"
            )
        if without:
            lines.append(
                f"{field}: no word list for {', '.join(without)}, where every answer's words are worth 1; "
                f"{field}.files: {{{without[0]}: FILE}} gives one"
            )
    return lines


@functools.cache
def _listed(path: Path) -> frozenset[str]:
    text = read_text(path, "word list", "create it or correct the path in the config")
    found = frozenset(word.casefold() for line in text.splitlines() if (word := line.strip()))
    if not found:
        raise UserError(f"{path}: the file is empty (word list); put one word on each line")
    return found


@functools.cache
def _in_wordfreq(language: str) -> IsWord | None:
    try:
        from wordfreq import available_languages, zipf_frequency
    except ModuleNotFoundError:
        raise UserError(
            f"kind words: there is no list for {language} among the files, and wordfreq is not installed; install "
            "isogloss[words], or name a file for every language"
        ) from None
    code, _ = langcodes.closest_match(language, sorted(set(available_languages("best")) - _SEGMENTED), _NEAR)
    if code == "und":
        return None
    return lambda word: zipf_frequency(word, code) > 0
