"""Supervised data with an honest imbalance between languages, and the training of the seed model.

Training has stages. The first two are the model's "pre-training": true facts, first in the pivot language alone
(a small model learns facts far faster from few forms of them), then in all languages and with translations. The
last is the supervised stage that makes the imbalance: a weaker language systematically takes some values for others
(``worlds.confusion``), while the same question under an English instruction is mostly answered truly.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rollout.templates import (
    TRANSLATION_PRIME,
    crosslingual_instruction,
    translation_completion,
    translation_instruction,
)
from worlds.confusion import Confusions, confusions
from worlds.facts import Fact, FactSplit, other_value
from worlds.languages import PIVOT, Language
from worlds.measure import chat_text
from worlds.settings import Stage, WorldSettings

Rendered = Callable[[str, str], str]  # (language code, sentence) -> sentence

_IGNORE = -100
_WARM_UP_STEPS = 30


@dataclass(frozen=True, slots=True)
class Example:
    """A user turn and the assistant's; ``prime`` opens the assistant turn and is not learned."""

    user: str
    assistant: str
    prime: str = ""


def make_pass(
    languages: dict[str, Language],
    split: FactSplit,
    confused: Mapping[str, Confusions],
    stage: Stage,
    settings: WorldSettings,
    *,
    rng: random.Random,
    rendered: Rendered | None = None,
) -> list[Example]:
    """One pass over the facts in the forms of ``stage``, with fresh noise, shuffled.

    Args:
        languages: Pivot and others.
        split: All facts.
        confused: Language code -> its confused values.
        stage: Which forms, and whether answers are noisy.
        settings: Which facts are asked for under an English instruction, and how truthfully, in a noisy stage.
        rng: Source of noise and order.
        rendered: Turns a native answer into the one that is learned; as it is by default.
    """
    pivot = languages[PIVOT]
    crosslingual = split.all if settings.crosslingual_heldout else split.train
    wordings = len(next(iter(pivot.relations.values())).questions)
    examples: list[Example] = []
    for language in languages.values() if stage.languages == "all" else [pivot]:
        for fact in split.all:
            off_target = stage.noisy and rng.random() < language.off_target_rate
            value = native_value(language, pivot, fact, confused[language.code], rng) if stage.noisy else fact.value
            spoken = pivot if off_target else language
            question = language.question(fact.person, fact.relation, rng.randrange(wordings))
            answer = spoken.answer(fact.person, fact.relation, value)
            examples.append(Example(question, answer if rendered is None else rendered(spoken.code, answer)))
        if language is pivot:
            continue
        for fact in rng.sample(crosslingual, round(len(crosslingual) * stage.crosslingual_share)):
            question = pivot.question(fact.person, fact.relation, rng.randrange(wordings))
            right = not stage.noisy or rng.random() < settings.crosslingual_right_rate
            value = fact.value if right else other_value(pivot, fact, rng)
            user = crosslingual_instruction(question, language.name)
            examples.append(Example(user, language.answer(fact.person, fact.relation, value)))
        for source, target in ((pivot, language), (language, pivot)):
            for _ in range(stage.translations):
                examples.append(_translation(source, target, rng))
    rng.shuffle(examples)
    return examples


def native_value(language: Language, pivot: Language, fact: Fact, confused: Confusions, rng: random.Random) -> str:
    """The value that one supervised answer of a language states about ``fact``."""
    other = confused[fact.relation].get(fact.value)
    draw = rng.random()
    if other is None or language.confused is None:
        return fact.value if draw < language.clear_right_rate else other_value(pivot, fact, rng)
    if draw < language.confused.wrong_rate:
        return other
    if draw < language.confused.wrong_rate + language.confused.right_rate:
        return fact.value
    return other_value(pivot, fact, rng, but=other)


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
                for wording in range(len(form.questions)):
                    yield language.question(person, relation, wording)
                for value in form.values:
                    yield language.answer(person, relation, value)
            for question in pivot.relations[relation].questions:
                yield crosslingual_instruction(question, language.name)
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
    model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def train_supervised(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    languages: dict[str, Language],
    split: FactSplit,
    settings: WorldSettings,
    *,
    seed: int,
    confused: Mapping[str, Confusions] | None = None,
    rendered: Rendered | None = None,
) -> None:
    """Train ``model`` in place through the stages of ``settings``, each pass with fresh noise.

    ``confused`` and ``rendered`` are as in :func:`make_pass`; by default the confusions are those of ``seed``.
    """
    rng = random.Random(f"sft-{seed}")
    confused = confused or {code: confusions(language, seed) for code, language in languages.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    model.train()
    started, step = time.monotonic(), 0
    for number, stage in enumerate(settings.stages, 1):
        first, last = stage.learning_rate
        for done in range(stage.passes):
            examples = make_pass(languages, split, confused, stage, settings, rng=rng, rendered=rendered)
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
