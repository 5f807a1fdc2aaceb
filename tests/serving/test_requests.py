"""What clients send as a matter of course is taken; what means something that is not served is refused and named."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from configs.errors import UserError
from configs.serving import ServeConfig
from serving.access import read_keys
from serving.errors import RequestRefused
from serving.messages import plain_messages
from serving.requests import NEUTRAL, Limits, check_request
from serving.routes import build_app

LIMITS = Limits(("world",), max_tokens=64, max_sequences=4, max_length=256, vocabulary=1000)
USER = {"role": "user", "content": "Hello"}
# As this endpoint, OpenAI's and vLLM's newer ones reply.
REPLY: dict[str, Any] = {
    "role": "assistant",
    "content": "Hi",
    "refusal": None,
    "annotations": [],
    "audio": None,
    "function_call": None,
    "tool_calls": [],
    "reasoning": None,
    "reasoning_content": "",
    "provider_specific_fields": {},
}


def chat(*messages: Any, **fields: Any) -> dict[str, Any]:
    return check_request("chat", {"messages": list(messages), **fields}, LIMITS)


@pytest.mark.parametrize(
    ("sent", "plain"),
    [
        (REPLY, {"role": "assistant", "content": "Hi"}),
        ({"role": "assistant", "content": None, "tool_calls": []}, {"role": "assistant", "content": ""}),
        ({"role": "assistant"}, {"role": "assistant", "content": ""}),
        ({"role": "developer", "content": "Be brief."}, {"role": "system", "content": "Be brief."}),
        ({"role": "user", "content": "Hi", "name": "ann"}, {"role": "user", "content": "Hi", "name": "ann"}),
        ({"role": "user", "content": "Hi", "name": None}, {"role": "user", "content": "Hi"}),
        ({"role": "user", "content": []}, {"role": "user", "content": ""}),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": "a\nb"},
        ),
        (
            {"role": "system", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
            {"role": "system", "content": "a"},
        ),
        (ChatCompletionMessage(role="assistant", content="x").model_dump(), {"role": "assistant", "content": "x"}),
    ],
)
def test_messages_of_every_client(sent: dict[str, Any], plain: dict[str, Any]) -> None:
    assert chat(USER, sent)["messages"] == [USER, plain]


@pytest.mark.parametrize(
    ("message", "place", "says"),
    [
        ({"role": "tool", "content": "4", "tool_call_id": "c"}, "messages[1].role", "tools are not supported"),
        ({"role": "function", "name": "f", "content": "4"}, "messages[1].role", "tools are not supported"),
        ({**REPLY, "tool_calls": [{"id": "c"}]}, "messages[1].tool_calls", "tools are not supported"),
        ({**REPLY, "function_call": {"name": "f"}}, "messages[1].function_call", "tools are not supported"),
        ({**REPLY, "refusal": "No."}, "messages[1].refusal", "leave it out"),
        ({**REPLY, "audio": {"id": "a"}}, "messages[1].audio", "leave it out"),
        ({**REPLY, "prefix": True}, "messages[1].prefix", "leave it out"),
        ({"role": "user", "content": None}, "messages[1].content", "a text or a list of text parts"),
        ({"role": "user", "content": 3}, "messages[1].content", "a text or a list of text parts"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[1].content[0]", "image_url"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content[0].text", "must be a text"),
        ({"role": "user", "content": ["a"]}, "messages[1].content[0]", "must be a part"),
        ({"role": "user", "content": "a", "name": 3}, "messages[1].name", "must be a text"),
        ({"role": ["user"], "content": "a"}, "messages[1].role", "system, developer, user or assistant"),
        ("Hello", "messages[1]", "must be an object"),
    ],
)
def test_what_a_message_means_and_is_not_served_is_named(message: Any, place: str, says: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        plain_messages([USER, message])
    assert (caught.value.status, caught.value.param) == (400, place)
    assert says in caught.value.message


@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_fields_without_effect_are_dropped_and_others_of_that_name_refused(kind: str) -> None:
    body: dict[str, Any] = {"messages": [USER]} if kind == "chat" else {"prompt": "Hello"}
    plain = check_request(kind, body, LIMITS)
    example = {"object": {"app": "mine"}, "boolean": False, "string": "anything"}
    for name, schema in NEUTRAL[kind].items():
        for value in schema.get("enum", [example.get(str(schema.get("type")))]):
            assert check_request(kind, {**body, name: value}, LIMITS) == plain, name
        with pytest.raises(RequestRefused, match=name):
            check_request(kind, {**body, name: ["what nobody takes"]}, LIMITS)
    for name, value in {"best_of": True, "suffix": " end"}.items() if kind == "completions" else ():
        with pytest.raises(RequestRefused, match=name):
            check_request(kind, {**body, name: value}, LIMITS)


def test_a_page_may_call_where_its_origin_is_listed() -> None:
    async def answer(_request: Any) -> JSONResponse:
        return JSONResponse({})

    def client(*origins: str) -> TestClient:
        return TestClient(build_app(answer, answer, answer, {"chat": answer, "completions": answer},
                                    {"chat": {}, "completions": {}}, cors_origins=origins))  # fmt: skip

    asks = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os"}  # fmt: skip
    preflight = client("https://a.example").options("/v1/chat/completions", headers=asks)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://a.example"
    assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
    reply = client("*").get("/v1/models", headers={"Origin": "https://b.example"})
    assert reply.headers["access-control-allow-origin"] == "*"
    assert "x-isogloss-version" in reply.headers["access-control-expose-headers"]
    assert client("https://a.example").options("/v1/models", headers={**asks, "Origin": "null"}).status_code == 400
    closed = client().get("/v1/models", headers={"Origin": "https://a.example"})
    assert "access-control-allow-origin" not in closed.headers
    for origin in ("a.example", "https://a.example/chat", "https://", "null", "https://a.example:x", "https://a b"):
        with pytest.raises(ValueError, match="cors_origins"):
            ServeConfig(cors_origins=[origin])
    ServeConfig(cors_origins=["*", "http://localhost:3000", "http://[::1]:3000", "app://obsidian.md"])


@pytest.mark.parametrize("key", ["clé-qui-est-assez-longue", "ключ-достаточной-длины", "k\x00" * 20])
def test_keys_that_no_client_can_send_are_refused(key: str) -> None:
    with pytest.raises(UserError, match="KEYS: an API key there has a character that is not printable ASCII"):
        read_keys(ServeConfig(api_keys_env="KEYS"), {"KEYS": key})
