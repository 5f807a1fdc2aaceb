"""Which prompts a round takes in which language: decided before anything is sampled, from config and journal alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from configs.schema import Config, RolloutConfig
from rollout.cursor import permutation, round_prompt_ids
from rollout.prompts import PromptSet
from rollout.sources import sources, targets

MOST_A_PAIR = 20  # prompts that a refill takes for one missing pair, however few the gates let pass


@dataclass(frozen=True)
class Block:
    """Prompts that are sampled, translated and scored together.

    Attributes:
        index: From 0, over all passes of a round.
        order: All its ids.
        ids: Language of pairs -> ids that are to give pairs in it, in the order of ``order``.
    """

    index: int
    order: tuple[str, ...]
    ids: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Passes:
    """How far a round with a quota has come; kept in the journal, so that a resumed run assigns the same again.

    Attributes:
        start: Position in the endless sequence of prompts where the round begins.
        needs: Of each pass: language -> prompts that it gets.
    """

    start: int
    needs: tuple[Mapping[str, int], ...]

    def to_json(self) -> dict[str, object]:
        """For the round's data in the journal."""
        return {"start": self.start, "needs": [dict(need) for need in self.needs]}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Passes:
        """Read back."""
        start, needs = data["start"], data["needs"]
        assert isinstance(start, int)
        assert isinstance(needs, list)
        return cls(start, tuple(dict(need) for need in needs))


@dataclass(frozen=True)
class Assignment:
    """A round's prompts.

    Attributes:
        passes: The blocks of each pass: one without a quota, one more with each refill.
        end: Position in the sequence of prompts behind the last one (with a quota).
        exhausted: Languages that got fewer prompts than they should: there are no more.
    """

    passes: tuple[tuple[Block, ...], ...]
    end: int = 0
    exhausted: frozenset[str] = frozenset()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Of all passes."""
        return tuple(block for blocks in self.passes for block in blocks)

    def ids(self, language: str) -> list[str]:
        """All prompts of a language."""
        return [prompt_id for block in self.blocks for prompt_id in block.ids.get(language, ())]


def assigned(config: Config, prompts: PromptSet, round_number: int, passes: Passes | None = None) -> Assignment:
    """The prompts of a round.

    Without a quota all languages take the round's ids, or, under ``languages.mix``, each its part of them.

    Args:
        config: The run.
        prompts: Training prompts.
        round_number: From 1.
        passes: With a quota: how far the round has come (:func:`first_pass`).
    """
    codes = targets(config.languages)
    if config.languages.quota is not None:
        assert passes is not None, "a round with a quota needs its passes"
        return _dealt(config, prompts, passes)
    ids = round_prompt_ids(prompts.ids, round_number, config.rollout.prompts_per_round, config.run.seed)
    if config.languages.mix is None:
        return Assignment((_sliced(config.rollout, ids, dict.fromkeys(codes, ids), 0),))
    by_language = {code: ids[place :: len(codes)] for place, code in enumerate(codes)}
    return Assignment((_side_by_side(config.rollout, by_language, 0),))


def wanted_pairs(config: Config) -> dict[str, int]:
    """Pairs that each language should get in a round; empty without a quota."""
    quota, codes = config.languages.quota, targets(config.languages)
    if quota is None:
        return {}
    number = quota.pairs_per_round
    if isinstance(number, dict):
        return {code: number[code] for code in codes if code in number}
    weights = [config.languages.share(code) if quota.balance == "shares" else 1.0 for code in codes]
    return dict(zip(codes, _divided(number, weights), strict=True))


def first_pass(config: Config, start: int, per_prompt: Mapping[str, int]) -> Passes:
    """The first pass of a round with a quota.

    Args:
        config: The run.
        start: Where the round before ended; 0 for the first.
        per_prompt: Language -> pairs that a prompt gives without losses.
    """
    quota = config.languages.quota
    assert quota is not None
    wanted = wanted_pairs(config)
    need = {code: math.ceil(quota.oversample * count / per_prompt[code]) for code, count in wanted.items() if count}
    return Passes(start, (need,))


def refill(config: Config, passes: Passes, done: Assignment, pairs: Mapping[str, int]) -> Passes | None:
    """The passes with one more, for languages that are short of pairs; None if nothing more can or may be done.

    Args:
        config: The run.
        passes: So far.
        done: What they gave.
        pairs: Language -> pairs that all passes gave.
    """
    quota = config.languages.quota
    assert quota is not None
    if len(passes.needs) > quota.refill:
        return None
    need: dict[str, int] = {}
    for code, wanted in wanted_pairs(config).items():
        short, tried = wanted - pairs.get(code, 0), len(done.ids(code))
        if short > 0 and code not in done.exhausted:
            rate = max(pairs.get(code, 0) / tried if tried else 0.0, 1 / MOST_A_PAIR)
            need[code] = math.ceil(short / rate)
    return Passes(passes.start, (*passes.needs, need)) if need else None


def eligible(config: Config, prompts: PromptSet) -> dict[str, frozenset[str]]:
    """Language of pairs -> ids that can give pairs in it: those that exist in it, and in every language that it needs.

    It needs the languages that its answers are translated from, and the dominant one for a cross-lingual reward prompt.
    """
    by_language: dict[str, set[str]] = {}
    for prompt_id, code in prompts.rows:
        by_language.setdefault(code, set()).add(prompt_id)
    dominant = config.languages.dominant
    asks_dominant = any(one.prompt != "native" for one in config.reward.logprobs.values())
    found: dict[str, frozenset[str]] = {}
    for code in targets(config.languages):
        own = set(by_language.get(code, ()))
        for source in sources(config):
            for origin, target in source.directions:
                if target == code and not source.for_reward:
                    own &= by_language.get(origin, set())
        if asks_dominant:
            own &= by_language.get(dominant, set())
        found[code] = frozenset(own)
    return found


def _dealt(config: Config, prompts: PromptSet, passes: Passes) -> Assignment:
    quota = config.languages.quota
    assert quota is not None
    usable = eligible(config, prompts)
    rest = _round_sequence(prompts.ids, passes.start, config.run.seed)
    end, blocks, exhausted = passes.start, 0, set[str]()
    found: list[tuple[Block, ...]] = []
    for kept in passes.needs:
        # Ties between languages go by their order, which the journal does not keep.
        need = {code: kept[code] for code in targets(config.languages) if code in kept}
        order, by_language, end = _deal(rest, need, usable, quota.assignment == "disjoint", end)
        exhausted |= {code for code, count in need.items() if len(by_language[code]) < count}
        ids = {code: tuple(given) for code, given in by_language.items()}
        made = (
            _side_by_side(config.rollout, ids, blocks)
            if quota.assignment == "disjoint"
            else _sliced(config.rollout, order, ids, blocks)
        )
        blocks += len(made)
        found.append(made)
    return Assignment(tuple(found), end, frozenset(exhausted))


def _deal(
    rest: list[tuple[int, str]], need: Mapping[str, int], usable: Mapping[str, frozenset[str]], disjoint: bool, end: int
) -> tuple[tuple[str, ...], dict[str, list[str]], int]:
    """Give prompts to languages, taking them off ``rest`` (position, id); the scarcest language first where they share.

    Returns:
        All ids given, in order; language -> its ids; and the position behind the last one.
    """
    open_needs = {code: count for code, count in need.items() if count > 0}
    supply = {code: sum(prompt_id in usable[code] for _, prompt_id in rest) for code in open_needs}
    given: dict[str, list[str]] = {code: [] for code in need}
    order: list[str] = []
    taken = 0
    for position, prompt_id in rest:
        if not open_needs:
            break
        taken += 1
        takers = [code for code in open_needs if prompt_id in usable[code]]
        if takers:
            end = position + 1
            order.append(prompt_id)
        chosen = takers
        if disjoint and takers:
            chosen = [max(takers, key=lambda code: open_needs[code] / supply[code])]
        for code in takers:
            supply[code] -= 1
        for code in chosen:
            given[code].append(prompt_id)
            open_needs[code] -= 1
            if open_needs[code] == 0:
                del open_needs[code]
    del rest[:taken]
    return tuple(order), given, end


def _round_sequence(ids: Sequence[str], start: int, seed: int) -> list[tuple[int, str]]:
    """All ids once, from a position of the endless sequence of epochs on, with their positions."""
    size, seen = len(ids), set[str]()
    found: list[tuple[int, str]] = []
    for position, prompt_id in _endless(ids, start, seed):
        if position >= start + 2 * size or len(found) == size:
            break
        if prompt_id not in seen:
            seen.add(prompt_id)
            found.append((position, prompt_id))
    return found


def _endless(ids: Sequence[str], start: int, seed: int) -> Iterator[tuple[int, str]]:
    size = len(ids)
    epoch = start // size
    while True:
        for place, prompt_id in enumerate(permutation(ids, epoch, seed)):
            if epoch * size + place >= start:
                yield epoch * size + place, prompt_id
        epoch += 1


def _sliced(
    rollout: RolloutConfig, order: Sequence[str], by_language: Mapping[str, Iterable[str]], first: int
) -> tuple[Block, ...]:
    """Blocks of consecutive ids, each with all languages that take them."""
    size = rollout.chunk_prompts
    members = {code: frozenset(ids) for code, ids in by_language.items()}
    blocks: list[Block] = []
    for place, start in enumerate(range(0, len(order), size)):
        own = tuple(order[start : start + size])
        ids = {code: own if taken.issuperset(own) else tuple(i for i in own if i in taken)
               for code, taken in members.items()}  # fmt: skip
        blocks.append(Block(first + place, own, {code: given for code, given in ids.items() if given}))
    return tuple(blocks)


def _side_by_side(rollout: RolloutConfig, by_language: Mapping[str, Sequence[str]], first: int) -> tuple[Block, ...]:
    """Blocks in which each language has as many ids as a chunk holds; no id is in two languages."""
    size = rollout.chunk_prompts
    longest = max((len(ids) for ids in by_language.values()), default=0)
    blocks: list[Block] = []
    for place, start in enumerate(range(0, longest, size)):
        ids = {code: tuple(given[start : start + size]) for code, given in by_language.items() if len(given) > start}
        order = tuple(prompt_id for given in ids.values() for prompt_id in given)
        blocks.append(Block(first + place, order, ids))
    return tuple(blocks)


def _divided(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers that add up to ``total`` in proportion to ``weights``; what is left over goes to largest rests."""
    exact = [total * weight / math.fsum(weights) for weight in weights]
    parts = [math.floor(value) for value in exact]
    rests = sorted(range(len(weights)), key=lambda i: (parts[i] - exact[i], i))
    for place in rests[: total - sum(parts)]:
        parts[place] += 1
    return parts
