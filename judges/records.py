"""What a judge is asked and what comes back. Plain data.

    from judges import compare
    verdicts = compare(items, config.judge, cache_path)            # list[Verdict], in the order of items
    compare(items, judge, cache, names={"sw": "Swahili"}, watch=progress, deadline_s=3600)   # all of it

``items``: Sequence[Item]. ``judge``: configs.schema.JudgeConfig. ``cache``: Path of the SQLite file of verdicts, or
None for none. Keywords: ``names`` (language code -> English name, beside the built-in ones), ``watch`` (called with the
``Usage`` so far after every answer; ``judges.progress.judging_progress`` yields one), ``deadline_s`` (of the whole
call). Raises ``configs.errors.UserError`` if the endpoint cannot be used or more than ``judge.max_failed_share`` of the
asked items got no verdict; what was answered until then is in the cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

TIE = 0.5


@dataclass(frozen=True, slots=True)
class Item:
    """Two answers to one instruction; ``id`` and ``language`` come back in the verdict, and are not shown as such."""

    id: str
    language: str  # BCP-47 code; the judge is told the language's name
    instruction: str
    answer_a: str
    answer_b: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge said of an item, asked in both orders.

    Attributes:
        id: Of the item.
        language: Of the item.
        preference: 1 if answer a is better, 0 if answer b is, 0.5 for a tie; in between where the server gave the
            verdict's probability (the mean of both orders). None if there is no verdict (``failed``).
        inconsistent: The two orders named different winners; the preference is then 0.5.
        unparsed: There is no verdict because the judge's words could not be read as one, twice.
        asked: False where no question was needed: an empty answer, or two equal ones.
        error: Why there is no verdict.
    """

    id: str
    language: str
    preference: float | None
    inconsistent: bool = False
    unparsed: bool = False
    asked: bool = True
    error: str = ""

    @property
    def tie(self) -> bool:
        """Neither answer is better; inconsistent verdicts among them."""
        return self.preference == TIE

    @property
    def failed(self) -> bool:
        """No verdict: counted, and to be scored nowhere."""
        return self.preference is None


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of one language. ``items == wins + losses + ties``; what failed is in none of these.

    Attributes:
        items: Verdicts that count.
        wins: Answer a better.
        losses: Answer b better.
        ties: Neither, inconsistent ones among them.
        inconsistent: The two orders named different winners.
        unasked: Settled without a question (an empty answer, equal answers); in the counts above too.
        failed: Without a verdict, unparsed ones among them.
        unparsed: Without a verdict because the judge's words could not be read.
    """

    items: int
    wins: int
    losses: int
    ties: int
    inconsistent: int
    unasked: int
    failed: int
    unparsed: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call of ``compare`` has done so far.

    Attributes:
        total: Questions (an item is two, one for each order; equal ones count once).
        done: Of them, answered, taken from the cache or given up.
        cached: Of them, taken from the cache.
        failed: Of them, given up.
        in_flight: Being asked now.
        requests: HTTP requests sent, retries among them.
        prompt_tokens: As the server counted them.
        completion_tokens: As the server counted them.
        cost: Of these tokens at the configured prices, in their currency; None without prices.
    """

    total: int = 0
    done: int = 0
    cached: int = 0
    failed: int = 0
    in_flight: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None

    def __add__(self, other: Usage) -> Usage:
        """Both together; the cost is known if both are."""
        known = self.cost is not None and other.cost is not None
        cost = (self.cost or 0.0) + (other.cost or 0.0) if known else None
        counts = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name != "cost"}
        return Usage(**counts, cost=cost)


def tally(verdicts: Iterable[Verdict]) -> dict[str, Tally]:
    """Counts by language, sorted by code."""
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(verdict.language, []).append(verdict)
    return {
        code: Tally(
            items=sum(v.preference is not None for v in group),
            wins=sum(v.preference is not None and v.preference > TIE for v in group),
            losses=sum(v.preference is not None and v.preference < TIE for v in group),
            ties=sum(v.tie for v in group),
            inconsistent=sum(v.inconsistent for v in group),
            unasked=sum(not v.asked for v in group),
            failed=sum(v.failed for v in group),
            unparsed=sum(v.unparsed for v in group),
        )
        for code, group in sorted(groups.items())
    }
