"""The fixed instructions that the methods put around a user's text.

One module, because the embedded world teaches its seed model exactly these forms: a wording changed
here needs ``isogloss build-world`` again. The wording is ours; the roles follow ICR (arXiv 2503.04647,
section "cross-lingual instruction") and LIDR (arXiv 2410.08964, self-translation).
"""

from __future__ import annotations

TRANSLATION_OPEN = "<translation>"
TRANSLATION_CLOSE = "</translation>"

# The assistant turn of a translation starts with this, so that the answer is the translation alone.
TRANSLATION_PRIME = TRANSLATION_OPEN + "\n"


def crosslingual_instruction(english_instruction: str, language_name: str) -> str:
    """The English instruction that asks for its answer in ``language_name`` (ICR's reward prompt)."""
    return (
        f"Answer only in {language_name}, unless the instruction itself asks for another language."
        f"\n\n{english_instruction}"
    )


def language_instruction(language_name: str) -> str:
    """An instruction that names the language of the answer and asks nothing: what any answer is as likely under."""
    return f"Answer only in {language_name}."


def translation_instruction(text: str, language_name: str) -> str:
    """Ask the policy to translate ``text`` into ``language_name`` (LIDR's self-translation)."""
    return f"Translate the text between the tags into {language_name}.\n<text>\n{text}\n</text>"


def translation_completion(translation: str) -> str:
    """What a perfect assistant turn holds after ``TRANSLATION_PRIME``."""
    return f"{translation}\n{TRANSLATION_CLOSE}"
