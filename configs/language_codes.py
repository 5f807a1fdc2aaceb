"""Codes of languages: BCP-47 as it writes them, and what was probably meant by another spelling."""

from __future__ import annotations

import re

from configs.reading import shown

LANGUAGE_PATTERN = r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8})*"


def is_code(text: str) -> bool:
    """Whether a text has the form of a code: ``en``, ``pt-BR``, ``zh-Hant``."""
    return re.fullmatch(LANGUAGE_PATTERN, text) is not None


def standard_code(text: str) -> str | None:
    """The code as BCP-47 writes it, with the shortest one of its language; None if it is no code at all.

    ``pt_BR`` is pt-BR, FLORES' ``arb_Arab`` is ar, ``zh-hant`` is zh-Hant.
    """
    import langcodes  # only needed for messages

    try:
        # A tag of registered length; what is longer is a text.
        code = langcodes.standardize_tag(text.strip(), macro=True) if len(text) < 40 else ""
        return code if code and langcodes.tag_is_valid(code) and is_code(code) else None
    except ValueError:
        return None


def code_cure(text: str) -> str:
    """What to write instead of a text that is no code."""
    code = standard_code(text)
    return "write one such as en, pt-BR or zh-Hans" if code is None else f"write {code}"


def refusal(text: str) -> str:
    """Why a text is no code, and the cure."""
    return f"'{shown(text, 40)}' is no language code (BCP-47: small letters, then parts after -); {code_cure(text)}"
