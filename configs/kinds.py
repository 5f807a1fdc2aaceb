"""Sections that exist in several kinds (``reward``): which fields each has, and layers that change the kind."""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from configs.json_types import JsonMapping, JsonObject

KIND = "kind"
Kinds = Mapping[str, type[BaseModel]]  # kind -> its fields; the first is the default


def kinds_of(annotation: Any) -> dict[str, type[BaseModel]]:
    """The kinds that a field's section may be of; empty for any other field."""
    if get_origin(annotation) is Annotated:
        return kinds_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        found: dict[str, type[BaseModel]] = {}
        for part in get_args(annotation):
            found |= kinds_of(part)
        return found
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and KIND in annotation.model_fields:
        kind = annotation.model_fields[KIND].annotation
        if get_origin(kind) is Literal and len(get_args(kind)) == 1:
            return {get_args(kind)[0]: annotation}
    return {}


def kinds_of_entries(annotation: Any) -> dict[str, type[BaseModel]]:
    """The same of a mapping's or a list's entries."""
    if get_origin(annotation) is Annotated:
        return kinds_of_entries(get_args(annotation)[0])
    return kinds_of(get_args(annotation)[-1]) if get_origin(annotation) in (dict, list) else {}


def kind_in(values: JsonMapping, kinds: Kinds) -> str:
    """The kind of a section as it was read."""
    return str(values.get(KIND, next(iter(kinds))))


def fitted(below: JsonObject, above: JsonObject, model: type[BaseModel]) -> JsonObject:
    """``below`` without what a layer over it makes meaningless: the fields of a kind that it replaces by another.

    Args:
        below: A config, or a section of one, as read.
        above: What is to be laid over it.
        model: Of both.
    """
    out = dict(below)
    for name, field in model.model_fields.items():
        low, high = below.get(name), above.get(name)
        if not isinstance(low, dict) or not isinstance(high, dict):
            continue
        if kinds := kinds_of(field.annotation):
            out[name] = _fitted_section(low, high, kinds)
        elif kinds := kinds_of_entries(field.annotation):
            both = {key for key in low if isinstance(low[key], dict) and isinstance(high.get(key), dict)}
            out[name] = {key: _fitted_section(low[key], high[key], kinds) if key in both else low[key] for key in low}
    return out


def _fitted_section(low: JsonObject, high: JsonObject, kinds: Kinds) -> JsonObject:
    kind = str(high.get(KIND, kind_in(low, kinds)))
    if kind not in kinds:
        return low  # which the schema refuses
    if kind != kind_in(low, kinds):
        low = _own(low, kinds[kind])
    return fitted(low, high, kinds[kind])


def fitting(above: JsonObject, below: JsonObject, model: type[BaseModel]) -> JsonObject:
    """``above`` without the fields that the kind below it has not got, where ``above`` names no kind of its own.

    So a file that suits many methods may set fields of several of them.
    """
    out = dict(above)
    for name, field in model.model_fields.items():
        low, high = below.get(name), above.get(name)
        kinds = kinds_of(field.annotation)
        if kinds and isinstance(low, dict) and isinstance(high, dict) and KIND not in high:
            own = kinds.get(kind_in(low, kinds))
            out[name] = high if own is None else _own(high, own)
    return out


# Fields that configs of earlier versions' runs have, always with the same value.
FORMER = frozenset({"learner.lora.dropout"})


def without_foreign(values: JsonObject, model: type[BaseModel]) -> JsonObject:
    """``values`` without what runs of earlier versions have in their configs: fields of other kinds, and ``FORMER``."""
    out = _without(values, FORMER)
    for name, field in model.model_fields.items():
        kinds, section = kinds_of(field.annotation), values.get(name)
        if kinds and isinstance(section, dict) and (own := kinds.get(kind_in(section, kinds))) is not None:
            out[name] = _own(section, own)
    return out


def _without(values: JsonObject, names: Collection[str], prefix: str = "") -> JsonObject:
    return {
        key: _without(value, names, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in values.items()
        if f"{prefix}{key}" not in names
    }


def _own(values: JsonObject, model: type[BaseModel]) -> JsonObject:
    return {key: value for key, value in values.items() if key in model.model_fields}
