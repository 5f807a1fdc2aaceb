"""What a config says about chat templates: another template than the model's, and values for its variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from configs.errors import UserError
from configs.files import read_text

LONGEST_TEMPLATE = 100_000  # characters


def _template_text(text: str) -> str:
    """The template itself, where a file that holds it is named."""
    if "{{" in text or "{%" in text:
        return text
    try:
        found = read_text(Path(text), "chat template (or write it out: it has {{ or {%)", "correct the path")
    except UserError as error:
        raise PydanticCustomError("chat_template", "{problem}", {"problem": str(error)}) from None
    if "{{" not in found and "{%" not in found:
        problem = f"{text} is no chat template, which has {{{{ or {{%; name another file"
        raise PydanticCustomError("chat_template", "{problem}", {"problem": problem})
    return found


# The text of a template: a config that names a file keeps what it held, so that a resumed run has the same.
TemplateText = Annotated[str, AfterValidator(_template_text)]
