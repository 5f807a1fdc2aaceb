"""The messages of a chat, as clients send them, cut down to what a chat template is given: role, content, name.

A client that continues a conversation sends this endpoint's own replies back, with every field that they have, and
most write a text now and then as a list of parts. What says nothing (null, or empty) is dropped; what means something
that is not served here (calls of tools, images, a refusal) is refused and named.
"""

from __future__ import annotations

from typing import NoReturn

from configs.json_types import Json
from serving.errors import RequestRefused

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TOOL_ROLES = ("tool", "function")
_TOOL_FIELDS = ("tool_calls", "function_call", "tool_call_id")
MAX_NAME = 64


def plain_messages(messages: Json) -> list[dict[str, str]]:
    """Messages as a chat template takes them.

    Args:
        messages: Of the request, parsed. ``developer`` is OpenAI's later name of ``system`` and read as that; text
            parts are joined by line breaks, as vLLM joins them; an assistant's message may lack its content.

    Raises:
        RequestRefused: 400; names the message and the field.
    """
    if not isinstance(messages, list) or not messages:
        _refuse("messages", "must be a list with at least one message")
    return [_plain(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _plain(message: Json, place: str) -> dict[str, str]:
    if not isinstance(message, dict):
        _refuse(place, "must be an object with the fields role and content")
    told = {name: value for name, value in message.items() if value is not None and value not in ("", [], {})}
    role = message.get("role")
    if role in _TOOL_ROLES:
        _no_tools(f"{place}.role")
    if not isinstance(role, str) or role not in ROLES:
        _refuse(f"{place}.role", "must be system, developer, user or assistant")
    for field in _TOOL_FIELDS:
        if field in told:
            _no_tools(f"{place}.{field}")
    if unknown := sorted(set(told) - {"role", "content", "name"}):
        _refuse(f"{place}.{unknown[0][:80]}", "is not supported here; leave it out")
    plain = {"role": ROLES[role], "content": _text(message.get("content"), role, f"{place}.content")}
    if "name" in told:
        name = told["name"]
        if not isinstance(name, str) or len(name) > MAX_NAME:
            _refuse(f"{place}.name", f"must be a text of at most {MAX_NAME} characters")
        plain["name"] = name
    return plain


def _text(content: Json, role: str, place: str) -> str:
    if isinstance(content, str):
        return content
    if content is None and role == "assistant":
        return ""  # a reply that was nothing, or a call of a tool that is told apart above
    if not isinstance(content, list):
        _refuse(place, "must be a text or a list of text parts")
    return "\n".join(_part(part, f"{place}[{index}]") for index, part in enumerate(content))


def _part(part: Json, place: str) -> str:
    if not isinstance(part, dict):
        _refuse(place, "must be a part such as {'type': 'text', 'text': '...'}")
    if part.get("type") != "text":
        _refuse(place, f"has the type {str(part.get('type'))[:40]!r}; only text parts are supported here")
    text = part.get("text")
    if not isinstance(text, str):
        _refuse(f"{place}.text", "must be a text")
    # Some clients mark parts for other providers' prompt caches: where a prefix may be cached says nothing of the text.
    told = {name for name, value in part.items() if value is not None and value not in ("", [], {})}
    if unknown := sorted(told - {"type", "text", "cache_control"}):
        _refuse(f"{place}.{unknown[0][:80]}", "is not supported here; leave it out")
    return text


def _no_tools(place: str) -> NoReturn:
    _refuse(place, "belongs to a call of a tool, and tools are not supported here; leave such messages out")


def _refuse(place: str, what: str) -> NoReturn:
    raise RequestRefused(400, f"{place} {what}", place)
