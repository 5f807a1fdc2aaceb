"""What a model folder's ``config.json`` says, without torch: that it is a model, its dtype, the length it holds."""

from __future__ import annotations

from pathlib import Path

from configs.errors import UserError
from configs.json_types import JsonMapping, JsonObject
from configs.reading import is_file, kind, read_json, shown

CONFIG_FILE = "config.json"
AUTO = "auto"
DTYPES = ("float32", "bfloat16")


def is_model_folder(folder: Path) -> bool:
    """Whether a path leads to something that looks like a Hugging Face model folder; nothing is read."""
    return is_file(folder / CONFIG_FILE)


def read_model_config(folder: Path, field: str | None = None, also: str = "") -> JsonObject:
    """``config.json`` of a model folder.

    Args:
        folder: Of the model.
        field: The config field or option that names it, for the message.
        also: What else may be named there, e.g. ", or a run folder".

    Raises:
        UserError: It is not there, cannot be read, or holds no JSON object.
    """
    if not is_model_folder(folder):
        where = f"{shown(folder)}: has" if field is None else f"{field}: {shown(folder)} has"
        raise UserError(f"{where} no {CONFIG_FILE}; name a Hugging Face model folder{also}")
    file = folder / CONFIG_FILE
    found = read_json(file, "the model's config", "fetch the model again")
    if not isinstance(found, dict):
        raise UserError(f"{file}: holds {kind(found)} instead of an object; fetch the model again")
    return found


def text_part(config: JsonMapping) -> JsonMapping:
    """What a config says of the language model: its ``text_config``, where it is of a model of text and more."""
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def check_dtype(asked: object, where: str) -> None:
    """Refuse what is neither a dtype nor ``auto``.

    Args:
        asked: As the user wrote it.
        where: Beginning of the refusal, e.g. ``--dtype half:``.

    Raises:
        UserError: Names those that there are.
    """
    if asked not in (AUTO, *DTYPES):
        raise UserError(f"{where} unknown; use {', '.join((AUTO, *DTYPES))}")


def stored_dtype(folder: Path) -> str | None:
    """``bfloat16`` for a model that is stored so, ``float32`` for any other; None where that cannot be read.

    A model in float16 is computed in float32, which has all of its numbers; bfloat16 has not.

    Args:
        folder: Of the model, or its ``config.json``.
    """
    folder = folder.parent if folder.name == CONFIG_FILE else folder
    if not is_model_folder(folder):
        return None
    try:
        return named_dtype(read_model_config(folder))
    except UserError:
        return None  # said by what reads the model


def named_dtype(config: JsonMapping) -> str:
    """The same of a ``config.json`` that was read."""
    for part in (config, text_part(config)):
        for key in ("dtype", "torch_dtype"):
            if part.get(key) is not None:
                return DTYPES[1] if part[key] == DTYPES[1] else DTYPES[0]
    return DTYPES[0]


def longest_context(folder: Path) -> int | None:
    """Tokens that the model can hold, as its config says; None if it does not.

    Raises:
        UserError: As :func:`read_model_config`.
    """
    config = read_model_config(folder)
    for part in (config, text_part(config)):
        value = part.get("max_position_embeddings")
        if isinstance(value, int):
            return value
    return None
