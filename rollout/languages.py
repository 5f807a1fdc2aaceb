"""English names of languages, as they stand in prompts."""

from __future__ import annotations

from collections.abc import Mapping

from configs.errors import UserError
from configs.language_codes import standard_code

_TABLE = """
af Afrikaans|am Amharic|ar Arabic|as Assamese|az Azerbaijani|be Belarusian|bg Bulgarian|bn Bengali
bs Bosnian|ca Catalan|cs Czech|cy Welsh|da Danish|de German|el Greek|en English|eo Esperanto|es Spanish
et Estonian|eu Basque|fa Persian|fi Finnish|fil Filipino|fr French|ga Irish|gl Galician|gu Gujarati|ha Hausa
he Hebrew|hi Hindi|hr Croatian|hu Hungarian|hy Armenian|id Indonesian|ig Igbo|is Icelandic|it Italian
ja Japanese|jv Javanese|ka Georgian|kk Kazakh|km Khmer|kn Kannada|ko Korean|ky Kyrgyz|la Latin|lg Ganda
lo Lao|lt Lithuanian|lv Latvian|mi Maori|mk Macedonian|ml Malayalam|mn Mongolian|mr Marathi|ms Malay
mt Maltese|my Burmese|nb Norwegian Bokmål|ne Nepali|nl Dutch|nn Norwegian Nynorsk|no Norwegian|or Odia
pa Punjabi|pl Polish|ps Pashto|pt Portuguese|ro Romanian|ru Russian|rw Kinyarwanda|sd Sindhi|si Sinhala
sk Slovak|sl Slovenian|sn Shona|so Somali|sq Albanian|sr Serbian|st Sotho|su Sundanese|sv Swedish|sw Swahili
ta Tamil|te Telugu|tg Tajik|th Thai|ti Tigrinya|tk Turkmen|tl Tagalog|tn Tswana|tr Turkish|ts Tsonga
uk Ukrainian|ur Urdu|uz Uzbek|vi Vietnamese|wo Wolof|xh Xhosa|yo Yoruba|zh Chinese|zu Zulu
en-GB British English|en-US American English|es-MX Mexican Spanish|fr-CA Canadian French
pt-BR Brazilian Portuguese|pt-PT European Portuguese|zh-CN Simplified Chinese|zh-Hans Simplified Chinese
zh-Hant Traditional Chinese|zh-TW Traditional Chinese
"""
DEFAULT_NAMES: dict[str, str] = {
    code: name for code, _, name in (entry.partition(" ") for entry in _TABLE.strip().replace("\n", "|").split("|"))
}
# Names that data sets use besides; of two codes with one name the first of the table is meant.
_OTHER_NAMES = {
    "bokmal": "nb", "nynorsk": "nn", "chinese (simplified)": "zh-Hans", "chinese (traditional)": "zh-Hant",
    "farsi": "fa", "mandarin": "zh", "mandarin chinese": "zh", "kiswahili": "sw", "myanmar": "my", "oriya": "or",
    "portuguese (brazil)": "pt-BR", "portuguese (portugal)": "pt-PT", "castilian": "es", "flemish": "nl",
    "modern greek": "el", "panjabi": "pa", "sinhalese": "si", "javanese": "jv", "moldavian": "ro",
    "standard arabic": "ar",
}  # fmt: skip
_BY_NAME = {name.lower(): code for code, name in reversed(DEFAULT_NAMES.items())} | _OTHER_NAMES


def language_code(text: str) -> str | None:
    """The BCP-47 code that a data set means: a tag in any spelling, or an English name; None if it is neither.

    What says that the language is not known (``und``, ``unknown``) is none.
    """
    code = _BY_NAME.get(text.strip().lower()) or standard_code(text)
    return None if code in ("und", "mul", "zxx", "mis") else code


def language_name(code: str, overrides: Mapping[str, str]) -> str:
    """English name of a BCP-47 code.

    Args:
        code: The language, e.g. ``pt-BR``.
        overrides: ``languages.names`` of the config; wins over the defaults.

    Raises:
        UserError: No name is known; a guess would end up in every prompt of the run.
    """
    name = overrides.get(code) or DEFAULT_NAMES.get(code)
    if not name:
        raise UserError(f"languages.names.{code}: no English name is known for '{code}'; {_cure(code)}")
    return name


def _cure(code: str) -> str:
    standard = standard_code(code)
    if standard is not None and standard != code and standard in DEFAULT_NAMES:
        return f"write {standard}, which is {DEFAULT_NAMES[standard]}, or add one"
    base = DEFAULT_NAMES.get(code.split("-")[0])
    like = f", as it is to be written in a prompt, like {base} for {code.split('-')[0]}" if base else ""
    return f"add one{like}"
