"""A judge's response, read: the one place where a server's bytes become words, or the reason why they don't.

A server may send anything. Whatever it is, reading it ends in a :class:`Reply` or in a :class:`BadReply` that says what
was wrong; a bad reply is an unanswered question and ends nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from configs.json_types import JsonMapping

MOST_BYTES = 32 * 2**20  # of a response; longer ones are given up
_MOST_TOKENS = 10**12  # of one reply; more is no count
_ROUNDING = 0.01  # by which a log-probability may exceed 0
_SHOWN = 200  # characters of a server's words that a message repeats


class BadReply(Exception):
    """A response that is not the answer of a chat; the text says why."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        words: The answer; "" if there is none.
        logprobs: ``choices[0].logprobs.content``, or () if there is none: of each token its text, log-probability and
            ``top_logprobs``, checked.
        prompt_tokens: As the server counted them; 0 if it does not say.
        completion_tokens: As the server counted them; 0 if it does not say.
        finish: ``finish_reason``; "length" if a limit cut the answer.
        thoughts: Characters that the server put into a field of their own (``reasoning_content``, ``reasoning``).
    """

    words: str
    logprobs: tuple[Token, ...]
    prompt_tokens: int
    completion_tokens: int
    finish: str
    thoughts: int


@dataclass(frozen=True, slots=True)
class Token:
    """A token, its log-probability in nats, and its alternatives (text -> log-probability), itself among them."""

    text: str
    logprob: float
    alternatives: Mapping[str, float]


def read_reply(data: bytes) -> Reply:
    """Read the body of a response with status 200.

    Raises:
        BadReply: It is not the answer of a chat.
    """
    try:
        body = json.loads(data)
    except RecursionError:
        raise BadReply("JSON nested too deeply") from None
    except ValueError:
        raise BadReply(f"not JSON: {shown(data)!r}") from None
    if not isinstance(body, dict):
        raise BadReply(f"{_kind(body)} instead of a JSON object")
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    error = body.get("error") or (choice.get("error") if isinstance(choice, dict) else None)
    if error:
        raise BadReply(f"an error: {_complaint(error)}")
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        raise BadReply(f"no choices[0].message: {shown(data)!r}")
    message = choice["message"]
    finish = choice.get("finish_reason")
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        words=_words(message.get("content")),
        logprobs=_logprobs(choice.get("logprobs")),
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        finish=shown(finish) if isinstance(finish, str) else "",
        thoughts=next(
            (len(text) for key in ("reasoning_content", "reasoning") if isinstance(text := message.get(key), str)), 0
        ),
    )


def shown(text: str | bytes, most: int = _SHOWN) -> str:
    """A server's words as a message may repeat them: one line, printable, cut."""
    if isinstance(text, bytes):
        text = text[: 8 * most].decode("utf-8", "replace")
    line = " ".join(text[: 8 * most].split())
    return "".join(char if char.isprintable() else "\ufffd" for char in line[:most])


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _complaint(error: object) -> str:
    if isinstance(error, dict):
        error = error.get("message") or error.get("code") or "without a message"
    return shown(error if isinstance(error, str) else _kind(error))


def _words(content: object) -> str:
    """Text, or the text parts of a list of parts; what a judge thinks (other parts) is no part of its answer."""
    if content is None:
        return ""
    if isinstance(content, list):
        content = "".join(_part(part) for part in content)
    if not isinstance(content, str):
        raise BadReply(f"message.content is {_kind(content)} instead of text")
    return _text(content, "message.content")


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise BadReply(f"message.content holds {_kind(part)} that is no part of a message")
    if part["type"] not in ("text", "output_text"):
        return ""
    text = part.get("text")
    if not isinstance(text, str):
        raise BadReply(f"message.content holds a part whose text is {_kind(text)}")
    return text


def _text(text: str, where: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadReply(f"{where} holds half a character (a lone surrogate)") from None
    return text


def _count(usage: JsonMapping, name: str) -> int:
    value = usage.get(name)
    if value is None:
        return 0
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not 0 <= value <= _MOST_TOKENS:
        raise BadReply(f"usage.{name} is {shown(str(value), 40)}, which is no count of tokens")
    return int(value)


def _logprobs(value: object) -> tuple[Token, ...]:
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(content, list):
        return ()
    tokens = [_token(entry) for entry in content]
    known = [token for token in tokens if token is not None]
    return tuple(known) if len(known) == len(tokens) else ()


def _token(entry: object) -> Token | None:
    """None where the server names the token and does not know its probability."""
    text, logprob = _entry(entry)
    if logprob is None:
        return None
    top = entry.get("top_logprobs") if isinstance(entry, dict) else None
    others = [_entry(other) for other in top] if isinstance(top, list) else []
    return Token(text, logprob, {**{name: known for name, known in others if known is not None}, text: logprob})


def _entry(entry: object) -> tuple[str, float | None]:
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        raise BadReply("logprobs.content holds an entry without a token")
    value = entry.get("logprob")
    if value is None:
        return entry["token"], None
    # A NaN is below nothing and above nothing.
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= _ROUNDING:
        raise BadReply(f"logprobs.content: {shown(str(value), 40)} is no log-probability")
    # Below this every probability is 0, and a whole number of any size still has to become a float.
    return entry["token"], float(max(value, -1e6))
