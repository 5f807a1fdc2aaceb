"""One OpenAI-compatible server: requests, retries, and which of its complaints are the user's to correct."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from configs.endpoint import EndpointConfig
from configs.errors import UserError
from configs.json_types import JsonObject
from configs.judge import JudgeConfig
from judges.proxy import Way, find_way, open_transport
from judges.reply import MOST_BYTES, BadReply, Reply, read_reply, shown

CONNECT_S = 5.0
PROBE_S = 30.0  # longest wait for the first answer of all
ALTERNATIVES = 5  # log-probabilities asked for at each position, as AlpacaEval 2 does
_COMPLAINT = 10_000  # bytes of a server's complaint that are looked at
_LATER = {408, 409, 425, 429}  # worth another attempt, beside all 5xx
_back_off = wait_random_exponential(multiplier=0.5, max=30)


@dataclass(frozen=True, slots=True)
class _Response:
    """What a server sent, whatever it means."""

    status: int
    headers: httpx.Headers
    data: bytes


class Unanswered(Exception):
    """A question got no answer: refused, or every attempt failed."""


class _TryLater(Exception):
    """An attempt failed that may do better later.

    ``wait`` is what the server asked for, in seconds; ``busy`` whether it answered that it has no time; ``unread``
    whether it answered something else than a chat does.
    """

    def __init__(self, text: str, wait: float | None = None, busy: bool = False, unread: bool = False) -> None:
        super().__init__(text)
        self.wait = wait
        self.busy = busy
        self.unread = unread


class Endpoint:
    """A server that is asked. Requests go out between entering and leaving :meth:`opened`, in one event loop.

    Args:
        judge: Address, model, key and patience.
        reached: Whether the server is known to be there. If not, a refused connection is a ``UserError`` at once.
        field: Config section that it comes from, for messages.

    Raises:
        UserError: No address or model, the variable with the key is not set, or one that names a proxy is wrong.
    """

    def __init__(self, judge: EndpointConfig, reached: bool = False, field: str = "judge") -> None:
        self._of = field
        if judge.unset:
            raise UserError(f"{field}.{judge.unset}: not set; name the server that is to be asked")
        self._judge = judge
        self._url = f"{(judge.base_url or '').rstrip('/')}/chat/completions"
        self._key = _key(judge, field)
        self._way: Way = find_way(self._url)
        self._reached = reached
        own = judge if isinstance(judge, JudgeConfig) else None
        self._wants_logprobs = "never" if own is None or own.template != "label" else own.logprobs
        self._logprobs = self._wants_logprobs != "never"
        self._client: httpx.AsyncClient | None = None
        self.requests = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Holds the connections."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        connect = min(CONNECT_S, self._judge.timeout_s)
        timeout = httpx.Timeout(self._judge.timeout_s, connect=connect)
        transport = open_transport(self._way, self._judge.max_concurrency)
        async with httpx.AsyncClient(headers=headers, timeout=timeout, transport=transport) as client:
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
            limit = f"{self._of}.deadline_s {self._judge.deadline_s:g} s"
            raise Unanswered(f"{self._url}: no answer within {limit}") from None
        except _TryLater as error:
            raise Unanswered(str(error)) from None

    async def probe(self, messages: Sequence[Mapping[str, str]]) -> Reply | None:
        """One attempt, to find out before a run whether the judge can be asked.

        Returns:
            Its answer; None if the server is busy, which passes.

        Raises:
            UserError: It cannot; the field to correct is named.
        """
        patience = min(PROBE_S, self._judge.timeout_s)
        try:
            async with asyncio.timeout(patience):
                return await self._attempt(messages)
        except TimeoutError:
            raise UserError(self._unreachable(f"no answer within {patience:g} s")) from None
        except _TryLater as error:
            if error.unread:
                raise UserError(
                    f"{self._of}.base_url: {error}; correct the address if this is no OpenAI-compatible server, else "
                    "its settings"
                ) from None
            if not error.busy:
                raise UserError(self._unreachable(str(error))) from None
            return None
        except Unanswered as error:
            refused = f"the server refuses a plain question ({error})"
            raise UserError(f"{self._of}: {refused}; adapt the section to it") from None

    async def _attempt(self, messages: Sequence[Mapping[str, str]]) -> Reply:
        response = await self._post(messages)
        if response.status == 400 and self._logprobs and b"logprob" in response.data.lower():
            if self._wants_logprobs == "always":
                why = self._complaint(response)
                raise UserError(f"{self._of}.logprobs: always, but {why}; set it to auto or never")
            self._logprobs = False
            response = await self._post(messages)
        self._check(response)
        try:
            reply = read_reply(response.data)
        except BadReply as error:
            raise _TryLater(
                f"{self._where()}: not the answer of a chat: {self._hidden(str(error))}", unread=True
            ) from None
        if self._wants_logprobs == "always" and not reply.logprobs:
            raise UserError(f"{self._of}.logprobs: always, but {self._url} gives none; set it to auto or never")
        return reply

    async def _post(self, messages: Sequence[Mapping[str, str]]) -> _Response:
        assert self._client is not None, "not opened"
        self.requests += 1
        try:
            # httpx counts the seconds between two bytes; this counts those of the whole request.
            async with asyncio.timeout(self._judge.timeout_s):
                response = await self._sent(self._client, messages)
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
            limit = f"{self._of}.timeout_s {self._judge.timeout_s:g} s"
            raise _TryLater(f"{self._url}: no answer within {limit}") from None
        except httpx.DecodingError as error:
            reason = f"not the answer of a chat: damaged {shown(str(error)) or 'encoding'}"
            raise _TryLater(f"{self._where()}: {reason}", unread=True) from None
        except httpx.ProxyError as error:
            reason = shown(str(error))
            if reason.startswith(("403", "407")):
                raise UserError(f"{self._of}.base_url: {self._refused(reason)}") from None
            raise _TryLater(f"{self._where()}: {reason}") from None
        except httpx.TransportError as error:
            reason = self._hidden(shown(str(error))) or type(error).__name__
            if not self._reached and isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                raise UserError(self._unreachable(reason)) from None
            raise _TryLater(f"{self._where()}: {reason}") from None
        self._reached = True
        return response

    async def _sent(self, client: httpx.AsyncClient, messages: Sequence[Mapping[str, str]]) -> _Response:
        # ASCII: an answer may hold half a character, which UTF-8 can't carry.
        data = json.dumps(self._body(messages), ensure_ascii=True).encode()
        headers = {"Content-Type": "application/json"}
        async with client.stream("POST", self._url, content=data, headers=headers) as response:
            parts: list[bytes] = []
            size = 0
            async for part in response.aiter_bytes():
                size += len(part)
                if size > MOST_BYTES:
                    raise _TryLater(f"{self._where()}: more than {MOST_BYTES >> 20} MiB in one answer", unread=True)
                parts.append(part)
            return _Response(response.status_code, response.headers, b"".join(parts))

    def _body(self, messages: Sequence[Mapping[str, str]]) -> JsonObject:
        judge = self._judge
        body: JsonObject = {"model": judge.model, "messages": list(messages)}
        if judge.max_tokens is not None:
            body["max_tokens"] = judge.max_tokens
        if judge.temperature is not None:
            body["temperature"] = judge.temperature
        if self._logprobs:
            body |= {"logprobs": True, "top_logprobs": ALTERNATIVES}
        return body | judge.extra_body

    def _check(self, response: _Response) -> None:
        status = response.status
        if status == 200:
            return
        complaint = self._complaint(response)
        if status == 407 or (status == 403 and self._way.plain and not _is_api(response)):
            raise UserError(f"{self._of}.base_url: {self._refused(complaint)}")
        if status in (401, 403):
            name = self._judge.api_key_env
            cure = f"put a valid key into ${name}" if name else "set it to the name of the variable that holds the key"
            raise UserError(f"{self._of}.api_key_env: {complaint}; {cure}")
        if status == 404:
            raise UserError(
                f"{self._of}.model: {complaint}; the server knows no model '{self._judge.model}', or "
                f"{self._of}.base_url is not its address up to /v1; correct either"
            )
        if status in _LATER or status >= 500:
            raise _TryLater(complaint, _retry_after(response.headers.get("retry-after")), busy=True)
        raise Unanswered(complaint)

    def _complaint(self, response: _Response) -> str:
        text = shown(self._hidden(response.data[:_COMPLAINT].decode("utf-8", "replace")))
        return f"{self._where()} answers {response.status} {text}".rstrip()

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _where(self) -> str:
        return f"{self._url} (through {self._way.shown})" if self._way.shown else self._url

    def _refused(self, reason: str) -> str:
        host = httpx.URL(self._url).host
        return (
            f"{self._way.shown or 'a proxy'} refuses to pass requests on to {host} ({reason}); put user and password "
            f"into that variable if it asks for them, or put {host} into no_proxy"
        )

    def _unreachable(self, reason: str) -> str:
        url, way = self._judge.base_url, self._way.shown
        through, cure = (f" through {way}", " or the proxy's, or set no_proxy") if way else ("", "")
        reached = f"{self._of}.base_url: {url} cannot be reached{through} ({reason})"
        return f"{reached}; start the server or correct the address{cure}"


def _key(judge: EndpointConfig, field: str) -> str | None:
    if judge.api_key_env is None:
        return None
    key = os.environ.get(judge.api_key_env, "").strip()
    if not key:
        raise UserError(
            f"{field}.api_key_env: the variable {judge.api_key_env} is not set where the server is asked from; export "
            "it (on a cluster: on its nodes, before Ray starts)"
        )
    if not (key.isascii() and key.isprintable()):
        raise UserError(
            f"{field}.api_key_env: the variable {judge.api_key_env} holds characters that no header can carry; put "
            "the key alone into it"
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
    except (ValueError, OverflowError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, until.timestamp() - time.time())


def _is_api(response: _Response) -> bool:
    """Whether a complaint has the form of an API's, not of a proxy's page."""
    try:
        return isinstance(json.loads(response.data), dict)
    except (ValueError, RecursionError):
        return False
