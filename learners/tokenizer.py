"""A folder's tokenizer, as ``AutoTokenizer`` gives it, and without its imports where it would give the plain class.

``AutoTokenizer`` imports every model's configuration, and with those torch: three seconds before a run's first line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from configs.errors import UserError
from configs.reading import read_json

# What tokenizer.json alone decides about: what Transformers writes for any tokenizer that has no class of its own.
_PLAIN = ("TokenizersBackend", "PreTrainedTokenizerFast")
# Models for which AutoTokenizer then takes that class; for some others it knows better than their files.
PLAIN_MODELS = ("llama", "qwen3", "gemma3_text")


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a Hugging Face folder; nothing is downloaded.

    Raises:
        Exception: Whatever Transformers and the tokenizers library raise for files that they cannot read.
    """
    if _is_plain(folder):
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _is_plain(folder: Path) -> bool:
    if not (folder / "tokenizer.json").is_file():
        return False
    said, model = (_fields(folder / name) for name in ("tokenizer_config.json", "config.json"))
    return said.get("tokenizer_class") in _PLAIN and "auto_map" not in said and model.get("model_type") in PLAIN_MODELS


def _fields(path: Path) -> dict[str, Any]:
    """Of a file of settings; none where it is not there or is not one, of which AutoTokenizer has more to say."""
    try:
        found = read_json(path, "settings", "save it again")
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}
