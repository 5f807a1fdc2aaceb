"""What pydantic found wrong with a config, as a user reads it: the field, what is wrong, the cure."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from configs.errors import shortened
from configs.json_types import Json
from configs.kinds import KIND, kinds_of, kinds_of_entries

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


def _line(item: Json, model: type[BaseModel], within: str) -> str:
    loc, foreign = _without_tags(item["loc"], model)
    parts = [within, *(str(part) for part in loc if part != "[key]")]
    location = shortened(".".join(part for part in parts if part), 120)
    kind = item["type"]
    if kind == "extra_forbidden":
        return f"{location}: {foreign or 'unknown field; ' + _suggest(location, model, within)}"
    if kind == "missing":
        return f"{location}: missing; add it"
    if kind == "value_error":  # of a whole section's validator, which begins with the field
        reason = str(item["ctx"]["error"])
        return f"{location}.{reason}" if location else reason
    if kind in ("out_of_bounds", "language_code", "path", "named"):  # of configs.base, which says what was given, cut
        return f"{location}: {item['msg']}"
    if item["input"] is None:
        return f"{location}: is null (or empty); give it a value, or remove the line for its default"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_kind(item, location)
    return f"{location}: {item['msg']} (got {shortened(repr(item['input']))})"


def _wrong_kind(item: Json, location: str) -> str:
    if not isinstance(item["input"], dict):
        return f"{location}: is no section but {shortened(repr(item['input']))}; give its fields, `{KIND}` among them"
    if KIND not in item["input"]:
        return f"{location}.{KIND}: missing; add it"
    tags = item["ctx"].get("expected_tags", "one of docs/config.md")
    return f"{location}.{KIND}: Input should be {tags} (got {shortened(repr(item['input'][KIND]))})"


def _without_tags(loc: tuple[Any, ...], model: type[BaseModel]) -> tuple[list[Any], str]:
    """Where an error is, without the kinds that pydantic puts between; and, of another kind's field, whose it is."""
    shown: list[Any] = []
    section: type[BaseModel] | None = model
    kinds: dict[str, type[BaseModel]] = {}
    entries: dict[str, type[BaseModel]] = {}
    foreign, of_kind = "", ""
    siblings: dict[str, type[BaseModel]] = {}  # of the section that comes in kinds, if the last one does
    for part in loc:
        if part in kinds:
            section, of_kind, siblings, kinds = kinds[part], part, kinds, {}
            continue
        shown.append(part)
        field = None
        if entries:
            kinds, entries, section = entries, {}, None
        elif section is not None and (field := section.model_fields.get(part)) is not None:
            kinds, entries = kinds_of(field.annotation), kinds_of_entries(field.annotation)
            section = section_of(field.annotation)
        elif section is not None:
            if KIND in section.model_fields:
                owners = [name for name, one in siblings.items() if part in one.model_fields]
                foreign = f"is for kind {' or '.join(owners)}, and this is {of_kind}; remove it" if owners else ""
            section = None
    return shown, foreign


def _suggest(location: str, model: type[BaseModel], within: str) -> str:
    known = [name for name, _ in fields(model, f"{within}." if within else "")]
    # Compare whole paths first, then the last part alone: a field is often right and its section wrong.
    close = difflib.get_close_matches(location, known, n=1, cutoff=0.75)
    last = location.rsplit(".", 1)[-1]
    # A short name in the same section is close because of the section; the same name elsewhere is meant then.
    alike = [name for name in close if difflib.SequenceMatcher(None, last, name.rsplit(".", 1)[-1]).ratio() > 0.5]
    close = alike or [name for name in known if name.rsplit(".", 1)[-1] == last] or close
    if close:
        return f"did you mean {close[0]}?"
    return "remove it (docs/config.md lists all fields)" if within or "model.policy" in known else "remove it"


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and pydantic field of every leaf of a model; of a section in several kinds, of all of them, once."""
    for name, field in model.model_fields.items():
        section, kinds = section_of(field.annotation), kinds_of(field.annotation)
        if kinds:
            seen: set[str] = set()
            for one in kinds.values():
                for leaf, found in fields(one, f"{prefix}{name}."):
                    if leaf not in seen:
                        seen.add(leaf)
                        yield leaf, found
        elif section is not None:
            yield from fields(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The nested section type of a field annotation, or None for a leaf and for one that comes in several kinds."""
    if kinds_of(annotation):
        return None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return next((found for part in get_args(annotation) if (found := section_of(part))), None)
    return None
