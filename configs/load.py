"""From a YAML file and ``section.field=value`` overrides to a validated :class:`~configs.schema.Config`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from configs.errors import UserError, shortened
from configs.explain import explained, joined
from configs.files import read_text, shown_path
from configs.json_types import Json, JsonObject
from configs.kinds import fitted, fitting, without_foreign
from configs.presets import beside, find_preset, with_world_paths
from configs.schema import Config
from configs.yaml12 import MAX_DEPTH, PYYAML_NUMBER, dump_yaml_value, load_yaml, read_yaml

EXTENDS = "extends"
_WHAT, _CURE = "config file", "see configs/ for presets"
_MOST_FILES = 50

S = TypeVar("S", bound=BaseModel)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read ``path`` (and what it ``extends``), apply ``overrides``, validate.

    Raises:
        UserError: names the file and line, or the field, and the cure.
    """
    return validated(_with_overrides(_read(path, (), []), overrides), Config, shown_path(path))


def config_files(path: Path) -> list[Path]:
    """A config file that could be loaded, and those that it extends, directly or not; presets where they lie."""
    read: list[Path] = []
    _read(path, (), read)
    return read


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
    values = {} if path is None else _read(path, (), [])
    values = values if name in values else {name: values}
    for override in overrides:
        apply_override(values, override)
    return validated(values[name], model, "overrides" if path is None else shown_path(path), within=name)


def load_run_config(run: Path, overrides: Sequence[str] = ()) -> Config:
    """The resolved config that a run keeps in its folder, ``overrides`` laid over it.

    Raises:
        UserError: There is none, it is damaged, or of a version whose fields were others.
    """
    path = run / "config.yaml"
    shown, text = shown_path(path), read_text(path, "config of a run", "name a run folder such as runs/demo")
    values = load_yaml(text, shown)
    if not isinstance(values, dict) or "model" not in values:
        raise UserError(f"{shown}: is no config of a run (damaged, or not written by isogloss); restore the file")
    try:
        kept = _kept(values, text, shown)
    except ValidationError as error:
        lines = explained(error, Config)
        raise UserError(
            f"{shown}: does not fit this version of isogloss: {joined(lines)}\nfinish the run with the version that "
            "began it, or begin another with another run.name; if the file was edited, restore it"
        ) from None
    if not overrides:
        return kept
    return validated(_with_overrides(kept.model_dump(mode="json"), overrides), Config, shown)


def _with_overrides(values: JsonObject, overrides: Sequence[str]) -> JsonObject:
    """Overrides laid over a config: they are one layer, in whatever order they are given."""
    layer: JsonObject = {}
    for override in overrides:
        apply_override(layer, override)
    values = fitted(values, layer, Config)
    for override in overrides:
        apply_override(values, override)
    return values


def _kept(values: JsonObject, text: str, where: str) -> Config:
    try:
        return Config.model_validate(without_foreign(values, Config))
    except ValidationError:
        # Written by PyYAML, which left strings like `089` or `1e5` unquoted?
        try:
            return Config.model_validate(without_foreign(load_yaml(text, where, PYYAML_NUMBER), Config))
        except ValidationError:
            pass
        raise


def validated(values: Json, model: type[S], where: str, within: str = "") -> S:
    """``values`` as a config or a section of it.

    Args:
        values: As read.
        model: What they should be.
        where: File that they came from, for messages.
        within: Name of the section, where it is one.

    Raises:
        UserError: Names every field that is wrong, and the cure.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: " + joined(explained(error, model, within))) from None


def _read(path: Path, above: tuple[Path, ...], read: list[Path]) -> JsonObject:
    """One file laid over those that it extends, the first of them lowest; every file is added to ``read``."""
    file = find_preset(path, _WHAT, _CURE)
    values = read_yaml(file, _WHAT, _CURE)
    shown = shown_path(file)
    read.append(file)
    if len(read) > _MOST_FILES:
        raise UserError(f"{shown}: more than {_MOST_FILES} files extend one another; leave some out")
    if values is None:
        raise UserError(f"{shown}: empty; start from configs/demo.yaml")
    if not isinstance(values, dict):
        raise UserError(f"{shown}: expected `section:` entries at the top level; see configs/demo.yaml")
    values = with_world_paths(values, file)
    parents = values.pop(EXTENDS, None)
    parents = [] if parents is None else [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise UserError(f"{shown}: {EXTENDS}: expected a file name, relative to this file, or a list of them")
    here = file.resolve()
    merged: JsonObject = {}
    for parent in parents:
        target = beside(file, parent)
        if target.resolve() in (*above, here):
            raise UserError(f"{shown}: `{EXTENDS}` leads back to this file; break the circle")
        parent_values = fitting(_read(target, (*above, here), read), merged, Config)
        merged = merge(fitted(merged, parent_values, Config), parent_values)
    return merge(fitted(merged, values, Config), values)


def merge(base: JsonObject, top: JsonObject) -> JsonObject:
    """``base`` with ``top`` laid over it, section by section."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def apply_override(values: JsonObject, override: str) -> None:
    """Set what ``section.field=value`` names, in place.

    Raises:
        UserError: It has another form, its value is no YAML, or what it names lies in no section.
    """
    name, equals, text = override.partition("=")
    where = f"override '{shown_path(override)}'"
    if not equals or not all(name.split(".")):
        raise UserError(f"{where}: expected section.field=value, e.g. run.seed=1")
    *sections, field = name.split(".")
    if len(sections) >= MAX_DEPTH:
        raise UserError(f"{where}: nested deeper than {MAX_DEPTH} levels; expected section.field=value")
    try:
        value = load_yaml(text, "")
    except UserError as error:
        reason = str(error).partition("not valid YAML: ")[2]
        raise UserError(f"{where}: '{shown_path(text)}' is not a YAML value ({reason}); quote it") from None
    for section in sections:
        below = values.get(section)
        if below is None:
            below = values[section] = {}
        if not isinstance(below, dict):
            raise UserError(f"{where}: '{shortened(section)}' is not a section")
        values = below
    values[field] = value


def dump_yaml(config: Config) -> str:
    """The resolved config as YAML; :func:`load_run_config` reads the same config back."""
    return dump_yaml_value(config.model_dump(mode="json"))
