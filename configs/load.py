"""From a YAML file and ``section.field=value`` overrides to a validated :class:`~configs.schema.Config`."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from configs.errors import UserError
from configs.schema import Config

EXTENDS = "extends"

S = TypeVar("S", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key named twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{key}' is given twice; remove one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read ``path`` (and what it ``extends``), apply ``overrides``, validate.

    Raises:
        UserError: names the file and line, or the field, and the cure.
    """
    values = _read(path, seen=())
    for override in overrides:
        _apply_override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: " + _explain(error)) from None


def config_files(path: Path) -> list[Path]:
    """A config file that could be loaded, and those that it extends, directly or not."""
    parent = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader).get(EXTENDS)
    return [path, *([] if parent is None else config_files(path.parent / parent))]


def load_section(path: Path | None, name: str, model: type[S], overrides: Sequence[str] = ()) -> S:
    """Read one section alone, from a file that holds its fields, or a config that has it among others.

    Args:
        path: YAML file; None begins with the defaults.
        name: Of the section.
        model: Of its fields.
        overrides: ``section.field=value``.

    Raises:
        UserError: As :func:`load_config`.
    """
    values = {} if path is None else _read(path, seen=())
    values = values if name in values else {name: values}
    for override in overrides:
        _apply_override(values, override)
    try:
        return model.model_validate(values[name])
    except ValidationError as error:
        raise UserError(f"{path or 'overrides'}: {name}." + _explain(error).strip()) from None


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise UserError(f"{path}: `{EXTENDS}` leads back to this file; break the circle")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file; see configs/ for presets") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name a YAML file in it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    try:
        values = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    if values is None:
        raise UserError(f"{path}: empty; start from configs/demo.yaml")
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `section:` entries at the top level; see configs/demo.yaml")
    parent = values.pop(EXTENDS, None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise UserError(f"{path}: {EXTENDS}: expected a file name, relative to this file")
    return merge(_read(path.parent / parent, (*seen, path.resolve())), values)


def merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``top`` laid over it, section by section."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _apply_override(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not all(name.split(".")):
        raise UserError(f"override '{override}': expected section.field=value, e.g. run.seed=1")
    try:
        value = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError:
        raise UserError(f"override '{override}': '{text}' is not a YAML value; quote it") from None
    *sections, field = name.split(".")
    for section in sections:
        below = values.setdefault(section, {})
        if not isinstance(below, dict):
            raise UserError(f"override '{override}': '{section}' is not a section")
        values = below
    values[field] = value


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_url=False):
        location = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"{location}: unknown field; {_suggest(location)}")
        elif item["type"] == "missing":
            lines.append(f"{location}: missing; add it")
        elif item["type"] == "value_error":
            reason = str(item["ctx"]["error"])
            lines.append(f"{location}.{reason}" if location else reason)
        else:
            lines.append(f"{location}: {item['msg']} (got {item['input']!r})")
    return "\n  ".join(lines) if len(lines) == 1 else "\n  " + "\n  ".join(lines)


def _suggest(location: str) -> str:
    known = [name for name, _ in fields()]
    # Compare whole paths first, then the last part alone: a field is often right and its section wrong.
    close = difflib.get_close_matches(location, known, n=1, cutoff=0.75)
    last = location.rsplit(".", 1)[-1]
    close = close or [name for name in known if name.rsplit(".", 1)[-1] == last]
    return f"did you mean {close[0]}?" if close else "remove it (docs/config.md lists all fields)"


def fields(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and pydantic field of every leaf of the config."""
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


def dump_yaml(config: Config) -> str:
    """The resolved config as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
