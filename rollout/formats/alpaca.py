"""Alpaca's instructions: the instruction, and beneath it the input where there is one."""

from __future__ import annotations

from rollout.formats.files import Row
from rollout.formats.form import Form
from rollout.jsonl import text_of


def _read(row: Row, where: str, number: int) -> Row:
    instruction = text_of(row, "instruction", where)
    given = row.get("input")
    prompt = f"{instruction}\n\n{given}" if isinstance(given, str) and given.strip() else instruction
    key = next((row[name] for name in ("id", "instruction_id") if row.get(name) is not None), None)
    kept = {name: value for name, value in row.items() if name not in ("instruction", "input", "output")}
    return {**kept, "prompt": prompt, **({} if key is None else {"id": key})}


FORM = Form("alpaca", "prompts", ("instruction",), _read, without=("prompt",))
