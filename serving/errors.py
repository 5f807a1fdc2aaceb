"""Errors in OpenAI's form: what a caller sees instead of a traceback."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from configs.json_types import JsonObject

logger = logging.getLogger(__name__)

ENGINE_FAILED = "the engine failed on this request"
_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowed",
    408: "RequestTimeout",
    413: "RequestTooLarge",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
    504: "GatewayTimeout",
}


class RequestRefused(Exception):
    """A request that gets an error instead of an answer.

    Args:
        status: HTTP status.
        message: For the caller.
        param: Field of the request that is wrong.
        headers: Of the reply.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.headers = status, message, param, dict(headers or {})

    def body(self) -> JsonObject:
        """The reply's body."""
        return error_body(self.status, self.message, self.param)


def error_body(status: int, message: str, param: str | None = None) -> JsonObject:
    """``{"error": {message, type, param, code}}``, as OpenAI's clients read it."""
    kind = _TYPES.get(status, "BadRequestError" if status < 500 else "InternalServerError")
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def refusal_in(event: str) -> RequestRefused | None:
    """The error that is in a streamed event of vLLM's, if there is one; without what went wrong inside."""
    if not event.startswith('data: {"error"'):
        return None
    error = json.loads(event[6:])["error"]
    if error["code"] < 500:
        return RequestRefused(error["code"], error["message"], error.get("param"))
    logger.error("a stream failed: %s", error["message"])
    return RequestRefused(error["code"], ENGINE_FAILED)
