"""Whatever a judge's server sends is a verdict or an unanswered question with its reason; proxies on the way to it."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import UserError
from configs.schema import JudgeConfig
from judges import check_endpoint, compare
from judges.proxy import find_way
from judges.reply import BadReply, Reply, read_reply
from judges.wording import load_wording
from tests.judges.test_judges import items
from tests.kits.judge import Says, always_first, completion, judge_server, longer
from tests.kits.stand_in import stand_in


def chat(content: Any = "A", **changes: Any) -> dict[str, Any]:
    """A chat completion; ``changes`` of the choice, but for usage, error and choices."""
    body = completion(Says("A"))
    body["choices"][0]["message"]["content"] = content
    for key, value in changes.items():
        (body if key in ("usage", "error", "choices") else body["choices"][0])[key] = value
    return body


def logprobs(value: str) -> bytes:
    entry = f'{{"token": "A", "logprob": {value}, "top_logprobs": [{{"token": "A", "logprob": {value}}}]}}'
    return json.dumps(chat(logprobs="HERE")).replace('"HERE"', f'{{"content": [{entry}]}}').encode()


def dump(body: Any) -> bytes:
    return json.dumps(body).encode()


UNANSWERED = {
    "number": (dump(chat(7)), "message.content is a number instead of text"),
    "truth": (dump(chat(True)), "message.content is a truth value"),
    "object": (dump(chat({"text": "A"})), "message.content is an object"),
    "parts of numbers": (dump(chat([1])), "holds a number that is no part"),
    "part without text": (dump(chat([{"type": "text", "text": 1}])), "a part whose text is a number"),
    "infinite usage": (dump(chat()).replace(b"100", b"1e999"), "usage.prompt_tokens is inf"),
    "usage of 2^63": (dump(chat(usage={"prompt_tokens": 2**63})), "usage.prompt_tokens is 9223372036854775808"),
    "usage of 10^400": (dump(chat(usage={"completion_tokens": 10**400})), "usage.completion_tokens is 1000"),
    "negative usage": (dump(chat(usage={"completion_tokens": -1})), "usage.completion_tokens is -1"),
    "usage in words": (dump(chat(usage={"completion_tokens": "many"})), "usage.completion_tokens is many"),
    "half a character": (dump(chat("A\ud800")), "half a character"),
    "half a character in UTF-8": (b'{"choices": [{"message": {"content": "\xed\xa0\x80"}}]}', "half a character"),
    "deep": (b"[" * 50_000 + b"]" * 50_000, "nested too deeply"),
    "deep within": (b'{"choices": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001, "nested too deeply"),
    "cut": (dump(chat())[:-9], "not JSON"),
    "nothing": (b"", "not JSON"),
    "page": (b"<html>Welcome</html>", "not JSON"),
    "Latin-1": (b'{"choices": [{"message": {"content": "\xe9"}}]}', "not JSON"),
    "long number": (b'{"usage": ' + b"9" * 5000 + b"}", "not JSON"),
    "list": (b"[]", "a list instead of a JSON object"),
    "null": (b"null", "null instead of a JSON object"),
    "no choices": (b'{"choices": []}', "no choices"),
    "choices of text": (b'{"choices": "A"}', "no choices"),
    "choice of text": (b'{"choices": ["A"]}', "no choices"),
    "no message": (b'{"choices": [{"text": "A"}]}', "no choices"),
    "error": (dump({"error": {"message": "model is \u001b[31m overloaded", "code": 502}}), "an error: model is"),
    "error text": (dump({"error": "overloaded"}), "an error: overloaded"),
    "error in the choice": (dump(chat("A", error={"message": "filtered"})), "an error: filtered"),
    "NaN": (logprobs("NaN"), "nan is no log-probability"),
    "positive": (logprobs("3.5"), "3.5 is no log-probability"),
    "infinite": (logprobs("Infinity"), "inf is no log-probability"),
    "words as log-probability": (logprobs('"-0.1"'), "-0.1 is no log-probability"),
    "huge": (logprobs("1" + "0" * 400), "is no log-probability"),
    "token of numbers": (dump(chat(logprobs={"content": [{"token": 1, "logprob": 0}]})), "an entry without a token"),
}  # fmt: skip
READ = {
    "plain": dump(chat()),
    "parts": dump(chat([{"type": "thinking", "thinking": "B"}, {"type": "text", "text": "A"}])),
    "bare parts": dump(chat(["A", ""])),
    "UTF-16": json.dumps(chat()).encode("utf-16"),
    "BOM": b"\xef\xbb\xbf" + dump(chat()),
    "usage of nothing": dump(chat(usage=None)),
    "usage of text": dump(chat(usage="100")),
    "whole float": dump(chat(usage={"prompt_tokens": 100.0})),
    "log-probability of nothing": logprobs("null"),
    "never": logprobs("-1" + "0" * 400),
    "minus infinity": logprobs("-Infinity"),
    "old log-probabilities": dump(chat(logprobs={"tokens": ["A"], "token_logprobs": [0.0]})),
    "log-probabilities of text": dump(chat(logprobs="none")),
    "error of null": dump(chat(error=None)),
}


@pytest.mark.parametrize("name", UNANSWERED)
def test_reply_that_is_none(name: str) -> None:
    data, why = UNANSWERED[name]
    with pytest.raises(BadReply) as error:
        read_reply(data)
    assert why in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", READ)
def test_reply_that_is_read(name: str) -> None:
    assert load_wording("label").read(read_reply(READ[name])) is not None


def test_bad_replies_are_unanswered_questions(tmp_path: Path) -> None:
    """Through the whole client and the cache; one sound question among them keeps its verdict."""
    bad: list[tuple[bytes, dict[str, str]]] = [(data, {}) for data, _ in UNANSWERED.values()]
    squeezed = gzip.compress(dump(chat()))
    bad += [
        (squeezed[:-12] + b"\0" * 12, {"content-encoding": "gzip"}),
        (b"not gzip", {"content-encoding": "gzip"}),
        (b"\0\1", {"content-encoding": "deflate"}),
        (gzip.compress(b" " * (33 << 20)), {"content-encoding": "gzip"}),
    ]

    def behave(shown: Any) -> Says:
        number = int(shown.instruction.split()[1].rstrip("?"))
        if number >= len(bad):
            return Says("A", headers={"content-type": "text/plain; charset=hex"})
        return Says(raw=bad[number][0], headers=bad[number][1])

    with judge_server(behave) as stub:
        config = stub.config(max_failed_share=1, max_retries=0)
        verdicts = compare(items(len(bad) + 1), config, tmp_path / "verdicts.sqlite")
    assert [v.failed for v in verdicts] == [True] * len(bad) + [False]
    assert all("not the answer of a chat" in v.error or "MiB in one answer" in v.error for v in verdicts[:-1])


NAMES = [
    "choices",
    "message",
    "content",
    "logprobs",
    "token",
    "logprob",
    "top_logprobs",
    "usage",
    "type",
    "text",
    "error",
]
plain_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
json_values = st.recursive(
    plain_values | st.sampled_from(["A", "B", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sound reply with one value replaced, perhaps with a byte changed."""
    body = json.loads(logprobs("-0.1"))
    place: Any = body
    while True:
        keys = list(range(len(place))) if isinstance(place, list) else list(place)
        key = draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or draw(st.booleans()):
            place[key] = draw(json_values)
            break
        place = place[key]
    data = bytearray(dump(body))
    if draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@settings(max_examples=400, deadline=None)
@given(st.one_of(damaged(), json_values.map(dump), st.binary(max_size=60)))
def test_any_bytes_are_a_reply_or_a_reason(data: bytes) -> None:
    try:
        reply = read_reply(data)
    except BadReply:
        return
    assert isinstance(reply, Reply)
    reply.words.encode()
    read = load_wording("label").read(reply)
    assert read is None or 0 <= read[0] <= 1


def test_judge_that_thinks_is_found_at_start() -> None:
    think = dump(chat(None, finish_reason="length", message={"content": None, "reasoning_content": "Hm. " * 9}))
    with judge_server(lambda shown: Says(raw=think)) as stub:
        with pytest.raises(UserError, match=r"judge\.max_tokens: .*36 characters of thoughts.* limit of 16 tokens"):
            check_endpoint(stub.config())
        with pytest.raises(UserError, match=r"judge\.max_tokens: .*the server's own limit"):
            check_endpoint(stub.config(max_tokens=None))
        verdicts = compare(items(2), stub.config(max_failed_share=1), None)
        assert all(v.unparsed and "limit of 16 tokens" in v.error for v in verdicts)
        stub.behaviour = lambda shown: Says(raw=dump(chat("<think>Well, A", finish_reason="length")))
        with pytest.raises(UserError, match=r"judge\.max_tokens: .*limit of 16 tokens"):
            check_endpoint(stub.config())
        stub.behaviour = lambda shown: Says("Both are good answers.")
        with pytest.raises(UserError, match=r"judge\.template: .*no verdict of template 'label': 'Both are good"):
            check_endpoint(stub.config())
        stub.behaviour = lambda shown: Says(raw=b"<html>Welcome</html>")
        with pytest.raises(UserError, match=r"judge\.base_url: .*not the answer of a chat: not JSON: '<html>"):
            check_endpoint(stub.config())
        stub.behaviour = lambda shown: Says("Hm." if len(shown.body["messages"]) == 2 else "B")
        check_endpoint(stub.config())


def test_answer_with_half_a_character_is_asked_about() -> None:
    asked = items(1)
    with judge_server(longer) as stub:
        (verdict,) = compare([replace(asked[0], answer_a="half \ud83d")], stub.config(), None)
        assert not verdict.failed
        assert {stub.shown[0].first, stub.shown[1].first} == {"half \ud83d", asked[0].answer_b}


BROKEN = [
    "socks5h://localhost:1",
    "socks4://localhost:1",
    "http://[::1",
    "http://",
    "http://a:99999",
    "gopher://x",
    "::",
]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("name", ["http_proxy", "all_proxy", "ALL_PROXY"])
def test_broken_proxy_is_named_and_not_used_on_loopback(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1,[::1]")
    far = JudgeConfig(base_url="http://judge.invalid/v1", model="stub")
    with pytest.raises(UserError) as error:
        check_endpoint(far)
    assert f"${name}" in str(error.value)
    assert "\n" not in str(error.value)
    with judge_server(always_first) as stub:
        for host in ("127.0.0.1", "localhost"):
            check_endpoint(stub.config(base_url=stub.url.replace("127.0.0.1", host)))


@pytest.mark.parametrize(
    ("url", "environment", "through"),
    [
        ("http://a.org/v1", {"http_proxy": "p:3128"}, "http://p:3128"),
        ("https://a.org/v1", {"http_proxy": "p:3128"}, None),
        ("https://a.org/v1", {"HTTPS_PROXY": "http://p:1", "ALL_PROXY": "http://q:2"}, "http://p:1"),
        ("http://a.org/v1", {"HTTP_PROXY": "p:1", "REQUEST_METHOD": "GET"}, None),
        ("http://a.org/v1", {"all_proxy": "http://user:word@p:1"}, "http://p:1"),
        ("http://a.org/v1", {"http_proxy": "p:1", "no_proxy": "b.org, .a.org"}, None),
        ("http://x.a.org/v1", {"http_proxy": "p:1", "NO_PROXY": "a.org"}, None),
        ("http://xa.org/v1", {"http_proxy": "p:1", "no_proxy": "a.org"}, "http://p:1"),
        ("http://a.org/v1", {"http_proxy": "p:1", "no_proxy": "*"}, None),
        ("http://10.1.2.3/v1", {"http_proxy": "p:1", "no_proxy": "10.0.0.0/8,[::1]"}, None),
        ("http://[fd00::1]:80/v1", {"http_proxy": "p:1", "no_proxy": "[fd00::1]"}, None),
        ("http://[fd00::1]/v1", {"http_proxy": "p:1", "no_proxy": "fd00::/16"}, None),
        ("http://a.org:8000/v1", {"http_proxy": "p:1", "no_proxy": "a.org:8000"}, None),
        ("http://a.org:8000/v1", {"http_proxy": "p:1", "no_proxy": "a.org:9000"}, "http://p:1"),
        ("http://a.org/v1", {"http_proxy": "p:1", "no_proxy": "[::1],[,]x,://,/,%"}, "http://p:1"),
        ("http://[::1]:8000/v1", {"http_proxy": "p:1"}, None),
        ("http://127.8.9.1:8000/v1", {"http_proxy": "p:1"}, None),
        ("http://0.0.0.0:8000/v1", {"http_proxy": "p:1"}, None),
        ("http://LocalHost.:8000/v1", {"all_proxy": "p:1"}, None),
    ],
)
def test_way_to_the_judge(url: str, environment: dict[str, str], through: str | None) -> None:
    way = find_way(url, environment)
    assert (None if way.proxy is None else str(way.proxy.url)) == through
    assert "word" not in way.shown


@contextmanager
def refusing_proxy(status: int, page: bytes = b"<html>Access denied</html>") -> Iterator[str]:
    """A proxy that refuses everything; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.do_CONNECT()

        def do_CONNECT(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: Any) -> None:
            pass

    with stand_in(Handler) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("status", [403, 407])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_refusing_proxy_is_named_and_not_the_key(monkeypatch: pytest.MonkeyPatch, status: int, scheme: str) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret-1")
    with refusing_proxy(status) as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", proxy.replace("http://", "http://me:pass-word@"))
        config = JudgeConfig(base_url=f"{scheme}://judge.invalid/v1", model="stub", api_key_env="JUDGE_KEY")
        for use in (lambda: check_endpoint(config), lambda: compare(items(1), config, None)):
            with pytest.raises(UserError) as error:
                use()
            message = str(error.value)
            assert f"the proxy {proxy} of ${scheme}_proxy refuses to pass requests on to judge.invalid" in message
            assert str(status) in message
            for hidden in ("api_key_env", "pass-word", "sk-secret", "JUDGE_KEY"):
                assert hidden not in message


def test_servers_own_refusal_through_a_proxy_is_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_proxy(403, b'{"error": {"message": "bad key"}}') as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises(UserError, match=r"judge\.api_key_env: .*through the proxy .* 403"):
            check_endpoint(JudgeConfig(base_url="http://judge.invalid/v1", model="stub"))


def test_dead_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("all_proxy", f"http://127.0.0.1:{port}")
    with pytest.raises(
        UserError, match=rf"cannot be reached through the proxy http://127\.0\.0\.1:{port} of \$all_proxy"
    ):
        check_endpoint(JudgeConfig(base_url="http://judge.invalid/v1", model="stub"))


def test_key_that_no_header_can_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "ключ")
    config = JudgeConfig(base_url="http://127.0.0.1:9/v1", model="stub", api_key_env="JUDGE_KEY")
    with pytest.raises(UserError, match=r"judge\.api_key_env: the variable JUDGE_KEY holds characters"):
        check_endpoint(config)


@pytest.mark.parametrize("after", ["nan", "inf", "-5", "1e999", "soon", "Mon, 01 Jan 99999 00:00:00 GMT", "9" * 400])
def test_any_retry_after(after: str) -> None:
    def behave(shown: Any) -> Says:
        return longer(shown) if shown.number > 2 else Says("slow down", status=429, headers={"retry-after": after})

    with judge_server(behave) as stub:
        compare(items(1), stub.config(max_failed_share=1, deadline_s=10, timeout_s=5), None)
