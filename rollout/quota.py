"""Whether each language got the pairs that its quota asks for, and why not. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from configs.errors import UserError
from configs.json_types import JsonMapping, JsonObject
from configs.schema import Config
from rollout.assignment import Assignment, eligible, wanted_pairs
from rollout.pairs import MinedPairs
from rollout.prompts import PromptSet
from rollout.refusals import losses

NO_PROMPTS = "no_prompts"


def check_quota(config: Config, prompts: PromptSet) -> dict[str, int]:
    """Refuse a quota for a language without prompts; returns how many prompts each language can use.

    Raises:
        UserError: Names the language and the cure.
    """
    usable = {code: len(ids) for code, ids in eligible(config, prompts).items()}
    for code, asked in wanted_pairs(config).items():
        if asked and not usable[code]:
            own = sum(language == code for _, language in prompts.rows)
            needs = " and in the languages that its answers or rewards need" if own else ""
            raise UserError(
                f"languages.quota: no prompt of language '{code}' can give a pair: {own} exist in it, 0 in it{needs}; "
                "add some to prompts.train, or give the language share 0"
            )
    return usable


def quota_rows(config: Config, assignment: Assignment, mined: MinedPairs) -> dict[str, JsonObject]:
    """Of each language: "asked" and "got" pairs, "prompts" that were assigned, in how many "passes", and if it is
    "short", by how many and for which "reason": "no_prompts" where there are no more, else what refused most.
    """
    got = mined.new_by_language
    rows: dict[str, JsonObject] = {}
    for code, asked in wanted_pairs(config).items():
        passes = sum(any(block.ids.get(code) for block in blocks) for blocks in assignment.passes)
        row: JsonObject = {
            "asked": asked,
            "got": got.get(code, 0),
            "prompts": len(assignment.ids(code)),
            "passes": passes,
        }
        if row["got"] < asked:
            lost = losses(mined.counters.get(code, {}))
            worst = max(sorted(lost), key=lambda reason: lost[reason], default="no_candidates")
            row |= {
                "short": asked - row["got"],
                "reason": NO_PROMPTS if code in assignment.exhausted else worst,
                "lost": lost,
            }
        rows[code] = row
    return rows


def short_lines(rows: Mapping[str, JsonMapping]) -> list[str]:
    """One line for each language that is short of its quota."""
    return [
        f"{code} is {row['short']} of {row['asked']} pairs short after {row['prompts']} prompts in {row['passes']} "
        f"pass(es): {_why(row)}"
        for code, row in rows.items()
        if row.get("short")
    ]


def _why(row: JsonMapping) -> str:
    if row["reason"] == NO_PROMPTS:
        return "there are no more prompts"
    losses = ", ".join(f"{reason} {count}" for reason, count in sorted(row["lost"].items(), key=lambda item: -item[1]))
    return f"{losses or row['reason']}; languages.quota.refill or oversample give it more prompts"
