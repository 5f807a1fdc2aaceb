"""A miner of the user's own: what its function is called with, its trial before a run, and what it may return."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Protocol

from configs.errors import UserError, shortened
from configs.plugins import Plugin, load_plugin
from configs.schema import Config
from rollout.miners.group import Choice, Found, Miner, PromptGroup, Slot
from rollout.records import Candidate, CandidateKey
from rollout.token_ids import TokenIds

FIELD = "pairs.miner"


class MinerFunction(Protocol):
    """What ``pairs.miner`` names. Called in the driver, once a prompt and language; for equal inputs it must give equal
    pairs, or the run cannot be repeated.
    """

    def __call__(self, group: PromptGroup, **options: object) -> Sequence[tuple[int, int]]:
        """The pairs of a prompt.

        Args:
            group: Its candidates that passed the gates, with their rewards and sources (``group.slots``).
            options: ``pairs.options``.

        Returns:
            (chosen, rejected) as places in ``group.candidates``; nothing for no pair.
        """
        ...


def custom(config: Config) -> Miner:
    """The user's function as a miner.

    Raises:
        UserError: It cannot be imported, has another source than when the run began, or takes no such options.
    """
    pairs = config.pairs
    plugin = load_plugin(pairs.miner, FIELD, "isogloss.miners", config.run.plugins.get(FIELD))
    plugin.accepts(((),), pairs.options, "pairs.options")

    def mine(group: PromptGroup) -> Found:
        about = f"prompt '{shortened(group.prompt_id)}' in '{group.language}'"
        given = plugin.run(group, seconds=pairs.timeout_s, about=about, options=dict(pairs.options))
        choices = _choices(plugin, given, len(group.candidates), about)
        return Found(tuple(choices)) if choices else Found(refused={"no_margin": 1})

    return mine


def try_miner(config: Config) -> None:
    """Call the function on two candidates, before anything starts.

    Raises:
        UserError: It fails, is late, or returns no pairs of places.
    """
    if config.pairs.is_custom:
        code = config.languages.dominant
        keys = [CandidateKey(1, "trial", code, "policy", code, sample) for sample in (0, 1)]
        answers = tuple(Candidate(key, f"Answer {key.sample}.", TokenIds(), "stop", 0) for key in keys)
        slots = tuple(Slot("policy", key.origin, key.sample) for key in keys)
        custom(config)(PromptGroup("trial", code, answers, (1.0, 0.0), None, slots))


def _choices(plugin: Plugin, given: object, count: int, about: str) -> list[Choice]:
    wanted = f"return (chosen, rejected) pairs of places below {count}"
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise UserError(f"{plugin}: returned {shortened(repr(given))} for {about}; {wanted}")
    found: list[Choice] = []
    for number, one in enumerate(given):
        try:
            chosen, rejected = (operator.index(place) for place in one)
        except (TypeError, ValueError):
            raise UserError(f"{plugin}: returned the pair {shortened(repr(one))} for {about}; {wanted}") from None
        if not (0 <= chosen < count and 0 <= rejected < count) or chosen == rejected:
            raise UserError(
                f"{plugin}: returned the pair ({chosen}, {rejected}) for {about}; {wanted}, two different ones"
            )
        found.append(Choice(chosen, rejected, "" if len(given) == 1 else f"/{number:02d}"))
    return found
