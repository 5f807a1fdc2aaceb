"""How long a text a model can hold, read from its folder without torch: what the engine would refuse minutes later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from configs.errors import UserError
from configs.json_types import JsonMapping, JsonObject
from configs.model_config import CONFIG_FILE, read_model_config, text_part
from configs.reading import kind, read_json

# The names under which architectures give it, as vLLM reads them (model_arch_config_convertor.py).
_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
# Kinds of RoPE scaling whose models give the scaled length; for the others it is to be multiplied (as vLLM does).
_SCALED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "default")


def check_positions(folder: Path, max_length: int, trains_only: bool = False) -> None:
    """Refuse a ``model.max_length`` beyond what the model, or its tokenizer, can hold.

    Args:
        folder: Hugging Face folder with a readable ``config.json``.
        max_length: ``model.max_length``, in tokens.
        trains_only: No engine will load it. Rotary positions can then be trained beyond their number.

    Raises:
        UserError: Names the file and the number that it gives.
    """
    config = read_model_config(folder)
    part = text_part(config)
    if trains_only and any(name.startswith(("rope", "rotary", "alibi")) for name in part):
        return
    found = [(value * _factor(part), name) for name in _KEYS if (value := _number(part.get(name)))]
    if found:
        limit, name = min(found)
        # A model_max_length of the config allows more than the other keys say.
        _refuse(max_length, max(limit, _number(config.get("model_max_length")) or 0), f"{folder / CONFIG_FILE}: {name}")
    if not trains_only and (folder / "tokenizer_config.json").is_file():
        longest = _number(_read(folder / "tokenizer_config.json").get("model_max_length"))
        if longest:
            _refuse(max_length, longest, f"{folder / 'tokenizer_config.json'}: model_max_length")


def _refuse(max_length: int, limit: float, source: str) -> None:
    if max_length > limit:
        raise UserError(
            f"model.max_length: {max_length} tokens are more than the {int(limit)} that the model can hold ({source}); "
            f"lower it to {int(limit)}"
        )


def _factor(part: JsonMapping) -> float:
    if "gemma3" in str(part.get("model_type", "")):
        return 1.0  # gives the scaled length
    return max((float(one["factor"]) for one in _ropes(part) if _number(one.get("factor"))), default=1.0)


def _ropes(part: JsonMapping) -> Iterator[JsonMapping]:
    """RoPE's parameters that multiply the length; newer configs have them by kind of layer."""
    for name in ("rope_scaling", "rope_parameters"):
        block = part.get(name)
        if not isinstance(block, dict):
            continue
        for one in (block, *block.values()):
            if isinstance(one, dict) and one.get("rope_type", one.get("type", "default")) not in _SCALED:
                yield one


def _number(value: object) -> float | None:
    real = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return float(value) if real else None  # type: ignore[arg-type]


def _read(file: Path) -> JsonObject:
    found = read_json(file, "the tokenizer's config", "fetch the model again")
    if not isinstance(found, dict):
        raise UserError(f"{file}: holds {kind(found)} instead of an object; fetch the model again")
    return found
