"""A judge's server on the loopback interface: real HTTP, answers by a function of what it is shown."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from configs.schema import JudgeConfig


@dataclass(frozen=True)
class Shown:
    """What a question shows, and the whole request."""

    language: str
    instruction: str
    first: str
    second: str
    number: int  # from 1, in the order of arrival
    body: dict[str, Any]


@dataclass(frozen=True)
class Says:
    """A response. ``words`` with status 200 is a chat answer, else the complaint; ``raw`` is sent as it is."""

    words: str = ""
    logprobs: dict[str, float] | None = None  # of the first token, nats
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    raw: bytes | None = None


Behaviour = Callable[[Shown], Says]
_PLACES = re.compile(
    r"The instruction is in (.+?)\. .*<instruction>\n(.*)\n</instruction>.*<answer_A>\n(.*)\n</answer_A>.*"
    r"<answer_B>\n(.*)\n</answer_B>",
    re.DOTALL,
)


class Stub:
    """Counts and keeps what it was asked."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.shown: list[Shown] = []
        self.times: list[float] = []
        self.authorization: list[str | None] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self.url = ""

    def begin(self, body: dict[str, Any], authorization: str | None) -> Shown:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            places = _PLACES.search(body["messages"][1]["content"])
            assert places is not None
            language, instruction, first, second = places.groups()
            shown = Shown(language, instruction, first, second, len(self.shown) + 1, body)
            self.shown.append(shown)
            self.times.append(time.monotonic())
            self.authorization.append(authorization)
        return shown

    def end(self) -> None:
        with self._lock:
            self._at_once -= 1

    def config(self, **changes: Any) -> JudgeConfig:
        """A config that asks this server."""
        values = {"base_url": self.url, "model": "stub", "timeout_s": 10, "max_retries": 4, **changes}
        return JudgeConfig.model_validate(values)


@contextmanager
def judge_server(behaviour: Behaviour, port: int = 0) -> Iterator[Stub]:
    """Serve until the block ends."""
    stub = Stub(behaviour)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path != "/v1/chat/completions":
                self._send(Says("no such page", status=404))
                return
            shown = stub.begin(body, self.headers.get("authorization"))
            try:
                says = stub.behaviour(shown)
                time.sleep(says.after_s)
                self._send(says)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client has given up
            finally:
                stub.end()

        def _send(self, says: Says) -> None:
            if says.status == 200:
                payload: Any = completion(says)
            else:
                payload = {"error": {"message": says.words}}
            data = json.dumps(payload).encode() if says.raw is None else says.raw
            self.send_response(says.status)
            for name, value in {"content-type": "application/json", **says.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # of 5, sixteen clients at once would lose some

        def handle_error(self, *_: Any) -> None:
            pass  # a client that was killed or has given up

    server = Server(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def completion(says: Says) -> dict[str, Any]:
    """A chat completion as OpenAI and vLLM send it."""
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": says.words},
    }
    if says.logprobs is not None:
        top = [{"token": t, "logprob": v, "bytes": None} for t, v in says.logprobs.items()]
        choice["logprobs"] = {"content": [{**max(top, key=lambda t: t["logprob"]), "top_logprobs": top}]}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "stub",
        "choices": [choice],
        "usage": {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102},
    }


def always_first(_: Shown) -> Says:
    """Position bias and nothing else."""
    return Says("A")


def longer(shown: Shown) -> Says:
    """The longer answer, wherever it stands."""
    return Says("A" if len(shown.first) >= len(shown.second) else "B")


def mostly_first(share: float) -> Behaviour:
    """The first answer with probability ``share``, else the longer one; drawn from the question, not from chance."""

    def behave(shown: Shown) -> Says:
        draw = random.Random("|".join((shown.instruction, shown.first, shown.second))).random()
        return always_first(shown) if draw < share else longer(shown)

    return behave
