"""Tiny random models and pairs for the tests of the learner."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.pre_tokenizers import ByteLevel as Alphabet
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from rollout.records import Pair

SPECIALS = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """One token a byte, plus specials: needs no training."""
    alphabet = sorted(Alphabet.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *alphabet])}
    core = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = ByteLevel(add_prefix_space=False)
    core.decoder = ByteDecoder()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=SPECIALS[3:],
    )
    tokenizer.chat_template = template
    return tokenizer


def make_model(kind: str, tied: bool = True, seed: int = 0) -> PreTrainedModel:
    """A tiny random model: ``llama``, ``gemma3`` (sliding window 8, soft cap) or ``qwen3``."""
    torch.manual_seed(seed)
    sizes = dict(
        vocab_size=262,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=5,
        pad_token_id=0,
        initializer_range=0.2,
    )
    config: LlamaConfig | Gemma3TextConfig | Qwen3Config
    if kind == "llama":
        config = LlamaConfig(num_hidden_layers=2, **sizes)
    elif kind == "gemma3":
        config = Gemma3TextConfig(
            num_hidden_layers=3,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            final_logit_softcapping=5.0,
            query_pre_attn_scalar=8,
            **sizes,
        )
    else:
        config = Qwen3Config(num_hidden_layers=2, **sizes)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def make_folder(folder: Path, kind: str = "llama", tied: bool = True, seed: int = 0) -> Path:
    """A loadable model folder with tokenizer, chat template and generation config."""
    make_model(kind, tied, seed).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_pairs(count: int, round_number: int = 1) -> list[Pair]:
    """Pairs of different lengths in two languages."""
    return [
        Pair(
            id=f"r{round_number:04d}/{'es' if n % 2 else 'sw'}/p{n}",
            round=round_number,
            prompt_id=f"p{n}",
            language="es" if n % 2 else "sw",
            source="mined",
            prompt="question " + "abc " * (n % 5) + str(n),
            chosen="good answer " + "x" * (n % 7),
            rejected="bad " + "y" * (1 + 3 * n % 11),
            chosen_score=1.0,
            rejected_score=0.0,
            weight_version=0,
        )
        for n in range(count)
    ]
