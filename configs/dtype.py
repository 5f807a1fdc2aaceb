"""What a model is stored in: ``model.dtype: auto`` takes it from the folder's ``config.json``, without torch."""

from __future__ import annotations

from pathlib import Path

from configs.errors import UserError
from configs.reading import is_file, read_json

AUTO = "auto"
DTYPES = ("float32", "bfloat16")


def stored_dtype(folder: Path) -> str | None:
    """``bfloat16`` for a model that is stored so, ``float32`` for any other; None where that cannot be read.

    A model in float16 is computed in float32, which has all of its numbers; bfloat16 has not.

    Args:
        folder: Of the model, or its ``config.json``.
    """
    file = folder if folder.name == "config.json" else folder / "config.json"
    if not is_file(file):
        return None
    try:
        found = read_json(file, "the model's config", "name a Hugging Face model folder")
    except UserError:
        return None  # said by whatever reads the model
    return named_dtype(found) if isinstance(found, dict) else None


def named_dtype(config: dict[str, object]) -> str:
    """The same of a ``config.json`` that was read; models of text and more name it in their ``text_config``."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for key in ("dtype", "torch_dtype"):
            if part.get(key) is not None:
                return DTYPES[1] if part[key] == DTYPES[1] else DTYPES[0]
    return DTYPES[0]
