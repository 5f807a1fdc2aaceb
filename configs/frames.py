"""What a config puts around each prompt: a frame of words, and a system turn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from configs.base import LanguageCode

PROMPT, LANGUAGE = "{prompt}", "{language}"


def _frame(text: str) -> str:
    if (count := text.count(PROMPT)) != 1:
        problem = f"has {PROMPT} {count} times instead of once; write it where the prompt goes"
        raise PydanticCustomError("frame", "{problem}", {"problem": problem})
    return text


def _system(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("system", "{problem}", {"problem": "is empty; leave it out for no system turn"})
    return text


FrameText = Annotated[str, AfterValidator(_frame)]
SystemText = Annotated[str, AfterValidator(_system)]
# One for all languages, or one each; languages that a mapping does not name have none.
Frame = FrameText | dict[LanguageCode, FrameText]
System = SystemText | dict[LanguageCode, SystemText]


def texts_of(value: str | dict[str, str] | None) -> dict[str | None, str]:
    """The texts by language, None for one that is for all."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {None: value}
    return {code: text for code, text in value.items()}  # noqa: C416 -- another type than a copy's


def check_frames(
    frame: str | dict[str, str] | None,
    system: str | dict[str, str] | None,
    codes: Iterable[str],
    crosslingual: bool,
) -> None:
    """Refuse texts of languages that a run does not have, and frames that a cross-lingual reward would contradict.

    Args:
        frame: ``prompts.frame``.
        system: ``prompts.system``.
        codes: Languages that are trained on or evaluated.
        crosslingual: Whether a reward asks with the dominant language's prompt for an answer in another one.

    Raises:
        ValueError: Names the field and the cure.
    """
    there = set(codes)
    for field, value in (("frame", frame), ("system", system)):
        for code, text in texts_of(value).items():
            if code is not None and code not in there:
                raise ValueError(f"prompts.{field}.{code}: is no language of the run; add it to languages.codes")
            if crosslingual and LANGUAGE in text:
                raise ValueError(
                    f"prompts.{field}: {LANGUAGE} names the prompt's own language, and reward.prompt crosslingual asks "
                    "with the dominant language's prompt for an answer in another; leave it out, or set reward.prompt "
                    "to native"
                )
