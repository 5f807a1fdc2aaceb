"""How large a model is, from its ``config.json`` alone: no weights are read."""

from __future__ import annotations

import math
from pathlib import Path

from actors.plan.gpu_memory import ModelSize
from configs.errors import UserError


def model_size(config: Path, scores: bool = False) -> ModelSize:
    """Size of a causal model, or of one that scores sequences.

    Args:
        config: Its ``config.json``, or the folder that holds it.
        scores: A reward model: a classification head in place of the output layer.

    Raises:
        UserError: It is not the config of a causal model that Transformers knows.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    what = "sequence classifier" if scores else "causal model"
    try:
        found = AutoConfig.from_pretrained(config, local_files_only=True)
        with torch.device("meta"):  # shapes without memory
            kind = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
            model = kind.from_config(found)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{config}: not the config of a {what} ({error})") from None
    text = found.get_text_config()
    heads = int(text.num_attention_heads)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    output = model.get_output_embeddings()
    linear = sum(
        layer.in_features + layer.out_features
        for layer in model.modules()
        if isinstance(layer, torch.nn.Linear) and layer is not output
    )
    # Parameters that two modules share (tied embeddings) are counted once.
    parameters = sum(math.prod(one.shape) for one in model.parameters())
    kv_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    return ModelSize(parameters, linear, int(text.num_hidden_layers), heads, kv_heads, int(head_dim))
