"""Turns of a chat as data sets write them."""

from __future__ import annotations

from configs.errors import UserError
from configs.reading import kind, shown
from rollout.jsonl import text_of
from rollout.records import Message

ROLES = ("system", "user", "assistant")
_SHAREGPT = {"human": "user", "gpt": "assistant", "system": "system"}


def messages_of(value: object, name: str, where: str) -> tuple[Message, ...]:
    """The turns of a list of ``{"role", "content"}`` or of ShareGPT's ``{"from", "value"}``.

    A content that is a list of parts is their texts; an empty system turn is none.

    Raises:
        UserError: It is no list of these, or has another role, or a part that is no text.
    """
    if not isinstance(value, list):
        raise UserError(f"{where}: field '{name}' is {kind(value)} instead of a list of messages; write it as such")
    if not value:
        raise UserError(f"{where}: field '{name}' is an empty list; put at least one message in it, or remove the row")
    messages = []
    for number, item in enumerate(value, start=1):
        place = f"{where}: field '{name}', message {number}"
        if isinstance(item, dict) and {"from", "value"} <= item.keys():
            said = item["from"]
            item = {"role": _SHAREGPT.get(said, said) if isinstance(said, str) else said, "content": item["value"]}
        if not isinstance(item, dict) or "role" not in item or "content" not in item:
            raise UserError(f'{place}: not a message; write {{"role": ..., "content": ...}}')
        role = item["role"]
        if role not in ROLES:
            raise UserError(f"{place}: unknown role {shown(role)}; use one of {', '.join(ROLES)}")
        content = _joined(item["content"], place)
        if role == "system" and content in ("", None):
            continue
        messages.append(Message(role, text_of({"content": content}, "content", place)))
    return tuple(messages)


def _joined(content: object, place: str) -> object:
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if (
            not isinstance(part, dict)
            or not isinstance(part.get("text"), str)
            or part.get("type") not in (None, "text")
        ):
            raise UserError(f"{place}: a part of the content is no text; only chats of text are read")
        texts.append(part["text"])
    return "".join(texts)


def up_to_the_user(turns: tuple[Message, ...], name: str, where: str) -> tuple[Message, ...]:
    """The turns without an answer at their end.

    Raises:
        UserError: Nothing of a user is left.
    """
    kept = turns
    while kept and kept[-1].role == "assistant":
        kept = kept[:-1]
    if not kept or kept[-1].role != "user":
        raise UserError(f"{where}: field '{name}' has no user's turn at its end, nor one with its answer; add it")
    return kept
