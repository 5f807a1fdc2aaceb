"""Servers and commands that are asked for candidates: full queues, failures, and nothing asked twice."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from actors.train.source_coordinator import SourceCoordinator
from configs.errors import UserError
from configs.schema import Config
from judges.answers import Answered
from judges.generator import check_server
from rollout.plan import Chunk, Request
from rollout.records import CandidateKey
from tests.rollout.test_sources import DIRECT, ENGLISH, TRANSLATED, dang

WAIT_S = 20.0


class Generator:
    """What a stub server was asked, and what it says: a text, a status, or raw bytes."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.says: Any = lambda body: f"Answer to: {body['messages'][-1]['content']}"
        self.at_once = self.most = 0
        self.together: threading.Barrier | None = None
        self.lock = threading.Lock()
        self.url = ""


@contextmanager
def generator() -> Iterator[Generator]:
    """A chat server on the loopback interface."""
    stub = Generator()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with stub.lock:
                stub.asked.append(body)
                stub.at_once += 1
                stub.most = max(stub.most, stub.at_once)
            if stub.together is not None:
                stub.together.wait(WAIT_S)  # answers only once as many are in flight as should be
            said = stub.says(body)
            status, data = (said, b"{}") if isinstance(said, int) else (200, said)
            if isinstance(said, str):
                choice = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
                data = json.dumps({"choices": [choice]}).encode()
            with stub.lock:
                stub.at_once -= 1
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stub.url = f"http://127.0.0.1:{server.server_port}/v1"
        try:
            yield stub
        finally:
            server.shutdown()


def asking(stub: Generator, tmp_path: Path, **changes: Any) -> Config:
    server = {"base_url": stub.url, "model": "stub", "timeout_s": 20, "max_retries": 0, **changes}
    sources = {"sources": [{**DIRECT, "samples": 2}, ENGLISH, TRANSLATED], "cache": str(tmp_path / "answers.sqlite")}
    return dang(endpoints={"strong": server, "weak": server}, candidates=sources)


def chunk(name: str, texts: list[str], source: str = "direct", origin: str = "es", samples: int = 1) -> Chunk:
    requests = [
        Request(CandidateKey(1, f"p{i}", "es", source, origin, s), text, "", 0.0, 1.0, -1, 0, 0)
        for i, text in enumerate(texts)
        for s in range(samples)
    ]
    return Chunk(name, 1, "answer", "es", origin, tuple(requests), source)


def answers(config: Config, *chunks: Chunk) -> dict[str, list[Answered]]:
    found: dict[str, list[Answered]] = {}

    def kept(name: str, _begin: float, _end: float, rows: list[Answered]) -> None:
        found[name] = rows

    with closing(SourceCoordinator(config, Path(config.candidates.cache or ""))) as coordinator:
        for one in chunks:
            coordinator.submit(one, partial(kept, one.id))
        while not coordinator.idle:
            coordinator.collect(WAIT_S)
    return found


def test_all_chunks_together_keep_a_server_full(tmp_path: Path) -> None:
    with generator() as stub:
        stub.together = threading.Barrier(8)
        config = asking(stub, tmp_path, max_concurrency=8)
        found = answers(config, *(chunk(f"c{i}", [f"{i} a", f"{i} b"]) for i in range(8)))
        assert stub.most == 8  # a chunk has two questions: four chunks were under way at once
    assert [row.text for row in found["c3"]] == ["Answer to: 3 a", "Answer to: 3 b"]
    assert {row.model for row in found["c3"]} == {"stub"}


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    with generator() as stub:
        config = asking(stub, tmp_path)
        first = answers(config, chunk("c", ["a", "b"], samples=2))
        assert len(stub.asked) == 4  # samples of one prompt are questions of their own
        assert answers(config, chunk("c", ["a", "b"], samples=2)) == first
        assert len(stub.asked) == 4
        answers(asking(stub, tmp_path, temperature=0.5), chunk("c", ["a"]))
        assert len(stub.asked) == 5  # another decoding is another question


@pytest.mark.parametrize(
    ("says", "why"),
    [
        ("", "an empty answer"),
        (" \n", "an empty answer"),
        (400, "answers 400"),
        (b'{"choices": [{"message": {"content": "\xff"}}]}', "not the answer of a chat"),
        (b'{"choices": [{"message": {"content": "\\ud800"}}]}', "lone surrogate"),
    ],
)
def test_what_is_no_answer_is_counted_with_its_reason(tmp_path: Path, says: Any, why: str) -> None:
    with generator() as stub:
        usual = stub.says
        stub.says = lambda body: says if body["messages"][-1]["content"] == "bad" else usual(body)
        config = asking(stub, tmp_path)
        bad, good = answers(config, chunk("c", ["bad", "good"]))["c"]
        assert bad.text is None
        assert why in bad.why
        assert good.text == "Answer to: good"
        before = len(stub.asked)
        answers(config, chunk("c", ["bad", "good"]))
        assert len(stub.asked) == before + 1  # what was no answer is not kept


def test_a_server_that_cannot_be_asked_ends_the_run(tmp_path: Path) -> None:
    with generator() as stub:
        stub.says = lambda _body: 401
        with pytest.raises(UserError, match=r"endpoints\.strong\.api_key_env: .* answers 401"):
            answers(asking(stub, tmp_path), chunk("c", ["a"]))
        stub.says = lambda _body: ""
        with pytest.raises(UserError, match=r"endpoints\.strong: the server answers a plain question with an empty"):
            check_server("strong", asking(stub, tmp_path).endpoints["strong"])


def test_templates_are_put_around_prompts_and_texts(tmp_path: Path) -> None:
    with generator() as stub:
        config = asking(stub, tmp_path)
        answers(config, chunk("a", ["Hello"], "translated", "en"))
        assert stub.asked[0]["messages"] == [
            {
                "role": "user",
                "content": "Translate the text between the tags into Spanish. Answer with the translation alone.\n"
                "<text>\nHello\n</text>",
            }
        ]


ECHO = "import sys, json\nfor l in sys.stdin:\n r = json.loads(l)\n print(json.dumps({'id': r['id'], 'text': "
COMMANDS = {
    "upper": ECHO + "r['to'] + ':' + r['text'].upper()}))",
    "silent": "pass",
    "fails": "import sys; sys.exit('no such model')",
    "other": "print('hello')",
    "stranger": 'print(\'{"id": "x", "text": "y"}\')',
}


def commanded(tmp_path: Path, name: str) -> Config:
    translated = {**TRANSLATED, "by": "command", "command": [sys.executable, "-c", COMMANDS[name]]}
    server = {"base_url": "http://localhost:1/v1", "model": "m"}
    sources = {"sources": [DIRECT, ENGLISH, translated], "cache": str(tmp_path / "answers.sqlite")}
    return dang(endpoints={"strong": server, "weak": server}, candidates=sources)


def test_a_command_translates(tmp_path: Path) -> None:
    one = chunk("c", ["one", "two"], "translated", "en")
    assert [a.text for a in answers(commanded(tmp_path, "upper"), one)["c"]] == ["es:ONE", "es:TWO"]
    assert [a.why for a in answers(commanded(tmp_path, "silent"), one)["c"]] == ["no line from the command"] * 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fails", r"sources\.2\.command: .* failed with status 1: no such model"),
        ("other", r"sources\.2\.command: line 1 of its output is no"),
        ("stranger", r"sources\.2\.command: line 1 of its output has an id that was not given"),
    ],
)
def test_a_command_that_misbehaves_is_named(tmp_path: Path, name: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        answers(commanded(tmp_path, name), chunk("c", ["one"], "translated", "en"))


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "answers.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"candidates\.cache: .*answers\.sqlite"):
        answers(commanded(tmp_path, "upper"), chunk("c", ["one"], "translated", "en"))
