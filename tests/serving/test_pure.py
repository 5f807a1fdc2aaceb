"""What a request may ask for, who may call, how a swap waits, and what the serve section must say."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import UserError
from configs.schema import Config
from configs.serving import ServeConfig
from serving.access import check_key, digest, read_keys
from serving.chunking import CALM, Chunking
from serving.errors import ENGINE_FAILED, RequestRefused, refusal_in
from serving.requests import Limits, check_request, parse_body
from serving.swap import RequestGate

LIMITS = Limits(("world",), max_tokens=64, max_sequences=4, max_length=256, vocabulary=1000)
HELLO = {"model": "world", "messages": [{"role": "user", "content": "Hello"}]}


def refused(work: Any, *arguments: Any) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        work(*arguments)
    return caught.value


# --- requests -----------------------------------------------------------------------------------------------------


def test_a_plain_request_gets_the_defaults() -> None:
    checked = check_request("chat", {**HELLO, "temperature": 0.5, "user": None}, LIMITS)
    assert checked == {**HELLO, "temperature": 0.5}
    assert (
        check_request("chat", {"messages": HELLO["messages"], "max_completion_tokens": 3}, LIMITS)["model"] == "world"
    )


@pytest.mark.parametrize(
    ("kind", "change", "status", "says"),
    [
        ("chat", {"model": "gpt"}, 404, "served: world"),
        ("chat", {"max_tokens": 65}, 400, "1 to 64"),
        ("chat", {"max_completion_tokens": 0}, 400, "1 to 64"),
        ("chat", {"n": 5}, 400, "1 to 4"),
        ("chat", {"n": True}, 400, "whole number"),
        ("chat", {"chat_template": "{{ 1 }}"}, 400, "not supported here: chat_template"),
        ("chat", {"tools": [{"type": "function"}]}, 400, "tools are not supported here"),
        ("chat", {"messages": []}, 400, "at least one message"),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "text"),
        ("chat", {"temperature": "hot"}, 400, "number from 0 to 2"),
        ("chat", {"frequency_penalty": -2.1}, 400, "from -2 to 2"),
        ("chat", {"repetition_penalty": 0}, 400, "above 0, at most 10"),
        ("completions", {"prompt": "a", "top_p": 0.0}, 400, "above 0, at most 1"),
        ("chat", {"stream": 0}, 400, "true or false"),
        ("chat", {"logprobs": True, "top_logprobs": 21}, 400, "0 to 20"),
        ("completions", {"prompt": "a", "logprobs": -1}, 400, "0 to 20"),
        ("completions", {"prompt": "a", "seed": 2**63}, 400, "whole number from"),
        ("chat", {"stop": [""]}, 400, "none of them empty"),
        ("chat", {"stop": ["a", "b", "c", "d", "e"]}, 400, "at most 4"),
        ("chat", {"response_format": {"type": "json_object"}}, 400, "response_format"),
        ("completions", {"prompt": [1, 1000]}, 400, "0 to 999"),
        ("completions", {"prompt": [[1], []]}, 400, "none empty"),
        ("completions", {"prompt": ["a", "b", "c"], "n": 2}, 400, "6 completions"),
        ("completions", {}, 400, "prompt must be"),
    ],
)
def test_what_is_not_served_is_refused_with_its_limit(
    kind: str, change: dict[str, Any], status: int, says: str
) -> None:
    body = {**(HELLO if kind == "chat" else {"model": "world"}), **change}
    error = refused(check_request, kind, body, LIMITS)
    assert error.status == status
    assert says in error.message
    assert error.body()["error"]["code"] == status


def test_numbers_without_a_fraction_are_whole() -> None:
    body = parse_body(b'{"prompt": [2.0, 3], "max_tokens": 4.0, "temperature": 0.5, "seed": 1e30}')
    assert body == {"prompt": [2, 3], "max_tokens": 4, "temperature": 0.5, "seed": 1e30}
    assert [type(value) for value in (body["max_tokens"], body["prompt"][0], body["seed"])] == [int, int, float]


def test_errors_that_vllm_streams_say_nothing_of_the_inside() -> None:
    def event(code: int) -> str:
        error = {"message": "a secret", "type": "x", "param": "n", "code": code}
        return "data: " + json.dumps({"error": error}, separators=(",", ":")) + "\n\n"

    found = [refusal_in(event(400)), refusal_in(event(500))]
    assert [(one.status, one.message, one.param) for one in found if one is not None] == [
        (400, "a secret", "n"),
        (500, ENGINE_FAILED, None),
    ]
    assert refusal_in('data: {"id":"error"}\n\n') is None
    assert refusal_in("data: [DONE]\n\n") is None


BROKEN = [b"", b"[1]", b"{", b"\xff", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}', b"[" * 100_000]
BROKEN += [b'{"a": ' + b"9" * 30 + b"}", b'{"a":' + b"[" * 40 + b"]" * 40 + b"}"]


@pytest.mark.parametrize("raw", BROKEN)
def test_bodies_that_are_no_request(raw: bytes) -> None:
    assert refused(parse_body, raw).status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    "messages",
    "prompt",
    "n",
    "seed",
    "temperature",
    "stop",
    "max_tokens",
    "logprobs",
    "stream",
    "model",
    "top_k",
]
FIELD = st.sampled_from(FIELDS)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["chat", "completions"]), st.dictionaries(FIELD, JSON, max_size=4))
def test_any_body_is_checked_or_refused(kind: str, change: dict[str, Any]) -> None:
    status = 0
    try:
        body = parse_body(json.dumps({**HELLO, "prompt": "a", **change}).encode("utf-8", "surrogatepass"))
        checked = check_request(kind, body, LIMITS)
    except RequestRefused as error:
        status = error.status
    else:
        status = 400
        assert checked["model"] == "world"
    assert status in (400, 404)


# --- keys ---------------------------------------------------------------------------------------------------------


def test_keys_come_from_file_and_environment_and_only_their_digests_are_kept(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# mine\nfirst-key-that-is-long\n\n", encoding="utf-8")
    config = ServeConfig(api_keys_file=tmp_path / "keys", api_keys_env="KEYS")
    digests = read_keys(config, {"KEYS": "second-key-that-is-long"})
    assert digests == (digest("first-key-that-is-long"), digest("second-key-that-is-long"))
    check_key("Bearer second-key-that-is-long", digests)
    for header in (None, "", "Bearer ", "Bearer first", "Basic first-key-that-is-long", "first-key-that-is-long"):
        error = refused(check_key, header, digests)
        assert error.status == 401
        assert "first-key" not in error.message


def test_keys_that_protect_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\n", encoding="utf-8")
    with pytest.raises(UserError, match="there is no key in it"):
        read_keys(ServeConfig(api_keys_file=tmp_path / "keys"))
    with pytest.raises(UserError, match="serve.api_keys_env"):
        read_keys(ServeConfig(api_keys_env="KEYS"), {})
    with pytest.raises(UserError, match="fewer than 16"):
        read_keys(ServeConfig(api_keys_env="KEYS"), {"KEYS": "short"})
    with pytest.raises(UserError, match="cannot read"):
        read_keys(ServeConfig(api_keys_file=tmp_path / "none"))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"host": "0.0.0.0"}, "API keys"),
        ({"min_replicas": 3}, "max_replicas"),
        ({"canary_share": 0.2}, "min_replicas"),
    ],
)
def test_contradictions_of_the_serve_section(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ServeConfig(**fields)


def test_a_gate_needs_evaluations() -> None:
    values: dict[str, Any] = {
        "model": {"policy": "p", "reference": "r"},
        "languages": {"codes": ["en", "es"]},
        "prompts": {"train": "{lang}", "heldout": "{lang}"},
        "serve": {"enabled": True, "gate": {"kind": "heldout"}},
    }
    with pytest.raises(ValueError, match="evaluation.every"):
        Config.model_validate(values)
    assert Config.model_validate({**values, "evaluation": {"every": 1}}).serve.gate.needs_evaluation


def test_canaries_are_whole_replicas_but_never_all() -> None:
    config = ServeConfig(min_replicas=2, max_replicas=8, canary_share=0.25)
    assert [config.canary_replicas(n) for n in (1, 2, 4, 5, 8)] == [0, 1, 1, 2, 2]


# --- door ---------------------------------------------------------------------------------------------------------


def test_a_swap_waits_for_those_inside_and_marks_who_stays() -> None:
    async def scene() -> None:
        door = RequestGate(3, capacity=3)
        quick, slow = await door.admit(), await door.admit()
        late: list[str] = []

        async def come_late() -> None:
            lease = await door.admit()
            late.append(lease.versions)
            lease.leave()

        async with door.shut(drain=0.1) as inside_then:
            assert inside_then == 2
            comer = asyncio.create_task(come_late())
            await asyncio.sleep(0)
            assert refused_now(door)
            door.leave(quick)
            door.mark(4)
            door.version = 4
        await asyncio.wait_for(comer, 1)
        assert late == ["v4"]
        assert (quick.versions, slow.versions) == ("v3", "v3-v4")
        door.leave(slow)
        async with door.shut(drain=60) as inside_then:
            assert inside_then == 0

    def refused_now(door: RequestGate) -> bool:
        coroutine = door.admit()
        try:
            coroutine.send(None)
        except RequestRefused as error:
            return error.status == 429 and error.headers == {"Retry-After": "1"}
        return False

    asyncio.run(scene())


def test_under_serves_own_config_what_is_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.build import CannotBuild, application

    monkeypatch.delenv("ISOGLOSS_HOME", raising=False)
    model = str(Path("worlds/default/policy").resolve())
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"target": "runs/mine"}, "args.target: runs/mine is relative"),
        ({"target": model, "state": "here"}, "args.state: here is relative"),
        ({"target": model}, f"args.state: .* model folder {model} .* or set ISOGLOSS_HOME"),
        ({"target": model, "overides": []}, "args: overides: unknown field"),
        ({"overrides": []}, "args: target: missing"),
        ({"target": str(tmp_path), "state": str(tmp_path)}, "neither a run folder"),
    ]
    for arguments, complaint in wrong:
        with pytest.raises(CannotBuild, match=complaint):
            application(arguments)
    monkeypatch.setenv("ISOGLOSS_HOME", str(tmp_path))
    with pytest.raises(CannotBuild, match=r"serve.api_keys_env: .* need API keys"):
        application({"target": model})
    with pytest.raises(CannotBuild, match="serve.api_keys_env: there is no key in it"):
        application({"target": model, "overrides": "max_tokens=9 api_keys_env=NOT_SET"})  # as `serve run` passes it
    assert (tmp_path / "runs" / "serving-policy" / "serving.json").is_file()


def test_tokens_of_a_chunk() -> None:
    chunking = Chunking(2, 0.04)
    assert chunking.tokens(100) == 2, "nothing is known yet"
    chunking.saw(100, 0.4)  # 4 ms a token
    assert [chunking.tokens(running) for running in (0, CALM - 1, CALM, 100)] == [2, 2, 10, 10]
    chunking.saw(0, 1.0)
    assert chunking.tokens(100) == 10, "a stream of one event says nothing"
    for _ in range(40):
        chunking.saw(100, 5.0)  # a slow model: nobody waits for a second token
    assert chunking.tokens(100) == 2
    never = Chunking(1, 0)
    never.saw(100, 0.4)
    assert never.tokens(100) == 1
