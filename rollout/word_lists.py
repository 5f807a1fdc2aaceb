"""Is a word one of the language? By word lists: files of the user's own, and wordfreq's (extra ``isogloss[words]``)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import langcodes

from configs.errors import UserError
from configs.reading import read_text
from configs.schema import Config
from rollout.words import of_letters, words

IsWord = Callable[[str], bool]

# langcodes' distance up to which a list is the language's own, as for `pt-BR` that of `pt`. German's is 8 from
# Luxembourgish, of whose words it lacks two in five; Croatian and Bosnian are 9 from the list of all Serbo-Croatian.
_NEAR = 5
_OF_SERBO_CROATIAN = frozenset({"hr", "bs"})
# wordfreq cuts these into words with tokenizers of its own, others by spaces.
_SEGMENTED = frozenset({"zh", "ja", "ko"})
# CLDR's scripts of languages that put no spaces between words.
_UNSPACED = frozenset({"Hans", "Hant", "Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"})


def word_test(files: Mapping[str, Path], language: str) -> IsWord | None:
    """What tells whether a word, as ``rollout.words`` gives it, is one of the language; None where there is no list.

    wordfreq's lists (Speer 2022) hold what is found in several corpora of the language, which is common foreign words
    too.

    Args:
        files: Language -> list of the user's own, a word a line; it goes before wordfreq's.
        language: Code.

    Raises:
        UserError: A file cannot be read or holds no word, or wordfreq is needed and not installed.
    """
    if language in files:
        return _listed(files[language], language).__contains__
    return None if without_spaces(language) else _in_wordfreq(language)


@functools.cache
def without_spaces(language: str) -> bool:
    """Whether a language is written without spaces, so that there are no words to be looked up."""
    try:
        return langcodes.Language.get(language).maximize().script in _UNSPACED
    except ValueError:  # a code of the user's own
        return False


def check_word_lists(config: Config) -> list[str]:
    """Read the lists of every ``words`` term; a line for each that has none for some language.

    Raises:
        UserError: As :func:`word_test`; or no language of the run has a list, or a file is for none of the run's, or
            for one that is written without spaces.
    """
    codes = config.languages.codes
    lines = []
    for field, measure in config.reward.words.items():
        for code in measure.files:
            if code not in codes:
                raise UserError(f"{field}.files: '{code}' is not in languages.codes; add it or remove it")
            if without_spaces(code):
                raise UserError(
                    f"{field}.files: '{code}' is written without spaces between words, so that none can be looked up; "
                    "remove it"
                )
        try:
            without = [code for code in codes if word_test(measure.files, code) is None]
        except UserError as error:
            raise UserError(f"{field}: {error}") from None
        if len(without) == len(codes):
            raise UserError(
                f"{field}: there is no word list for {', '.join(without)}, so that no answer is better; name files of "
                f"your own in {field}.files, or remove the term"
            )
        if unspaced := [code for code in without if without_spaces(code)]:
            lines.append(
                f"{field}: {', '.join(unspaced)} is written without spaces between words, so that none can be looked "
                "up; every answer's words are worth 1 there"
            )
        if others := [code for code in without if code not in unspaced]:
            lines.append(
                f"{field}: no word list for {', '.join(others)}, where every answer's words are worth 1; "
                f"{field}.files: {{{others[0]}: FILE}} gives one"
            )
    return lines


@functools.cache
def _listed(path: Path, language: str) -> frozenset[str]:
    text = read_text(path, "word list", "create it or correct the path in the config")
    # Whatever else stands in a line (a count, hunspell's flags, a hyphen): its words are what can be looked up.
    lines = (line.partition("/")[0] for line in text.splitlines())
    found = frozenset(word for line in lines for word in words(line, language) if of_letters(word))
    if not found:
        raise UserError(f"{path}: no word in it (word list); put one on each line")
    return found


@functools.cache
def _in_wordfreq(language: str) -> IsWord | None:
    try:
        from wordfreq import available_languages, zipf_frequency
    except ModuleNotFoundError:
        raise UserError(
            f"there is no list for {language} among the files, and wordfreq, which has 39 languages, is not installed; "
            "install isogloss[words], or name a file for every language"
        ) from None
    lists = sorted(set(available_languages("best")) - _SEGMENTED)
    try:
        code, _ = langcodes.closest_match(language, lists, _NEAR)
    except ValueError:  # a code of the user's own
        return None
    if language.partition("-")[0] in _OF_SERBO_CROATIAN:
        code = "sh"
    return None if code == "und" else lambda word: zipf_frequency(word, code) > 0
