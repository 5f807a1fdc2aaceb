"""What pydantic found wrong with a config, as a user reads it: the field, what is wrong, the cure."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from configs.errors import shortened

_SHOWN_ERRORS = 12
_LONGEST = 600  # characters of one error


def explained(error: ValidationError, model: type[BaseModel], within: str = "") -> list[str]:
    """One line for each field that is wrong, the first of them where there are many.

    Args:
        error: Of validating ``model``.
        model: The whole config, or one section.
        within: Name of that section, to be put before its fields.
    """
    found = error.errors(include_url=False)
    lines = [shortened(_line(item, model, within), _LONGEST) for item in found[:_SHOWN_ERRORS]]
    if len(found) > _SHOWN_ERRORS:
        lines.append(f"and {len(found) - _SHOWN_ERRORS} more")
    return lines


def joined(lines: list[str]) -> str:
    """Lines as the end of a message: one after a colon stays there, several go below it."""
    return lines[0] if len(lines) == 1 else "\n  " + "\n  ".join(lines)


def _line(item: Any, model: type[BaseModel], within: str) -> str:
    parts = [within, *(str(part) for part in item["loc"] if part != "[key]")]
    location = shortened(".".join(part for part in parts if part), 120)
    kind = item["type"]
    if kind == "extra_forbidden":
        return f"{location}: unknown field; {_suggest(location, model, within)}"
    if kind == "missing":
        return f"{location}: missing; add it"
    if kind == "value_error":  # of a whole section's validator, which begins with the field
        reason = str(item["ctx"]["error"])
        return f"{location}.{reason}" if location else reason
    if kind in ("out_of_bounds", "language_code", "path"):  # of configs.base, which says what was given, cut
        return f"{location}: {item['msg']}"
    if item["input"] is None:
        return f"{location}: is null (or empty); give it a value, or remove the line for its default"
    return f"{location}: {item['msg']} (got {shortened(repr(item['input']))})"


def _suggest(location: str, model: type[BaseModel], within: str) -> str:
    known = [name for name, _ in fields(model, f"{within}." if within else "")]
    # Compare whole paths first, then the last part alone: a field is often right and its section wrong.
    close = difflib.get_close_matches(location, known, n=1, cutoff=0.75)
    last = location.rsplit(".", 1)[-1]
    close = close or [name for name in known if name.rsplit(".", 1)[-1] == last]
    if close:
        return f"did you mean {close[0]}?"
    return "remove it (docs/config.md lists all fields)" if within or "model.policy" in known else "remove it"


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and pydantic field of every leaf of a model."""
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is not None:
            yield from fields(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The nested section type of a field annotation, or None for a leaf."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return next((found for part in get_args(annotation) if (found := section_of(part))), None)
    return None
