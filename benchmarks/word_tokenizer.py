"""A tokenizer of a word a token, for random models: token ``n`` is the word ``wn``, so texts choose token ids."""

from __future__ import annotations

from pathlib import Path


def word(number: int) -> str:
    """The word of a token id from 2 on; 0 is padding and 1 the end of turn."""
    return f"w{number}"


def write_word_tokenizer(folder: Path, vocabulary: int) -> None:
    """Save one of ``vocabulary`` words, with a chat template that adds nothing but the end of turn."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {text: number for number, text in enumerate(["<pad>", "<end>", *map(word, range(2, vocabulary))])}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %} <end>{% endif %}{% endfor %}"
    )
    tokenizer.save_pretrained(folder)
