"""Preference pairs from a file, replayed beside the mined ones so that the dominant language does not sink."""

from __future__ import annotations

from dataclasses import dataclass

from configs.errors import UserError
from configs.schema import Config
from rollout.cursor import round_prompt_ids
from rollout.jsonl import id_of, read_rows, text_of
from rollout.records import Pair, labelled_pair
from rollout.seeds import stable_seed


@dataclass(frozen=True, slots=True)
class Anchor:
    """One preference pair of the anchor file."""

    id: str
    language: str
    prompt: str
    chosen: str
    rejected: str


def load_anchors(config: Config) -> tuple[Anchor, ...]:
    """Read ``anchor.path``; nothing if no anchors are replayed.

    Raises:
        UserError: With file:line and the cure, for any bad row; or the file holds fewer than are drawn a round.
    """
    path, wanted = config.anchor.path, config.anchor.pairs_per_round
    if path is None or wanted == 0:
        return ()
    anchors: list[Anchor] = []
    lines: dict[tuple[str, str], int] = {}
    for number, row in read_rows(path, "anchor pairs"):
        where = f"{path}:{number}"
        anchor = Anchor(
            id_of(row, "id", where),
            *(text_of(row, field, where) for field in ("language", "prompt", "chosen", "rejected")),
        )
        if anchor.language not in config.languages.codes:
            raise UserError(
                f"{where}: language '{anchor.language}' is not in languages.codes; add it there or remove the row"
            )
        if anchor.chosen.strip() == anchor.rejected.strip():
            raise UserError(f"{where}: chosen and rejected are equal; remove the row or correct one of them")
        key = (anchor.language, anchor.id)
        if key in lines:
            raise UserError(
                f"{where}: id '{anchor.id}' of language '{anchor.language}' was already used in line "
                f"{lines[key]}; "
                "give each row its own id"
            )
        lines[key] = number
        anchors.append(anchor)
    if len(anchors) < wanted:
        raise UserError(
            f"{path}: {len(anchors)} pairs, but anchor.pairs_per_round {wanted} are drawn without "
            "replacement; "
            f"lower it to {len(anchors)} at most or add pairs"
        )
    return tuple(anchors)


def anchor_pairs(config: Config, anchors: tuple[Anchor, ...], round_number: int) -> list[Pair]:
    """The anchors of a round: seeded, without replacement, and all are used once before any is used again."""
    if not anchors:
        return []
    positions = [str(index) for index in range(len(anchors))]
    drawn = round_prompt_ids(
        positions, round_number, config.anchor.pairs_per_round, stable_seed("anchor", config.run.seed)
    )
    return [
        labelled_pair(
            "anchor",
            round_number,
            anchor.id,
            anchor.language,
            anchor.prompt,
            chosen=anchor.chosen,
            rejected=anchor.rejected,
        )
        for anchor in (anchors[int(position)] for position in drawn)
    ]
