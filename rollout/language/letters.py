"""Latin letters: those that a language does not use hint at another one; in other scripts' texts they are left out."""

from __future__ import annotations

import re

from rollout.language.scripts import script_of

# A word in Latin letters that is written as names are: "DeepSpeed", "Azure", "iPhone", "GPT-4".
_NAME = re.compile(r"(?<![A-Za-zÀ-ɏ])(?:[a-z]{1,2}(?=[A-Z]))?[A-ZÀ-ÖØ-Þ][A-Za-zÀ-ɏ0-9'’.+#&-]*")
_CAPITAL = re.compile(r"[A-ZÀ-ÖØ-Þ]")  # which every name begins with, or has as its second or third letter
# Letters beyond a to z that a language's own words have (after Unicode CLDR's main exemplar characters), of the
# languages in Latin letters that lingua has a model of; of English those of common loans.
_OWN: dict[str, str] = {
    "af": "áäéèêëíîïóôöúûü",
    "az": "çəğıöşü",
    "bs": "čćđšž",
    "ca": "àçèéíïòóúü",
    "cs": "áčďéěíňóřšťúůýž",
    "cy": "áàâäéèêëíìîïóòôöúùûüýŷŵ",
    "da": "åæøé",
    "de": "äöüß",
    "en": "éèêçñöüï",
    "eo": "ĉĝĥĵŝŭ",
    "es": "áéíñóúü",
    "et": "äõöšüž",
    "eu": "çñü",
    "fi": "äåö",
    "fr": "àâæçéèêëîïôœùûüÿ",
    "ga": "áéíóú",
    "hr": "čćđšž",
    "hu": "áéíóöőúüű",
    "id": "é",
    "is": "áæðéíóöþúý",
    "it": "àéèìíîòóùú",
    "la": "āēīōūæœ",
    "lg": "ŋ",
    "lt": "ąčęėįšųūž",
    "lv": "āčēģīķļņšūž",
    "mi": "āēīōū",
    "ms": "",
    "nb": "åæøàéèêòóô",
    "nl": "áäéëíïóöúüèĳ",
    "nn": "åæøàéèêòóô",
    "pl": "ąćęłńóśźż",
    "pt": "áâãàçéêíóôõú",
    "ro": "ăâîșşțţ",
    "sk": "áäčďéíĺľňóôŕšťúýž",
    "sl": "čšž",
    "sn": "",
    "so": "",
    "sq": "çë",
    "st": "",
    "sv": "åäöé",
    "sw": "",
    "tl": "ñ",
    "tn": "êôš",
    "tr": "âçğıîöşûü",
    "ts": "",
    "vi": "àáâãèéêìíòóôõùúýăđĩũơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ",
    "xh": "",
    "yo": "áàéèẹíìóòọúùṣńǹ",
    "zu": "",
}
_LEAST = 2  # such letters in a text: one name with an accent says nothing
_SHARE = 0.015  # of all letters; Catalan has 3 %, Finnish and Hungarian more
_COVERED = 0.75  # of such letters: the others may be of names


def languages_of_letters(text: str, language: str) -> frozenset[str]:
    """Languages (ISO 639-1) that the letters of a text hint at, where it holds such as ``language`` has not.

    Args:
        text: In Latin letters.
        language: The one asked for, ISO 639-1; of one that is not in the table nothing is hinted at.
    """
    if text.isascii() or language not in _OWN:
        return frozenset()
    text = text.lower()
    strange = [char for char in set(text) if char > "\x7f" and char not in _OWN[language] and char.isalpha()]
    if not strange:
        return frozenset()
    foreign = {char: text.count(char) for char in strange}
    total = sum(foreign.values())
    if total < _LEAST or total < _SHARE * sum(map(str.isalpha, text)):
        return frozenset()
    return frozenset(
        name
        for name, own in _OWN.items()
        if name != language and sum(count for char, count in foreign.items() if char in own) >= _COVERED * total
    )


def without_names(text: str) -> str:
    """A text without the words in Latin letters that are written as names are."""
    return _NAME.sub(" ", text) if _CAPITAL.search(text) else text


class _LatinOut(dict[int, int]):
    """Code point -> itself, or a space for a Latin letter; filled as characters are met."""

    def __missing__(self, point: int) -> int:
        char = chr(point)
        self[point] = ord(" ") if char.isalpha() and script_of(char) == "Latn" else point
        return self[point]


_LATIN_OUT = _LatinOut()


def without_latin(text: str) -> str:
    """A text with spaces in place of its Latin letters."""
    return text.translate(_LATIN_OUT)
