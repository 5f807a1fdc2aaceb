"""The endpoint's routes as a FastAPI application, whose OpenAPI document says what a request may hold.

The document is made of vLLM's own request models, cut down to the fields that get through and narrowed to this
endpoint's limits. It has no route of its own (an endpoint shows nothing without a key); Serve's handle gives it:
``serve.get_app_handle(name).openapi.remote()``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from configs.json_types import Json, JsonObject
from serving.errors import error_body
from serving.messages import MAX_NAME, ROLES
from serving.requests import ABOVE, FIELDS, LOGPROBS, MAX_LOGPROBS, MAX_STOPS, NEUTRAL, NUMBERS, WHOLE, Limits

Endpoint = Callable[[Request], Awaitable[Response]]

_ONE_MODEL = {
    "parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]
}


def build_app(
    health: Endpoint,
    models: Endpoint,
    model: Endpoint,
    answers: dict[str, Endpoint],
    bodies: dict[str, JsonObject],
    *,
    cors_origins: Sequence[str] = (),
) -> FastAPI:
    """The application.

    Args:
        health: Of ``GET /health``, without a key.
        models: Of ``GET /v1/models``.
        model: Of ``GET /v1/models/NAME``.
        answers: Of the routes that generate, by kind: "chat" and "completions".
        bodies: ``body_schema`` of each kind. Bodies are checked by the endpoints, not by FastAPI.
        cors_origins: Whose pages may call from a browser; ``*`` any.
    """
    app = FastAPI(
        title="isogloss",
        openapi_url=None,
        redirect_slashes=False,  # to an address made of the caller's own Host header
        exception_handlers={HTTPException: _http_error},
    )
    for path, name, endpoint in (("/health", "health", health), ("/v1/models", "models", models)):
        app.add_api_route(path, endpoint, methods=["GET"], response_model=None, name=name)
        app.add_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    app.add_api_route(
        "/v1/models/{model:path}", model, methods=["GET"], response_model=None, name="model", openapi_extra=_ONE_MODEL
    )
    app.add_route("/v1/models/{model:path}", model, methods=["HEAD"], include_in_schema=False)
    for path, kind in (("/v1/chat/completions", "chat"), ("/v1/completions", "completions")):
        body = {"requestBody": {"required": True, "content": {"application/json": {"schema": bodies[kind]}}}}
        app.add_api_route(path, answers[kind], methods=["POST"], response_model=None, name=kind, openapi_extra=body)
    if cors_origins:
        # No cookies are read here, so pages never act with a key that is not theirs.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-isogloss-version", "retry-after"],
        )
    return app


async def _http_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    reason = {404: "there is no such route", 405: "this route has another method"}.get(status, "bad request")
    headers = getattr(error, "headers", None)
    return JSONResponse(error_body(status, reason), status, headers)


_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
    "additionalProperties": False,
}
_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"enum": sorted(ROLES)},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}]},
        "name": {"type": "string", "maxLength": MAX_NAME},
        # What a reply has, and what this endpoint's replies have in it.
        **{name: {"type": "null"} for name in ("refusal", "audio", "function_call", "reasoning")},
        **{name: {"enum": [None, []]} for name in ("annotations", "tool_calls")},
    },
    "required": ["role", "content"],
    "additionalProperties": False,
}


def body_schema(kind: str, model: JsonObject, limits: Limits) -> JsonObject:
    """JSON Schema of a request body: what gets through and is then within its limits, field by field.

    Limits over several fields (prompts times ``n``, prompt and completion together) are not in it.

    Args:
        kind: "chat" or "completions".
        model: vLLM's, from ``model_json_schema()``.
        limits: What one request may cost.

    Raises:
        KeyError: vLLM's model has not all the fields that get through.
    """
    own = _own(kind, limits)
    neutral = {name: _or_null(schema) for name, schema in NEUTRAL[kind].items()}
    fields = {name: own.get(name) or _whole(model["properties"][name], model) for name in sorted(FIELDS[kind])}
    needed = "messages" if kind == "chat" else "prompt"
    return {
        "type": "object",
        "properties": {
            **neutral,
            **{name: found if name == needed else _or_null(found) for name, found in fields.items()},
        },
        "required": [needed],
        "additionalProperties": False,
    }


def _own(kind: str, limits: Limits) -> dict[str, JsonObject]:
    text = {"type": "string", "minLength": 1}
    ids = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": limits.vocabulary - 1}}
    several = {"type": "array", "minItems": 1, "maxItems": limits.max_sequences}
    bounds = {**NUMBERS, **WHOLE, "n": (1, limits.max_sequences), LOGPROBS[kind]: (0, MAX_LOGPROBS)}
    bounds |= dict.fromkeys(("max_tokens", "max_completion_tokens"), (1, limits.max_tokens))
    numbers = {
        name: {
            "type": "number" if name in NUMBERS else "integer",
            "exclusiveMinimum" if name in ABOVE else "minimum": low,
            "maximum": high,
        }
        for name, (low, high) in bounds.items()
    }
    return {
        **numbers,
        "model": {"enum": list(limits.names)},
        "stop": {"anyOf": [text, {"type": "array", "items": text, "maxItems": MAX_STOPS}]},
        "messages": {"type": "array", "minItems": 1, "items": _MESSAGE},
        "prompt": {"anyOf": [text, {**several, "items": text}, ids, {**several, "items": ids}]},
        "response_format": {"const": {"type": "text"}},
        "logit_bias": {
            "type": "object",
            "propertyNames": {"pattern": f"^[0-9]{{1,{len(str(limits.vocabulary - 1))}}}$"},
            "additionalProperties": {"type": "number"},
        },
    }


def _or_null(field: JsonObject) -> JsonObject:
    null = {"type": "null"}  # stands for a field that is left out
    return field if null in field.get("anyOf", ()) else {"anyOf": [field, null]}


def _whole(part: Json, model: JsonObject) -> Json:
    """A part of a JSON schema with what it refers to put in place."""
    if isinstance(part, dict):
        if "$ref" in part:
            return _whole(model["$defs"][part["$ref"].removeprefix("#/$defs/")], model)
        return {name: _whole(inner, model) for name, inner in part.items()}
    return [_whole(inner, model) for inner in part] if isinstance(part, list) else part
