"""What a request may ask for: checked before vLLM sees it.

vLLM's own request types take some eighty fields, several of which load code, reach other machines or end the engine
when they are wrong (token ids out of range, chat templates). Only the fields below get through. Fields that clients
send as a matter of course and that change nothing about the answer (``NEUTRAL``) are taken and dropped.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import NoReturn

from configs.json_types import Json, JsonObject
from serving.errors import RequestRefused
from serving.messages import plain_messages

_COMMON = frozenset(
    {"model", "n", "seed", "temperature", "top_p", "top_k", "min_p", "max_tokens", "stop", "stream", "stream_options"}
    | {"logprobs", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "ignore_eos", "user"}
    | {"stream_interval"}
)
FIELDS = {
    "chat": _COMMON | {"messages", "max_completion_tokens", "top_logprobs", "response_format"},
    "completions": _COMMON | {"prompt", "echo"},
}
# JSON schema of the values without effect: other values of these fields mean something that is not served here.
_LABEL = {"type": "string"}
_COMMON_NEUTRAL: dict[str, JsonObject] = {
    "metadata": {"type": "object"},  # for a list of stored completions, which is not kept here
    "store": {"type": "boolean"},
    "safety_identifier": _LABEL,
    "prompt_cache_key": _LABEL,  # prefixes are cached by what they are
    "prompt_cache_retention": _LABEL,
    "service_tier": {"enum": ["auto", "default"]},
}
NEUTRAL: dict[str, dict[str, JsonObject]] = {
    "chat": {
        **_COMMON_NEUTRAL,
        "tools": {"enum": [[]]},
        "functions": {"enum": [[]]},
        "tool_choice": {"enum": ["none", "auto"]},
        "function_call": {"enum": ["none", "auto"]},
        "parallel_tool_calls": {"type": "boolean"},
        "modalities": {"enum": [["text"]]},
        "reasoning_effort": {"enum": ["none"]},
        "verbosity": {"enum": ["medium"]},
    },
    "completions": {**_COMMON_NEUTRAL, "best_of": {"enum": [1]}, "suffix": {"enum": [""]}},
}
_TOOL_FIELDS = ("tools", "functions", "tool_choice", "function_call")
_KINDS: dict[str, type] = {"object": dict, "boolean": bool, "string": str}
_INT32 = 2**31 - 1
NUMBERS = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.0, 10.0),
}
ABOVE = frozenset({"top_p", "repetition_penalty"})  # their least value itself is not taken
_FLAGS = {"chat": ("stream", "ignore_eos", "logprobs"), "completions": ("stream", "ignore_eos", "echo")}
WHOLE = {"stream_interval": (1, _INT32), "top_k": (-1, _INT32), "seed": (-(2**63), 2**63 - 1)}
MAX_LOGPROBS = 20  # as OpenAI and vLLM
LOGPROBS = {"chat": "top_logprobs", "completions": "logprobs"}  # the field that says how many
MAX_STOPS = 4  # as OpenAI and vLLM
_MAX_DEPTH = 32
_EXACT = 2**53  # floats above are whole, but need not be what was written


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may cost.

    Attributes:
        names: Names under which the model is known.
        max_tokens: Longest completion. What names none gets what is left of ``max_length``, and no more than this.
        max_sequences: Prompts times ``n``.
        max_length: Tokens of prompt and completion together.
        vocabulary: Token ids are below this.
    """

    names: tuple[str, ...]
    max_tokens: int
    max_sequences: int
    max_length: int
    vocabulary: int


def parse_body(raw: bytes) -> JsonObject:
    """The JSON object of a request.

    Raises:
        RequestRefused: Not one, or with numbers that JSON does not have (NaN, infinity) or cannot hold.
    """

    def refuse(text: str) -> NoReturn:
        raise RequestRefused(400, f"the body has a number that is not finite or too long: {text[:20]}")

    def finite(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            refuse(text)
        # To JSON 2.0 is as whole as 2.
        return int(value) if value.is_integer() and abs(value) < _EXACT else value

    def whole(text: str) -> int:
        return int(text) if len(text) <= 20 else refuse(text)

    try:
        body = json.loads(raw.decode("utf-8"), parse_constant=refuse, parse_float=finite, parse_int=whole)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RequestRefused(400, f"the body is not valid JSON: {reason}") from None
    if not isinstance(body, dict):
        raise RequestRefused(400, f"the body must be a JSON object, not {type(body).__name__}")
    _check_text(body, 0)
    return body


def _check_text(value: Json, depth: int) -> None:
    # JSON can spell half a surrogate pair, which is no text and cannot be sent back.
    if depth > _MAX_DEPTH:
        raise RequestRefused(400, f"the body is nested more than {_MAX_DEPTH} levels deep")
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise RequestRefused(400, "the body holds a lone surrogate, which is not valid Unicode text") from None
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_text(key, depth + 1)
            _check_text(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_text(inner, depth + 1)


def check_request(kind: str, body: JsonObject, limits: Limits) -> JsonObject:
    """The request with defaults put in, if it keeps to what is served here.

    Args:
        kind: "chat" or "completions".
        body: As parsed.
        limits: What one request may cost.

    Raises:
        RequestRefused: 404 for an unknown model, else 400; names the field and its limit.
    """
    # OpenAI's clients leave out what is not set, others send null.
    request = {name: value for name, value in body.items() if value is not None}
    _drop_neutral(kind, request)
    unknown = sorted(set(request) - FIELDS[kind])
    if unknown:
        raise RequestRefused(400, f"not supported here: {', '.join(unknown)[:200]}", unknown[0][:80])
    check_model(request.get("model", limits.names[0]), limits)
    _check_numbers(kind, request)
    if LOGPROBS[kind] in request:
        _integer(request, LOGPROBS[kind], 0, MAX_LOGPROBS)
    _check_stop(request)
    tokens = [name for name in ("max_tokens", "max_completion_tokens") if name in request]
    for name in tokens:
        _integer(request, name, 1, limits.max_tokens)
    n = _integer(request, "n", 1, limits.max_sequences) if "n" in request else 1
    if kind == "chat":
        request["messages"] = plain_messages(request.get("messages"))
    sequences = n * (_prompts(request, limits) if kind == "completions" else 1)
    if sequences > limits.max_sequences:
        raise RequestRefused(
            400, f"{sequences} completions were asked for, at most {limits.max_sequences} are made at once", "n"
        )
    if request.get("response_format", {"type": "text"}) != {"type": "text"}:
        raise RequestRefused(400, "only response_format {'type': 'text'} is supported", "response_format")
    return {**request, "model": limits.names[0]}


def check_model(model: Json, limits: Limits) -> None:
    """Whether a model of that name is served.

    Raises:
        RequestRefused: 404.
    """
    if not isinstance(model, str) or model not in limits.names:
        raise RequestRefused(404, f"the model {str(model)[:100]!r} does not exist; served: {', '.join(limits.names)}",
                             "model")  # fmt: skip


def _drop_neutral(kind: str, request: JsonObject) -> None:
    for name, schema in NEUTRAL[kind].items():
        if name not in request:
            continue
        value = request.pop(name)
        # By type as well: to Python true is 1.
        if "enum" in schema:
            neutral = any(type(value) is type(one) and value == one for one in schema["enum"])
        else:
            neutral = isinstance(value, _KINDS[schema["type"]])
        if not neutral and name in _TOOL_FIELDS:
            raise RequestRefused(400, f"{name}: tools are not supported here; send the request without them", name)
        if not neutral:
            takes = " or ".join(map(str, schema.get("enum", (f"a JSON {schema.get('type')}",))))
            raise RequestRefused(
                400, f"{name}: only {takes or repr('')} is supported here, which changes nothing", name
            )


def _integer(request: JsonObject, name: str, low: int, high: int) -> int:
    value = request[name]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise RequestRefused(400, f"{name} must be a whole number from {low} to {high}", name)
    return value


def _check_numbers(kind: str, request: JsonObject) -> None:
    for name, (low, high) in NUMBERS.items():
        value = request.get(name, high)
        within = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        if not within or (name in ABOVE and value == low):
            bounds = f"above {low:g}, at most {high:g}" if name in ABOVE else f"from {low:g} to {high:g}"
            raise RequestRefused(400, f"{name} must be a number {bounds}", name)
    for name, (least, most) in WHOLE.items():
        if name in request:
            _integer(request, name, least, most)
    for name in _FLAGS[kind]:
        if not isinstance(request.get(name, False), bool):
            raise RequestRefused(400, f"{name} must be true or false", name)


def _check_stop(request: JsonObject) -> None:
    stops = request.get("stop", [])
    stops = [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
        raise RequestRefused(400, "stop must be a text or a list of texts, none of them empty", "stop")
    if len(stops) > MAX_STOPS:
        raise RequestRefused(400, f"at most {MAX_STOPS} stop texts are taken", "stop")


def _prompts(request: JsonObject, limits: Limits) -> int:
    prompt = request.get("prompt")
    if isinstance(prompt, str) and prompt:
        return 1
    if isinstance(prompt, list) and prompt:
        if all(isinstance(text, str) and text for text in prompt):
            return len(prompt)
        if _is_ids(prompt, limits):
            return 1
        if all(isinstance(ids, list) and ids and _is_ids(ids, limits) for ids in prompt):
            return len(prompt)
    raise RequestRefused(
        400,
        f"prompt must be a text, texts, token ids (0 to {limits.vocabulary - 1}) or lists of them, none empty",
        "prompt",
    )


def _is_ids(values: list[Json], limits: Limits) -> bool:
    return all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limits.vocabulary for value in values
    )
