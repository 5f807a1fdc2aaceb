"""What every config section shares: bounds that hold for each field, whether or not it has its own."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from configs.chat import LONGEST_TEMPLATE
from configs.errors import shortened
from configs.files import path_problem
from configs.json_types import Json
from configs.language_codes import LANGUAGE_PATTERN, is_code, refusal, standard_code

# Beyond these a value is a slip of the pen, and some library's integer overflows. Fields with tighter bounds name them.
MAX_NUMBER = 2**31
MAX_SECONDS = 2_000_000  # 23 days; sockets refuse 2^31 ms. Fields that end in `_s`
MAX_TEXT = 4096  # characters
_LONG_TEXTS = {"chat_template": LONGEST_TEMPLATE}  # fields that hold a whole file
MAX_PARTS = 10_000  # actors, ranks, replicas, nodes: each is planned for one by one
_FREE_NUMBER, _FREE_TEXT, _FREE_DEPTH = 2**63, 100_000, 40  # within lists and mappings


class Section(BaseModel):
    """A config section: unknown keys are refused, values are immutable once validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _within_bounds(cls, value: Json, info: ValidationInfo) -> Json:
        if not isinstance(value, BaseModel):
            limit = MAX_SECONDS if (info.field_name or "").endswith("_s") else MAX_NUMBER
            longest = _LONG_TEXTS.get(info.field_name or "", MAX_TEXT)
            if (problem := _problem(value, limit, longest, 0)) is not None:
                raise PydanticCustomError("out_of_bounds", "{problem}", {"problem": problem})
        return value


def _problem(value: Json, limit: float, longest: int, depth: int) -> str | None:
    """Why no field can have this value, with the cure; None if one can."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        if isinstance(value, float) and not math.isfinite(value):
            return f"{value} is no finite number; set one"
        return f"{shortened(str(value))} is out of range; at most {limit:.10g}" if abs(value) > limit else None
    if isinstance(value, str):
        return _text_problem(value, longest)
    if isinstance(value, os.PathLike):
        problem = path_problem(value)
        return None if problem is None else f"the path {problem}"
    if depth > _FREE_DEPTH:
        return f"nested deeper than {_FREE_DEPTH} levels; flatten it"
    # What a free mapping holds is another program's to judge: only what could not be passed on is refused.
    if isinstance(value, Mapping) and not all(isinstance(key, str) for key in value):
        return "has a key that is no text; quote it"
    inner = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
    if isinstance(inner, list | tuple):
        problems = (_problem(part, _FREE_NUMBER, _FREE_TEXT, depth + 1) for part in inner)
        return next((problem for problem in problems if problem is not None), None)
    return None


def _text_problem(text: str, longest: int) -> str | None:
    if len(text) > longest:
        return f"{len(text)} characters long; at most {longest}"
    if "\0" in text:
        return "holds a NUL character; remove it"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "holds half a character (a lone surrogate); write it as UTF-8"
    return None


def _language_code(text: str) -> str:
    if len(text) == 2 and is_code(text):
        return text  # hardly any config has another; langcodes need not be imported
    code = standard_code(text) or (text if is_code(text) else None)
    if code is None:
        raise PydanticCustomError("language_code", "{problem}", {"problem": refusal(text)})
    return code


def _path_text(text: str) -> str:
    if (problem := path_problem(text)) is not None:
        raise PydanticCustomError("path", "{problem}", {"problem": f"the path {problem}"})
    return text


LanguageCode = Annotated[
    str,
    AfterValidator(_language_code),
    WithJsonSchema({"type": "string", "pattern": f"^{LANGUAGE_PATTERN}$"}),  # other spellings are taken as well
]
PathText = Annotated[str, AfterValidator(_path_text)]  # a path with `{lang}` in it
