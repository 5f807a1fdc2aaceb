"""Files of answers: read and checked against a suite, and written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from configs.errors import UserError
from evaluation.suites.records import Answer, Answers, Suite
from rollout.jsonl import id_of, read_rows, text_of

_SHOWN = 5


def read_answers(path: Path, suite: Suite) -> Answers:
    """Read JSON lines ``{"id", "language", "answer"}``, exactly one for each item of the suite.

    ``language`` may be left out where the suite has one language; ``response`` is read where ``answer`` is missing. An
    empty answer is an answer: it is counted and scored as such.

    Raises:
        UserError: A bad line, an answer to no prompt of the suite, two to one prompt, or none to some; names file:line
            and how many.
    """
    wanted = {item.key: item for item in suite.items}
    lines: dict[tuple[str, str], int] = {}
    answers: Answers = {}
    extra: list[tuple[int, tuple[str, str]]] = []
    twice: list[tuple[int, tuple[str, str]]] = []
    for number, row in read_rows(path, "answers"):
        where = f"{path}:{number}"
        key = (_language(row, suite, where), id_of(row, "id", where))
        text = _text(row, where)
        if key not in wanted:
            extra.append((number, key))
        elif key in answers:
            twice.append((number, key))
        else:
            answers[key], lines[key] = Answer(text), number
    if twice:
        number, key = twice[0]
        raise UserError(
            f"{path}:{number}: id '{key[1]}' ({key[0]}) was already answered in line {lines[key]}; "
            f"{len(twice)} answer(s) "
            "are to prompts that have one; keep one of each"
        )
    if extra:
        number, key = extra[0]
        codes = "" if key[0] in suite.languages else f" (asked are {', '.join(suite.languages)})"
        raise UserError(
            f"{path}:{number}: id '{key[1]}' ({key[0]}) is no prompt of {suite.name}{codes}; {len(extra)} "
            "answer(s) are to "
            "no prompt; remove them, or check --data, --languages and --limit"
        )
    missing = [key for key in wanted if key not in answers]
    if missing:
        some = ", ".join(f"'{key}' ({code})" for code, key in missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise UserError(
            f"{path}: {len(missing)} of {len(wanted)} prompts have no answer: {some}{more} (the first is "
            f"{wanted[missing[0]].where}); add them, with an empty answer where there is none"
        )
    return answers


def write_answers(
    path: Path, suite: Suite, answers: Answers, extras: Mapping[tuple[str, str], dict[str, object]]
) -> None:
    """Write what :func:`read_answers` reads, with further fields by item, in the suite's order."""
    with path.open("w", encoding="utf-8") as file:
        for item in suite.items:
            answer = answers[item.key]
            row: dict[str, object] = {"id": item.id, "language": item.language, "answer": answer.text}
            row |= {"finish": answer.finish, "tokens": answer.tokens, **extras.get(item.key, {})}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def describe(answers: Sequence[Answer]) -> dict[str, int]:
    """Counts that stand beside every figure of these answers."""
    return {
        "empty": sum(answer.empty for answer in answers),
        "truncated": sum(answer.finish == "length" for answer in answers),
    }


def _language(row: dict[str, object], suite: Suite, where: str) -> str:
    if "language" not in row and len(suite.languages) == 1:
        return suite.languages[0]
    return text_of(row, "language", where)


def _text(row: dict[str, object], where: str) -> str:
    field = "answer" if "answer" in row or "response" not in row else "response"
    value = row.get(field)
    if isinstance(value, str) and not value.strip():
        return ""
    return text_of(row, field, where).strip()
