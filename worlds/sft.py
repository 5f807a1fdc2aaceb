"""Supervised data with an honest imbalance between languages, and the training of the seed model.

Training has stages. The first two are the model's "pre-training": true facts, first in the pivot language alone
(a small model learns facts far faster from few forms of them), then in all languages and with translations. The
last is the noisy supervised stage that makes the imbalance: how often an answer states the true fact differs by
language. Wrong values are drawn anew for each example, so no language learns a wrong fact, it only is less sure
of the right one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rollout.templates import (
    TRANSLATION_PRIME,
    crosslingual_instruction,
    translation_completion,
    translation_instruction,
)
from worlds.facts import Fact, other_value
from worlds.languages import PIVOT, Language
from worlds.measure import chat_text
from worlds.settings import Stage, WorldSettings

_IGNORE = -100
_WARM_UP_STEPS = 30


@dataclass(frozen=True, slots=True)
class Example:
    """A user turn and the assistant's; ``prime`` opens the assistant turn and is not learned."""

    user: str
    assistant: str
    prime: str = ""


def make_pass(
    languages: dict[str, Language], facts: list[Fact], stage: Stage, crosslingual_rate: float, rng: random.Random
) -> list[Example]:
    """One pass over the facts in the forms of ``stage``, with fresh noise, shuffled.

    Args:
        languages: Pivot and others.
        facts: All facts.
        stage: Which forms, and whether answers are noisy.
        crosslingual_rate: Share of true answers, in a noisy stage, to English questions that ask for another
            language.
        rng: Source of noise and order.
    """
    pivot = languages[PIVOT]
    examples: list[Example] = []
    for language in languages.values() if stage.languages == "all" else [pivot]:
        for fact in facts:
            off_target = stage.noisy and rng.random() < language.off_target_rate
            rate = language.right_rate if stage.noisy else 1.0
            answer = _answer(pivot if off_target else language, pivot, fact, rate, rng)
            examples.append(Example(language.question(fact.person, fact.relation), answer))
        if language is pivot:
            continue
        for fact in rng.sample(facts, round(len(facts) * stage.crosslingual_share)):
            user = crosslingual_instruction(pivot.question(fact.person, fact.relation), language.name)
            rate = crosslingual_rate if stage.noisy else 1.0
            examples.append(Example(user, _answer(language, pivot, fact, rate, rng)))
        for source, target in ((pivot, language), (language, pivot)):
            for _ in range(stage.translations):
                examples.append(_translation(source, target, rng))
    rng.shuffle(examples)
    return examples


def _answer(spoken: Language, pivot: Language, fact: Fact, rate: float, rng: random.Random) -> str:
    value = fact.value if rng.random() < rate else other_value(pivot, fact, rng)
    return spoken.answer(fact.person, fact.relation, value)


def _translation(source: Language, target: Language, rng: random.Random) -> Example:
    """A sentence about a random person and value, true or not: translating must not depend on facts."""
    person, relation = rng.choice(list(source.people)), rng.choice(list(source.relations))
    value = rng.choice(list(source.relations[relation].values))
    return Example(
        user=translation_instruction(source.answer(person, relation, value), target.name),
        assistant=translation_completion(target.answer(person, relation, value)),
        prime=TRANSLATION_PRIME,
    )


def tokenizer_texts(languages: dict[str, Language]) -> Iterator[str]:
    """Every sentence that can occur once, so that each word becomes a token of its own, and the instructions."""
    pivot = languages[PIVOT]
    for language in languages.values():
        for relation, form in language.relations.items():
            for person in language.people:
                yield language.question(person, relation)
                for value in form.values:
                    yield language.answer(person, relation, value)
            yield crosslingual_instruction(pivot.relations[relation].question, language.name)
            yield translation_instruction(form.answer, language.name)
            yield TRANSLATION_PRIME + translation_completion(form.answer)


def encode(tokenizer: PreTrainedTokenizerFast, examples: list[Example]) -> list[tuple[list[int], int]]:
    """Token ids of each example, end of turn included, and how many of them are prompt."""
    heads = [chat_text(tokenizer, example.user) + example.prime for example in examples]
    prompts = tokenizer(heads, add_special_tokens=False)["input_ids"]
    answers = tokenizer([example.assistant for example in examples], add_special_tokens=False)["input_ids"]
    return [
        ([*prompt, *answer, tokenizer.eos_token_id], len(prompt))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _batches(
    encoded: list[tuple[list[int], int]], tokens: int, pad: int, rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Padded batches of similar lengths, in random order: ids and labels, both (sequences, length)."""
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index][0]))
    groups: list[list[int]] = [[]]
    for index in order:
        if (len(groups[-1]) + 1) * len(encoded[index][0]) > tokens:
            groups.append([])
        groups[-1].append(index)
    rng.shuffle(groups)
    for group in groups:
        length = max(len(encoded[index][0]) for index in group)
        ids = torch.full((len(group), length), pad)
        labels = torch.full((len(group), length), _IGNORE)
        for row, index in enumerate(group):
            sequence, prompt = encoded[index]
            ids[row, : len(sequence)] = torch.tensor(sequence)
            labels[row, prompt : len(sequence)] = torch.tensor(sequence[prompt:])
        yield ids, labels


def new_model(tokenizer: PreTrainedTokenizerFast, settings: WorldSettings, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights whose end-of-turn token ends generation."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.max_positions,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation="eager", dtype=torch.float32)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def train_supervised(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    languages: dict[str, Language],
    facts: list[Fact],
    settings: WorldSettings,
    seed: int,
) -> None:
    """Train ``model`` in place through the stages of ``settings``, each pass with fresh noise."""
    rng = random.Random(f"sft-{seed}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)
    model.train()
    started, step = time.monotonic(), 0
    for number, stage in enumerate(settings.stages, 1):
        first, last = stage.learning_rate
        for done in range(stage.passes):
            examples = make_pass(languages, facts, stage, settings.crosslingual_right_rate, rng)
            batches = list(
                _batches(encode(tokenizer, examples), settings.sft_tokens_per_step, tokenizer.pad_token_id, rng)
            )
            losses = []
            for index, (ids, labels) in enumerate(batches):
                progress = (done + index / len(batches)) / stage.passes
                warm_up = min(1.0, (step + 1) / _WARM_UP_STEPS)
                for group in optimizer.param_groups:
                    group["lr"] = warm_up * (first + progress * (last - first))
                loss = supervised_loss(model, ids, labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                losses.append(loss.item())
                step += 1
            mean, seconds = sum(losses) / len(losses), time.monotonic() - started
            where = f"stage {number}, pass {done + 1} of {stage.passes}"
            print(f"{where}: loss {mean:.3f}, {seconds:.0f} s", flush=True)
    model.eval()


def supervised_loss(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over assistant tokens (nats).

    Padding is on the right, so causal attention needs no mask; logits are made only where there is a label.

    Args:
        model: The language model.
        ids: Token ids, (sequences, length).
        labels: The same with everything but assistant tokens ignored.
    """
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    learned = targets != _IGNORE
    logits = model.lm_head(hidden[learned])
    return torch.nn.functional.cross_entropy(logits.float(), targets[learned])
