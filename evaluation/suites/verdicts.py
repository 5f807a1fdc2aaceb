"""A judge's verdicts on an evaluation, as files of earlier ones hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from configs.errors import UserError
from configs.reading import kind, read_json, shown
from evaluation.winrate import Comparison
from rollout.jsonl import id_of, read_rows, text_of

VERDICTS = "verdicts.jsonl"
RESULT = "result.json"


def write_verdicts(path: Path, verdicts: Sequence[Comparison], errors: dict[tuple[str, str], str]) -> None:
    """Write verdicts as JSON lines.

    Args:
        path: Of the file.
        verdicts: 1 the baseline, 2 the model.
        errors: Why there is no verdict, by (language, id).
    """
    with path.open("w", encoding="utf-8") as file:
        for verdict in verdicts:
            row = {
                "id": verdict.item,
                "language": verdict.language,
                "preference": verdict.preference,
                "inconsistent": verdict.inconsistent,
                "baseline_chars": verdict.baseline_chars,
                "model_chars": verdict.model_chars,
            }
            error = errors.get((verdict.language, verdict.item))
            file.write(json.dumps(row | ({"error": error} if error else {}), ensure_ascii=False) + "\n")


def read_others(folders: Sequence[Path], suite: str, baseline: str) -> dict[str, list[Comparison]]:
    """Verdicts on other models, by the folder that they are in.

    Args:
        folders: Of earlier evaluations (``--others``).
        suite: That they must be of.
        baseline: Checksum of the answers that they must have been judged against.

    Raises:
        UserError: No evaluation, of another suite, or against other answers: its difficulties would say nothing.
    """
    out: dict[str, list[Comparison]] = {}
    for folder in folders:
        result, path = folder / RESULT, folder / VERDICTS
        if not result.is_file() or not path.is_file():
            raise UserError(
                f"--others {folder}: has no {RESULT} with {VERDICTS}; name the --out of a judged evaluation"
            )
        data = read_json(result, "the result of an evaluation", "evaluate again")
        against = data.get("against") if isinstance(data, dict) else None
        if not isinstance(against, dict):
            raise UserError(f"{result}: is no result of a judged evaluation; evaluate again")
        found = data.get("suite"), against.get("answers")
        if found[0] != suite:
            raise UserError(f"--others {folder}: is of suite {shown(found[0])}, not {suite}; leave it out")
        if found[1] != baseline:
            raise UserError(f"--others {folder}: was judged against other answers than this one; leave it out")
        out[str(folder)] = _verdicts(path)
    return out


def _verdicts(path: Path) -> list[Comparison]:
    found: dict[tuple[str, str], Comparison] = {}
    for line, row in read_rows(path, "verdicts"):
        verdict = _verdict(row, f"{path}:{line}")
        if (verdict.language, verdict.item) in found:
            raise UserError(f"{path}:{line}: id '{verdict.item}' ({verdict.language}) occurs twice; evaluate again")
        found[verdict.language, verdict.item] = verdict
    return list(found.values())


def _verdict(row: dict[str, object], where: str) -> Comparison:
    item, language = id_of(row, "id", where), text_of(row, "language", where)
    preference = _number(row.get("preference"), "preference", where)
    lengths = [_number(row.get(name), name, where) for name in ("baseline_chars", "model_chars")]
    ours, theirs = (None if length is None else int(length) for length in lengths)
    try:
        return Comparison(item, language, preference, ours, theirs, row.get("inconsistent") is True)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _number(value: object, name: str, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}: {name} is {kind(value)} instead of a number or null")
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise UserError(f"{where}: {name} is no finite number; write one, or null")
    return number
