"""Whether a served model can hold the length that it is served with: seen before an engine starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import UserError
from configs.json_types import JsonMapping
from configs.model_config import longest_context, read_model_config, text_part
from configs.serving import ServeConfig

if TYPE_CHECKING:
    from serving.engine import EngineSettings

_BLOCK_TOKENS = 32  # the cache is lent in blocks of that many tokens, or of a part of them
# Layers whose cache does not grow with the length, in the configs of models that mix several kinds.
_MIXED = ("layers_block_type", "layer_types", "attn_layer_period", "full_attention_interval", "hybrid_override_pattern")


def check_length(model: Path, config: ServeConfig, settings: EngineSettings) -> None:
    """Refuse a length that the model has no positions for, or that the key-value cache cannot hold once.

    Args:
        model: Model folder.
        config: The serve section.
        settings: What the engines are made of.

    Raises:
        UserError: Says what fits.
    """
    field = "serve.max_length"
    positions = longest_context(model)
    if positions is not None and settings.max_length > positions:
        raise UserError(f"{field}: {settings.max_length} is above the {positions} positions of {model}; lower it")
    size = token_bytes(read_model_config(model), settings.dtype)
    cache = config.kv_cache_gb * 2**30
    need = size * settings.max_length
    if need > cache:
        fits = max(0, int(cache // size) // _BLOCK_TOKENS * _BLOCK_TOKENS)
        lower = f"set {field} to at most {fits}, or " if fits else ""
        raise UserError(
            f"{field}: a text of {settings.max_length} tokens of {model} needs {need / 2**30:.2f} GiB of key-value "
            f"cache, and serve.kv_cache_gb is {config.kv_cache_gb:g}; {lower}raise serve.kv_cache_gb"
        )


def token_bytes(config: JsonMapping, dtype: str) -> int:
    """Bytes of key-value cache that every token needs at least; 0 where the config does not say.

    Layers that keep a window or a state only are left out, so that the engine may need more but never less.

    Args:
        config: ``config.json`` of a model.
        dtype: "float32" or "bfloat16".
    """
    text = text_part(config)
    try:
        layers = _growing_layers(text)
        heads = int(text["num_attention_heads"])
        if "kv_lora_rank" in text:
            values = int(text["kv_lora_rank"]) + int(text.get("qk_rope_head_dim") or 0)
        else:
            width = int(text.get("head_dim") or text["hidden_size"] // heads)
            values = 2 * int(text.get("num_key_value_heads") or heads) * width
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return 0
    return layers * values * (4 if dtype == "float32" else 2)


def _growing_layers(text: JsonMapping) -> int:
    kinds = text.get("layer_types")
    if isinstance(kinds, list):
        return kinds.count("full_attention")
    if any(text.get(name) for name in _MIXED) or (text.get("sliding_window") and text.get("use_sliding_window", True)):
        return 0
    return int(text["num_hidden_layers"])
