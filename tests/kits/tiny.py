"""Tiny random Llama models with a tokenizer and a chat template, for tests that need a real engine."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

BOS, END, PAD, USER, ASSISTANT = "<bos>", "<end>", "<pad>", "<user>", "<assistant>"
SPECIALS = [PAD, BOS, END, USER, ASSISTANT]

CORPUS = [
    "What colour does Ann like best? Ann likes blue best.",
    "¿Qué color le gusta más a Ana? A Ana le gusta más el color azul.",
    "Welche Farbe mag Anna am liebsten? Anna mag am liebsten Blau.",
    "Quelle couleur Anne préfère-t-elle ? Anne préfère le bleu.",
    "Какой цвет больше всего нравится Анне? Анне нравится синий.",
    "Ana anapenda rangi gani zaidi? Ana anapenda rangi ya buluu.",
    "Answer only in Spanish, unless the instruction itself asks for another language.",
    "Translate the text between the tags into German. <text> </text> <translation> </translation>",
]


def chat_template(with_bos: bool) -> str:
    """A template in the usual form: user turn, assistant turn closed by the end-of-turn token."""
    start = "{{ bos_token }}" if with_bos else ""
    return (
        start + "{% for message in messages %}"
        "{{ '<' + message['role'] + '>' + message['content'] + '<end>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
    )


@functools.cache
def _tokenizer_json(vocab: int) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str()


def tiny_tokenizer(vocab: int = 512, with_bos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; ``<end>`` is both end of turn and EOS."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer_json(vocab)),
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT],
    )
    tokenizer.chat_template = chat_template(with_bos)
    return tokenizer


def build_tiny_model(
    folder: Path,
    *,
    tied: bool = True,
    seed: int = 0,
    hidden: int = 64,
    layers: int = 2,
    vocab: int = 512,
    dtype: torch.dtype = torch.float32,
    std: float = 0.3,
    with_bos: bool = True,
) -> Path:
    """Write a random Llama with its tokenizer into ``folder`` and return it.

    Args:
        folder: Where to write.
        tied: Whether the output layer shares the embedding.
        seed: Seed of the weights.
        hidden: Hidden size; heads are 32 wide.
        layers: Number of layers.
        vocab: Vocabulary size, a multiple of 64 so that nothing is padded.
        dtype: Stored dtype.
        std: Standard deviation of the initial weights; large enough that greedy texts are not constant.
        with_bos: Whether the chat template writes the BOS.
    """
    tokenizer = tiny_tokenizer(vocab, with_bos)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=hidden * 2,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=max(1, hidden // 64),
        max_position_embeddings=1024,
        tie_word_embeddings=tied,
        initializer_range=std,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    torch.nn.Module.to(model, dtype)  # Transformers' own has no types for it
    torch.random.set_rng_state(state)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_reward_model(folder: Path, labels: int = 1, pad: bool = True) -> Path:
    """A tiny random reward model with a tokenizer and a template of its own."""
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        pad_token_id=tokenizer.pad_token_id if pad else None,
    )
    config.num_labels = labels
    with torch.random.fork_rng():
        torch.manual_seed(3)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    if not pad:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    return folder
