"""Which examples make which step, and which rank and micro-batch each falls to. Pure, the same on every rank.

An example is a pair or, for RLOO, a group: one prompt with two or more answers, which is one packed segment.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from configs.errors import UserError
from configs.learner import GROUP_OBJECTIVES
from learners.encode import ChatEncoder, answer_tokens
from learners.objectives.registry import takes
from learners.packing import Segment
from rollout.records import Example, SampleGroup


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An example and its tokens; the completions of a pair are (chosen, rejected)."""

    example: Example
    segment: Segment

    @property
    def id(self) -> str:
        """Id of the pair or group."""
        return self.example.id

    @property
    def units(self) -> int:
        """What it counts for in the mean that a step's loss is: 1 for a pair, the number of answers for a group."""
        return self.example.units


def encode_examples(
    encoder: ChatEncoder,
    examples: Sequence[Example],
    max_length: int,
    objective: str,
    known: Mapping[str, EncodedExample] | None = None,
) -> list[EncodedExample]:
    """Tokens of each example, sorted by id, so that nothing depends on the order of arrival.

    An answer's tokens are those that were sampled, where the example has them; else its text is encoded.

    Args:
        encoder: Of the policy.
        examples: Pairs or groups.
        max_length: Tokens of a prompt with an answer, at most.
        objective: ``learner.objective``.
        known: Examples that were encoded before, by id; what has the same texts and tokens is not encoded again.

    Raises:
        UserError: The objective takes the other kind of example, two examples share an id, one is longer than
            ``max_length`` tokens, or a group is not whole.
    """
    encoded: list[EncodedExample] = []
    for example in sorted(examples, key=lambda example: example.id):
        _check_kind(example, objective)
        if encoded and encoded[-1].id == example.id:
            raise UserError(f"{_name(example)}: is there twice; ids must be unique")
        before = known.get(example.id) if known else None
        if before is not None and _same_texts(before.example, example):
            segment = before.segment
        else:
            prompt = tuple(encoder.prompt_ids(example.prompt))
            answers = zip(example.answers, example.answer_ids, strict=True)
            segment = Segment(prompt, tuple(answer_tokens(encoder, text, ids) for text, ids in answers))
        if segment.longest > max_length:
            raise UserError(
                f"{_name(example)}: prompt and answer are {segment.longest} tokens, more than model.max_length "
                f"{max_length}; raise it or leave it out"
            )
        encoded.append(EncodedExample(example, segment))
    return encoded


def _same_texts(one: Example, other: Example) -> bool:
    return (one.prompt, one.answers, one.answer_ids) == (other.prompt, other.answers, other.answer_ids)


def _check_kind(example: Example, objective: str) -> None:
    if example.kind != takes(objective):
        cure = (
            "leave pairs (anchors too) out, or choose another objective"
            if example.kind == "pairs"
            else f"set it to {GROUP_OBJECTIVES[0]} to train on groups"
        )
        what = "pairs" if takes(objective) == "pairs" else "groups of scored answers"
        raise UserError(f"{_name(example)}: learner.objective {objective} trains on {what}; {cure}")
    if isinstance(example, SampleGroup):
        _check_whole(example)


def _check_whole(group: SampleGroup) -> None:
    answers, rewards, reference = len(group.completions), len(group.rewards), group.reference
    if answers < 2 or rewards != answers or (reference is not None and len(reference) != answers):
        raise UserError(
            f"{_name(group)}: has {answers} answers, {rewards} rewards and "
            f"{'no' if reference is None else len(reference)} reference log-probabilities; it needs at least 2 answers "
            "and one reward for each"
        )


def _name(example: Example) -> str:
    return f"{example.kind.removesuffix('s')} {example.id}"


def mismatched(step: Sequence[EncodedExample], max_length: int) -> list[EncodedExample]:
    """Each pair's prompt with the answers of the step's next pair in order of ids, the last with the first's.

    What KTO's ``z0`` is estimated from (arXiv 2402.01306, section 4.2): answers y' of other prompts x. Answers that no
    longer fit behind the other prompt are cut to ``max_length``. A step of one pair has no other prompt: none.
    """
    if len(step) < 2:
        return []
    ordered = sorted(step, key=lambda one: one.id)
    found = []
    for one, other in zip(ordered, [*ordered[1:], ordered[0]], strict=True):
        room = max_length - len(one.segment.prompt_ids)
        answers = tuple(answer[:room] for answer in other.segment.completions)
        found.append(EncodedExample(one.example, Segment(one.segment.prompt_ids, answers)))
    return found


def steps_of_epoch(
    examples: Sequence[EncodedExample], per_step: int, seed: int, round_number: int, epoch: int
) -> list[list[EncodedExample]]:
    """Split a round's examples (sorted by id) into steps, in an order fixed by run seed, round and epoch."""
    order = list(examples)
    random.Random(f"{seed}/{round_number}/{epoch}").shuffle(order)
    return [order[start : start + per_step] for start in range(0, len(order), per_step)]


def split_over_ranks(examples: Sequence[EncodedExample], world_size: int) -> list[list[EncodedExample]]:
    """Balance tokens over ranks: longest first, each to the rank with the fewest tokens so far."""
    shares: list[list[EncodedExample]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    for one in sorted(examples, key=lambda one: (-one.segment.tokens, one.id)):
        rank = min(range(world_size), key=lambda rank: (loads[rank], rank))
        shares[rank].append(one)
        loads[rank] += one.segment.tokens
    return shares
