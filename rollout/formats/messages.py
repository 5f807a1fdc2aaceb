"""Chats as prompts: ``messages`` (OpenAI, TRL) or ``conversations`` (ShareGPT); an answer at the end is cut off."""

from __future__ import annotations

from rollout.formats.chats import messages_of, up_to_the_user
from rollout.formats.files import Row
from rollout.formats.form import Form
from rollout.records import chat_of

_NAMES = ("messages", "conversations")


def _read(row: Row, where: str, number: int) -> Row:
    name = next((name for name in _NAMES if name in row), _NAMES[0])
    turns = up_to_the_user(messages_of(row.get(name), name, where), name, where)
    kept = {other: value for other, value in row.items() if other not in _NAMES}
    key = next((row[other] for other in ("id", "prompt_id") if row.get(other) is not None), None)
    return {**kept, "prompt": chat_of(turns), **({} if key is None else {"id": key})}


FORM = Form("messages", "prompts", (_NAMES,), _read, without=("prompt",))
