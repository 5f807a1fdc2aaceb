"""The presets that come with isogloss, found by name wherever it is installed: ``icr``, ``methods/icr.yaml``."""

from __future__ import annotations

from pathlib import Path

from configs.errors import UserError
from configs.files import path_problem, shown_path
from configs.json_types import Json, JsonObject

FOLDER = Path(__file__).resolve().parent
_WORLDS = "worlds/"


def find_preset(path: Path, what: str, cure: str) -> Path:
    """``path`` where there is such a file, else the preset of that name.

    Args:
        path: As the user gave it: a file, or a preset's name, with or without ``configs/`` and ``.yaml``.
        what: What it should be, for the message.
        cure: What to do where there is neither.

    Raises:
        UserError: There is neither.
    """
    if (problem := path_problem(path)) is not None:
        raise UserError(f"{shown_path(path)}: the path {problem}")
    try:
        if path.exists() and not path.is_dir():
            return path
    except OSError:
        return path  # which reading it explains
    found = _packaged(path)
    if found is not None:
        return found
    if path.is_dir():
        raise UserError(f"{shown_path(path)}: is a folder; name a YAML file in it")
    names = ", ".join(preset_names())
    raise UserError(f"{shown_path(path)}: no such {what}; {cure} ({names})")


def preset_names() -> list[str]:
    """What can be run or extended by name, without the parts of the embedded world."""
    dang = [file for file in (FOLDER / "dang").glob("*.yaml") if file.name != "base.yaml"]
    files = [*FOLDER.glob("*.yaml"), *(FOLDER / "methods").glob("*.yaml"), *dang]
    names = (file.relative_to(FOLDER).with_suffix("").as_posix() for file in files)
    return sorted(names, key=lambda name: ("/" in name, name != "demo", name))


def beside(file: Path, name: str) -> Path:
    """What ``extends: name`` in ``file`` means: another file, relative to it, else the preset of that name.

    Raises:
        UserError: No file can have this name.
    """
    near = file.parent / name
    if (problem := path_problem(near)) is not None:
        raise UserError(f"{shown_path(file)}: extends: {shown_path(name)}: the path {problem}")
    preset = _packaged(Path(name))
    itself = near.resolve() == file.resolve()
    return preset if preset is not None and (itself or not near.exists()) else near


def is_packaged(file: Path) -> bool:
    """Whether a file is one of isogloss's own presets, as they lie beside its code."""
    return file.resolve().is_relative_to(FOLDER)


def world_path(path: str) -> str:
    """A path below ``worlds/``: as it is where the working directory has an embedded world, else that of isogloss."""
    return path if Path(_WORLDS, "default").is_dir() else str(FOLDER.parent / path)


def with_world_paths(values: JsonObject, file: Path) -> JsonObject:
    """Values of a preset, its ``worlds/...`` paths absolute where the working directory has no embedded world."""
    if not is_packaged(file):
        return values
    return {key: value if key == "extends" else _anchored(value) for key, value in values.items()}


def _anchored(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _anchored(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_anchored(inner) for inner in value]
    return world_path(value) if isinstance(value, str) and value.startswith(_WORLDS) else value


def _packaged(path: Path) -> Path | None:
    if path.is_absolute() or ".." in path.parts:
        return None
    parts = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
    if not parts:
        return None
    name = Path(*parts)
    found = FOLDER / (name if name.suffix == ".yaml" else f"{name}.yaml")
    return found if found.is_file() else None
