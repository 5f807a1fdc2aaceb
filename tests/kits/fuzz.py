"""Schemathesis against a running endpoint, on the endpoint's own OpenAPI document."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis.engine import Status, events, from_schema

ERROR_FIELDS = {"message", "type", "param", "code"}


@dataclass
class Tally:
    """What became of the requests: how many by route and status, what was wrong, and the slowest reply in seconds."""

    replies: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0


def fault(status: int, text: str) -> str:
    """What is wrong with a reply, for any request whatever; nothing: ""."""
    if status >= 500:
        return f"status {status}"
    for sign in ("Traceback", "the engine failed", ".py", "/site-packages/"):
        if sign in text and status >= 400:
            return f"shows {sign!r}"
    if status >= 400 or '"error"' in text:
        last = [line[6:] for line in text.splitlines() if line.startswith("data: {")] or [text]
        try:
            error = json.loads(last[-1])["error"]
        except (ValueError, KeyError, TypeError):
            return "an error that has not OpenAI's form"
        if set(error) != ERROR_FIELDS or not error["message"]:
            return f"an error with the fields {sorted(error)}"
        if status < 400:
            return f"an error within a stream: {error['message']}"
        if error["code"] != status:
            return f"code {error['code']} under status {status}"
    return ""


@schemathesis.check
def keeps_to_openai_s_form(_ctx: Any, response: schemathesis.Response, _case: schemathesis.Case) -> None:
    """No request gets 5xx, a traceback or an error in another form."""
    assert not (found := fault(response.status_code, response.text)), found


def fuzz(document: dict[str, Any], base: str, key: str, examples: int, seed: int = 1) -> Tally:
    """Requests made from the document: its boundary cases, then random ones, valid and invalid.

    Args:
        document: OpenAPI.
        base: Address of the endpoint.
        key: API key.
        examples: Random requests of each route, about.
        seed: The same one makes the same requests.
    """
    config = schemathesis.Config.from_dict(
        {
            "seed": seed,
            "continue-on-failure": True,
            "base-url": base,
            "headers": {"Authorization": f"Bearer {key}"},
            "request-timeout": 60,
            "max-stream-events": 100_000,
            "generation": {"mode": "all", "max-examples": examples, "database": "none", "no-shrink": True},
            "checks": {"enabled": False, "keeps_to_openai_s_form": {"enabled": True}},
            "phases": {
                "examples": {"enabled": False},
                "stateful": {"enabled": False},
                # What a refusal says would otherwise steer what is made next.
                "fuzzing": {"error-feedback": {"enabled": False}, "extra-data-sources": {"responses": False}},
            },
        }
    )
    tally = Tally()
    for event in from_schema(schemathesis.openapi.from_dict(document, config=config)).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            tally.wrong.append(repr(event))
        if isinstance(event, events.ScenarioFinished):
            _count(event, tally)
    return tally


def _count(event: events.ScenarioFinished, tally: Tally) -> None:
    cases = {case: node.value for case, node in event.recorder.cases.items()}
    for case, interaction in event.recorder.interactions.items():
        sent, reply = cases[case], interaction.response
        status = 0 if reply is None else reply.status_code
        tally.replies[sent.path, status] += 1
        if reply is None:
            tally.wrong.append(f"no reply: {_words(sent)}")
        else:
            tally.slowest = max(tally.slowest, reply.elapsed)
    for case, checks in event.recorder.checks.items():
        for one in checks:
            if one.status == Status.FAILURE:
                found = one.failure_info.failure.message if one.failure_info else one.name
                tally.wrong.append(f"{found}: {_words(cases[case])}")


def _words(sent: schemathesis.Case) -> str:
    return f"{sent.method} {sent.path} {sent.body!r:.600}"


def raw(field: str, value: str) -> bytes:
    """The body of a request with one more field, whatever its value."""
    return b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": 2, ' + f'"{field}": {value}}}'.encode()


# Body, headers beside the usual ones, and the status that it gets.
ODD_REQUESTS: list[tuple[bytes, dict[str, str | bytes], int]] = [
    (b"", {}, 400),
    (b"null", {}, 400),
    (b'{"a": "\xc3("}', {}, 400),
    (raw("user", '"a"').decode().encode("utf-16"), {}, 400),
    (b"[" * 60_000, {}, 400),
    (raw("user", "[" * 20_000 + "]" * 20_000), {}, 400),
    (raw("user", '"\\ud800"'), {}, 400),
    (raw("temperature", "NaN"), {}, 400),
    (raw("temperature", "-1e999"), {}, 400),
    (raw("seed", "9" * 5000), {}, 400),
    (raw("n", "100000000000"), {}, 400),
    (raw("max_tokens", "100000000000"), {}, 400),
    (raw("logit_bias", '{"1": 1e308, "2": -1e308}'), {}, 200),
    (raw("logit_bias", '{"99999": 1}'), {}, 400),
    (raw("stream", 'true, "logit_bias": {"99999": 1}'), {}, 400),
    (raw("stop", '["\\u0000", "\U0001f600"]'), {}, 200),
    (raw("temperature", "0." + "1" * 40_000), {}, 200),
    (raw("user", '"a"'), {"Content-Type": "multipart/form-data"}, 200),
    (raw("user", '"a"'), {"Content-Encoding": "gzip", "X-Request-Id": b"\xff", "X-Session-Id": b"\xff"}, 200),
    (raw("user", '"a"'), {"Authorization": "Bearer another-key-of-some-length"}, 401),
    (raw("user", '"a"'), {"Authorization": b"Bearer \xff"}, 401),
    (raw("model", '"gpt"'), {}, 404),
    (raw("user", '"' + "x" * 70_000 + '"'), {}, 413),
]
