"""The frame and the system turn that a config puts around prompts (``prompts.frame``, ``prompts.system``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from configs.frames import LANGUAGE, PROMPT, texts_of
from configs.schema import PromptsConfig
from rollout.languages import language_name
from rollout.records import Message, Prompt


def framed(prompt: Prompt, fields: PromptsConfig, names: Mapping[str, str]) -> Prompt:
    """A prompt as the policy is asked it: its user's turn in the frame, behind the system turn if it has none itself.

    Args:
        prompt: As its file has it.
        fields: With ``frame`` and ``system``.
        names: ``languages.names``, for ``{language}``.

    Raises:
        UserError: A text holds ``{language}`` and no English name of the language is known.
    """
    frame = _filled(fields.frame, prompt.language, names)
    system = _filled(fields.system, prompt.language, names)
    text, before = prompt.text, prompt.before
    if frame is not None:
        head, _, tail = frame.partition(PROMPT)
        text = f"{head}{text}{tail}"
    if system is not None and not any(turn.role == "system" for turn in before):
        before = (Message("system", system), *before)
    return replace(prompt, text=text, before=before)


def _filled(value: str | dict[str, str] | None, language: str, names: Mapping[str, str]) -> str | None:
    texts = texts_of(value)
    text = texts.get(language, texts.get(None))
    # Only where it is asked for: a name need not be known otherwise.
    return text.replace(LANGUAGE, language_name(language, names)) if text and LANGUAGE in text else text
