"""How often a model states the true fact: sampled and greedy, by language, with Transformers alone."""

from __future__ import annotations

from collections import defaultdict

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from worlds.facts import Row

_MAX_NEW_TOKENS = 32
_SEQUENCES = 512  # decoded at once


def chat_text(tokenizer: PreTrainedTokenizerBase, user: str) -> str:
    """A user turn through the chat template, with the assistant turn opened."""
    return str(
        tokenizer.apply_chat_template([{"role": "user", "content": user}], tokenize=False, add_generation_prompt=True)
    )


def chat_ids(tokenizer: PreTrainedTokenizerBase, user: str) -> list[int]:
    """Token ids of a user turn with the assistant turn opened, BOS included once."""
    return tokenizer(chat_text(tokenizer, user), add_special_tokens=False)["input_ids"]


@torch.no_grad()
def accuracy(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[Row],
    samples: int,
    temperature: float,
    *,
    seed: int,
) -> float:
    """Share of answers that equal the gold sentence.

    Args:
        model: The language model, fp32.
        tokenizer: Its tokenizer.
        rows: Prompts with answers.
        samples: Answers a prompt.
        temperature: Of sampling; 0 is greedy.
        seed: Of sampling.
    """
    generator = torch.Generator().manual_seed(seed)
    groups: dict[int, list[tuple[list[int], str]]] = defaultdict(list)
    for row in rows:
        ids = chat_ids(tokenizer, row["prompt"])
        groups[len(ids)].append((ids, row["answer"]))
    right = 0
    step = max(1, _SEQUENCES // samples)
    for group in groups.values():
        for start in range(0, len(group), step):
            part = group[start : start + step]
            prompts = torch.tensor([ids for ids, _ in part])
            texts = _generate(model, tokenizer, prompts, samples, temperature, generator=generator)
            gold = [answer for _, answer in part for _ in range(samples)]
            right += sum(text == answer for text, answer in zip(texts, gold, strict=True))
    return right / (len(rows) * samples)


def _generate(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: torch.Tensor,
    samples: int,
    temperature: float,
    *,
    generator: torch.Generator,
) -> list[str]:
    """Answers to ``prompts`` (sequences, length; no padding), ``samples`` after one another for each."""
    end = tokenizer.eos_token_id
    output = model(input_ids=prompts, use_cache=True, logits_to_keep=1)
    cache, logits = output.past_key_values, output.logits[:, -1]
    if samples > 1:
        cache.batch_repeat_interleave(samples)
        logits = logits.repeat_interleave(samples, dim=0)
    done = torch.zeros(len(logits), dtype=torch.bool)
    tokens: list[torch.Tensor] = []
    while len(tokens) < _MAX_NEW_TOKENS:
        if temperature == 0:
            token = logits.argmax(-1)
        else:
            token = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)[:, 0]
        token = token.masked_fill(done, end)
        tokens.append(token)
        done |= token == end
        if done.all():
            break
        logits = model(input_ids=token[:, None], past_key_values=cache, use_cache=True).logits[:, -1]
    return [
        str(tokenizer.decode([int(token) for token in row if token != end], skip_special_tokens=False))
        for row in torch.stack(tokens, dim=1)
    ]
