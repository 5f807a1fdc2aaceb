"""What arrives by HTTP: a judge's replies, and bodies of requests to the endpoint."""

from __future__ import annotations

import gzip
import random
import socket
import threading
from functools import cache
from typing import Any

from benchmarks.fuzz import odd
from benchmarks.fuzz.case import REFUSED, Place, Read, Reader, json_file
from benchmarks.fuzz.mutate import encoded, mutated, spoiled, to_json, tree
from benchmarks.fuzz.odd import Pairs

_WORDS = ("A", "B", "**A**", "The better answer is B.", "Final verdict: A", "", "[[A]]", "\\boxed{B}", "neither")


class _Stub:
    """A server that answers every request with the same bytes, whatever HTTP has to say about them."""

    def __init__(self) -> None:
        self.reply = b""
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(5)
                head = b""
                while b"\r\n\r\n" not in head:
                    part = connection.recv(65536)
                    if not part:
                        return
                    head += part
                top, _, body = head.partition(b"\r\n\r\n")
                length = next((int(v[15:]) for v in top.split(b"\r\n") if v.lower().startswith(b"content-length:")), 0)
                while len(body) < length:
                    body += connection.recv(65536)
                connection.sendall(self.reply)
        except OSError:
            pass  # the client has gone, as it may


@cache
def _stub() -> _Stub:
    return _Stub()


def _reply(rng: random.Random) -> bytes:
    """A whole HTTP response."""
    words = rng.choice(_WORDS)
    entry = {"token": words[:1], "logprob": -0.1, "bytes": None}
    entry["top_logprobs"] = [{"token": t, "logprob": p} for t, p in (("A", -0.1), ("B", -2.5), ("the", -9.0))]
    choice = {"index": 0, "message": {"role": "assistant", "content": words}, "finish_reason": "stop"}
    choice["logprobs"] = {"content": [entry]} if rng.random() < 0.6 else None
    usage = {"prompt_tokens": 9, "completion_tokens": 1}
    content = {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}
    body = json_file(content, rng)
    headers = {"Content-Type": "application/json", "Connection": "close"}
    pick = rng.random()
    status = "200 OK"
    if pick < 0.06:
        status = f"{rng.choice((200, 204, 206, 301, 304, 400, 418, 429, 500, 599))} x"
        headers |= {"Retry-After": rng.choice(("0", "1e999", "nan", "Thu, 99 Nov")), "Location": "//["}
    elif pick < 0.12:
        charset = rng.choice(("utf-16", "utf-7", "nope", "\xff", "rot13", "zlib", "idna"))
        headers["Content-Type"] = f"application/json; charset={charset}"
    elif pick < 0.2:
        headers["Content-Encoding"] = rng.choice(("gzip", "deflate", "br", "zstd", "x", "gzip, gzip"))
        packed = gzip.compress(body if rng.random() < 0.8 else b"\0" * 10_000_000, mtime=0)
        body = packed if rng.random() < 0.5 else spoiled(packed, packed[::-1], rng)
    length = len(body) if rng.random() < 0.95 else rng.choice((0, len(body) // 2, "x", -1, 10**30))
    headers["Content-Length"] = str(length)
    head = f"HTTP/1.1 {status}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    whole = head.encode("latin-1") + body
    return whole if rng.random() < 0.95 else spoiled(whole, whole[::-1], rng)


def _judge(rng: random.Random, place: Place) -> Read:
    from configs.schema import JudgeConfig
    from judges.pairwise import compare
    from judges.records import Item

    stub = _stub()
    stub.reply = _reply(rng)
    place.write("reply", stub.reply)
    template = rng.choice(("label", "reasoned"))
    judge = JudgeConfig(
        base_url=stub.url, model="m", template=template, max_tokens=64, timeout_s=2, deadline_s=3, max_retries=0,
        max_failed_share=1.0, price_per_million_input=1.0, price_per_million_output=1.0,
    )  # fmt: skip
    items = [Item("1", "en", "Say hello.", "Hello!", "Goodbye!")]

    def read() -> object:
        (verdict,) = compare(items, judge, place.folder / "v.sqlite")
        assert verdict.failed or 0 <= (verdict.preference or 0) <= 1, f"a preference of {verdict.preference}"
        return REFUSED if verdict.failed else None

    return read


def _body(rng: random.Random, place: Place) -> Read:
    from serving.errors import RequestRefused
    from serving.requests import Limits, check_request, parse_body

    kind = rng.choice(("chat", "completions"))
    body: dict[str, Any] = {"model": "m", "max_tokens": 8, "temperature": 0.7, "top_p": 0.9, "n": 1, "stop": ["x"]}
    body |= {"stream": False, "seed": 1, "logit_bias": {"3": 1.0}, "stream_options": {"include_usage": True}}
    body["user"] = "u"
    if kind == "chat":
        turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        reply: dict[str, Any] = {
            "role": "assistant",
            "content": "Ho",
            "refusal": None,
            "tool_calls": [],
            "reasoning": "",
        }
        body |= {"messages": [*turns, reply, {"role": "user", "content": [{"type": "text", "text": "?"}]}]}
        if rng.random() < 0.7:
            body["messages"] = turns
        body |= {"logprobs": True, "top_logprobs": 2, "response_format": {"type": "text"}}
    else:
        body |= {"prompt": rng.choice(("Hi", ["a", "b"], [1, 2], [[1], [2]])), "echo": False, "logprobs": 1}
    whole = tree(body)
    if rng.random() < 0.75:
        raw = encoded(to_json(mutated(whole, rng, odd.json_value), rng.random() < 0.5))
    else:
        raw = spoiled(encoded(to_json(whole)), encoded(to_json(Pairs([["prompt", "x"]]))), rng)
    place.write("body", raw)
    limits = Limits(("m", "policy"), 64, 4, 256, 1000)

    def read() -> object:
        try:
            check_request(kind, parse_body(raw), limits)
        except RequestRefused as refused:
            if 400 <= refused.status < 500:
                return REFUSED
            raise
        return None

    return read


READERS = (
    Reader("judge replies", "wire", 8, _judge),
    Reader("HTTP bodies", "wire", 8, _body),
)
