"""One OpenAI-compatible server: requests, retries, and which of its complaints are the user's to mend."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from configs.errors import UserError
from configs.schema import JudgeConfig

CONNECT_S = 5.0
PROBE_S = 30.0  # longest wait for the first answer of all
ALTERNATIVES = 5  # log-probabilities asked for at each position, as AlpacaEval 2 does
_LATER = {408, 409, 425, 429}  # worth another attempt, beside all 5xx
_SHOWN = 200  # characters of a server's complaint that a message repeats
_back_off = wait_random_exponential(multiplier=0.5, max=30)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: the words, ``choices[0].logprobs.content`` if there was any, and the tokens it took."""

    words: str
    logprobs: object
    prompt_tokens: int
    completion_tokens: int


class Unanswered(Exception):
    """A question got no answer: refused, or every attempt failed."""


class _TryLater(Exception):
    """An attempt failed that may do better later; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, text: str, wait: float | None = None, status: int | None = None) -> None:
        super().__init__(text)
        self.wait = wait
        self.status = status


class Endpoint:
    """A judge's server. Requests go out between entering and leaving :meth:`opened`, in one event loop.

    Args:
        judge: Address, model, key and patience.
        reached: Whether the server is known to be there. If not, a refused connection is a ``UserError`` at once.

    Raises:
        UserError: No address or model, or the variable with the key is not set.
    """

    def __init__(self, judge: JudgeConfig, reached: bool = False) -> None:
        for name, value in (("base_url", judge.base_url), ("model", judge.model)):
            if value is None:
                raise UserError(f"judge.{name}: not set; name the judge that is to be asked")
        self._judge = judge
        self._url = f"{(judge.base_url or '').rstrip('/')}/chat/completions"
        self._key = _key(judge)
        self._reached = reached
        self._logprobs = judge.template == "label" and judge.logprobs != "never"
        self._client: httpx.AsyncClient | None = None
        self.requests = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Holds the connections."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        width = self._judge.max_concurrency
        limits = httpx.Limits(max_connections=width, max_keepalive_connections=width)
        connect = min(CONNECT_S, self._judge.timeout_s)
        timeout = httpx.Timeout(self._judge.timeout_s, connect=connect)
        async with httpx.AsyncClient(headers=headers, limits=limits, timeout=timeout) as client:
            self._client = client
            try:
                yield
            finally:
                self._client = None

    async def chat(self, messages: Sequence[Mapping[str, str]]) -> Reply:
        """The judge's answer, after as many attempts as it takes.

        Raises:
            Unanswered: The server refuses this request, or all attempts failed.
            UserError: No request can succeed: key, model or address are wrong, or it lacks what is demanded.
        """
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(_TryLater),
            # Without the second one a wait that ends after the deadline would be begun in vain.
            stop=stop_after_attempt(self._judge.max_retries + 1) | stop_before_delay(self._judge.deadline_s),
            wait=_wait,
            reraise=True,
        )
        try:
            async with asyncio.timeout(self._judge.deadline_s):
                return await attempts(self._attempt, messages)
        except TimeoutError:
            raise Unanswered(f"{self._url}: no answer within judge.deadline_s {self._judge.deadline_s:g} s") from None
        except _TryLater as error:
            raise Unanswered(str(error)) from None

    async def probe(self, messages: Sequence[Mapping[str, str]]) -> None:
        """One attempt, to find out before a run whether the judge can be asked; a busy server passes.

        Raises:
            UserError: It cannot; the field to mend is named.
        """
        patience = min(PROBE_S, self._judge.timeout_s)
        try:
            async with asyncio.timeout(patience):
                await self._attempt(messages)
        except TimeoutError:
            raise UserError(self._unreachable(f"no answer within {patience:g} s")) from None
        except _TryLater as error:
            if error.status is None:
                raise UserError(self._unreachable(str(error))) from None
        except Unanswered as error:
            raise UserError(f"judge: the server refuses a plain question ({error}); adapt the section to it") from None

    async def _attempt(self, messages: Sequence[Mapping[str, str]]) -> Reply:
        response = await self._post(messages)
        if response.status_code == 400 and self._logprobs and "logprob" in response.text.lower():
            if self._judge.logprobs == "always":
                raise UserError(f"judge.logprobs: always, but {self._complaint(response)}; set it to auto or never")
            self._logprobs = False
            response = await self._post(messages)
        self._check(response)
        try:
            reply = _reply(response.json())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _TryLater(f"{self._url}: not the answer of a chat: {response.text[:_SHOWN]!r}", status=200) from None
        if self._judge.logprobs == "always" and not reply.logprobs:
            raise UserError(f"judge.logprobs: always, but {self._url} gives none; set it to auto or never")
        return reply

    async def _post(self, messages: Sequence[Mapping[str, str]]) -> httpx.Response:
        assert self._client is not None, "not opened"
        self.requests += 1
        try:
            # httpx counts the seconds between two bytes; this counts those of the whole request.
            async with asyncio.timeout(self._judge.timeout_s):
                response = await self._client.post(self._url, json=self._body(messages))
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
            raise _TryLater(f"{self._url}: no answer within judge.timeout_s {self._judge.timeout_s:g} s") from None
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            if not self._reached and isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                raise UserError(self._unreachable(reason)) from None
            raise _TryLater(f"{self._url}: {reason}") from None
        self._reached = True
        return response

    def _body(self, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        judge = self._judge
        body: dict[str, Any] = {"model": judge.model, "messages": list(messages)}
        if judge.max_tokens is not None:
            body["max_tokens"] = judge.max_tokens
        if judge.temperature is not None:
            body["temperature"] = judge.temperature
        if self._logprobs:
            body |= {"logprobs": True, "top_logprobs": ALTERNATIVES}
        return body | judge.extra_body

    def _check(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == 200:
            return
        complaint = self._complaint(response)
        if status in (401, 403):
            name = self._judge.api_key_env
            cure = f"put a valid key into ${name}" if name else "set it to the name of the variable that holds the key"
            raise UserError(f"judge.api_key_env: {complaint}; {cure}")
        if status == 404:
            raise UserError(
                f"judge.model: {complaint}; the server knows no model '{self._judge.model}', or judge.base_url "
                "is not its address up to /v1; correct either"
            )
        if status in _LATER or status >= 500:
            raise _TryLater(complaint, _retry_after(response.headers.get("retry-after")), status)
        raise Unanswered(complaint)

    def _complaint(self, response: httpx.Response) -> str:
        text = " ".join(response.text.split())
        if self._key:
            text = text.replace(self._key, "***")
        return f"{self._url} answers {response.status_code} {text[:_SHOWN]}".rstrip()

    def _unreachable(self, reason: str) -> str:
        url = self._judge.base_url
        return f"judge.base_url: {url} cannot be reached ({reason}); start the server or correct the address"


def _key(judge: JudgeConfig) -> str | None:
    if judge.api_key_env is None:
        return None
    key = os.environ.get(judge.api_key_env, "").strip()
    if not key:
        raise UserError(
            f"judge.api_key_env: the variable {judge.api_key_env} is not set where the judge is asked from; export it "
            "(on a cluster: on its nodes, before Ray starts)"
        )
    return key


def _wait(state: RetryCallState) -> float:
    """Seconds to the next attempt: what the server asked for, and some jitter so that not all come back at once."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.wait if isinstance(error, _TryLater) else None
    jitter = _back_off(state)
    return jitter if asked is None else asked + min(jitter, 0.1 * asked)


def _retry_after(value: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header, which holds seconds or a date (RFC 9110); None if it can't be read."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, until.timestamp() - time.time())


def _reply(body: Any) -> Reply:
    choice = body["choices"][0]
    usage = body.get("usage") or {}
    return Reply(
        words=choice["message"].get("content") or "",
        logprobs=(choice.get("logprobs") or {}).get("content"),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
    )
