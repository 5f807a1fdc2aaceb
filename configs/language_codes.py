"""Codes of languages: however a tag is spelt, the one code that BCP-47 has for it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from configs.reading import shown

LANGUAGE_PATTERN = r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8})*"
_LONGEST = 40  # characters of a tag; what is longer is a text
# Written in two scripts by many, so that a tag says which even where it is the likelier one.
_SCRIPT_IS_SAID = frozenset({"zh"})
_PART_OF_USUAL = frozenset({("ko", "Hang")})  # Kore, the usual one, is Hangul with Han characters
_KEPT = frozenset({"tl"})  # CLDR has fil for it; the detectors of languages know it as tl


def is_code(text: str) -> bool:
    """Whether a text has the form of a code: ``en``, ``pt-BR``, ``zh-Hant``."""
    return re.fullmatch(LANGUAGE_PATTERN, text) is not None


@functools.lru_cache(maxsize=4096)
def standard_code(text: str) -> str | None:
    """The code as BCP-47 writes it, with the shortest one of its language; None if it is no code at all.

    ``pt_BR`` is pt-BR, ``eng`` is en, FLORES' ``arb_Arab`` is ar, ``zh-hant`` is zh-Hant. A macrolanguage stands for
    its dominant member alone (arb is ar, arz stays Egyptian Arabic); a script goes where hardly any other is used
    (CLDR's likely subtags), but for Chinese.
    """
    import langcodes  # takes a moment to import

    try:
        # A tag of registered length; what is longer is a text.
        text = text.strip()
        code = langcodes.standardize_tag(text, macro=True) if len(text) < _LONGEST else ""
        if not code or not langcodes.tag_is_valid(code):
            return None
        tag = langcodes.Language.get(code)
        if tag.script and tag.language not in _SCRIPT_IS_SAID:
            bare = langcodes.Language.make(language=tag.language, territory=tag.territory)
            if bare.maximize().script == tag.script or (tag.language, tag.script) in _PART_OF_USUAL:
                parts = code.split("-")
                code = "-".join(part for part in parts if part != tag.script)
        first = re.split("[-_]", text.lower(), maxsplit=1)[0]
        if first in _KEPT:
            code = first + code[code.find("-") :] if "-" in code else first
        return code if is_code(code) else None
    except (ValueError, LookupError):
        return None


@functools.lru_cache(maxsize=4096)
def _identity(code: str) -> tuple[str | None, str | None, str | None]:
    """Language, script (the likely one where none is said) and region (only where one is said)."""
    import langcodes

    tag = langcodes.Language.get(code)
    return tag.language, tag.maximize().script, tag.territory


def same_language(code: str, others: Iterable[str]) -> str | None:
    """Which of ``others`` names the same language in the same script; None if none does.

    ``zh-Hans`` is zh, ``zh-Hant`` is not; ``pt-BR`` is not pt.
    """
    found = list(others)
    if code in found:
        return code
    try:
        return next((other for other in found if _identity(other) == _identity(code)), None)
    except (ValueError, LookupError):  # a code of a config may be none that langcodes knows
        return None


def code_cure(text: str) -> str:
    """What to write instead of a text that is no code."""
    code = standard_code(text)
    return "write one such as en, pt-BR or zh-Hans" if code is None else f"write {code}"


def refusal(text: str) -> str:
    """Why a text is no code, and the cure."""
    return f"'{shown(text, 40)}' is no language code (BCP-47: small letters, then parts after -); {code_cure(text)}"
