"""Names on the Hub: the real client against a local stand-in that speaks the Hub's routes."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from configs.errors import UserError
from rollout.hub import HubName, parse
from tests.kits.stand_in import stand_in

COMMITS = {"main": "a" * 40, "v2": "b" * 40}
FILES = {
    "model": {"config.json": b"{}", "weights.h5": b"not read", "tokenizer.json": b"{}"},
    "dataset": {"sw/test.jsonl": b'{"id": 1, "prompt": "Habari?"}\n', "en/test.jsonl": b'{"id": 1, "prompt": "Hi?"}\n',
                "notes.txt": b"x"},
}  # fmt: skip


class StandIn(http.server.BaseHTTPRequestHandler):
    """owner/open can be read, owner/gated not, owner/old has no revision but main; all else is missing."""

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        kind = "dataset" if path.startswith(("api/datasets/", "datasets/")) else "model"
        parts = path.removeprefix("api/").removeprefix("datasets/").removeprefix("models/").split("/")
        repo, verb, rest = "/".join(parts[:2]), parts[2] if len(parts) > 2 else "", parts[3:]
        if repo == "owner/gated":
            return self._error(403, "GatedRepo")
        if repo != "owner/open":
            return self._error(404, "RepoNotFound")
        revision = rest[0] if rest else "main"
        commit = COMMITS.get(revision, revision)
        if commit not in COMMITS.values():
            return self._error(404, "RevisionNotFound")
        files = FILES[kind]
        if verb == "resolve":
            data = files["/".join(rest[1:])]
            return self._send(data, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})
        if verb == "tree":
            found = [
                {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                for n, d in files.items()
            ]
            return self._send(json.dumps(found).encode(), {"Content-Type": "application/json"})
        info = {"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files], "private": False}
        return self._send(json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str) -> None:
        self._send(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, status)

    def _send(self, data: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with stand_in(StandIn) as port:
        yield f"http://127.0.0.1:{port}"


SCRIPT = """
import json, sys
from pathlib import Path
from configs.errors import UserError
from configs.load import dump_yaml, load_config
from rollout.hub import resolved
out = []
for overrides in json.loads(sys.argv[1]):
    try:
        config = resolved(load_config(Path("configs/demo.yaml"), overrides))
        run = config.run.dir / config.run.name
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text(dump_yaml(config))
        out.append([str(config.model.policy), str(config.prompts.train)])
    except UserError as error:
        out.append(str(error))
print(json.dumps(out))
"""


SUITES = """
import json, sys
from configs.errors import UserError
from evaluation.suites.read import load_suite
out = []
for name, data in json.loads(sys.argv[1]):
    try:
        out.append({code: [item.prompt for item in load_suite(name, data).of(code)] for code in ("en", "sw")})
    except UserError as error:
        out.append(str(error))
print(json.dumps(out))
"""


def test_suites_by_name(tmp_path: Path, endpoint: str) -> None:
    mine, other, missing = resolve(
        tmp_path / "home", endpoint, ["custom", "hf:owner/open"], ["aya", "hf:owner/open"], ["aya", None], script=SUITES
    )
    assert mine == {"en": ["Hi?"], "sw": ["Habari?"]}
    assert "test.jsonl: has no column inputs, targets, which rows of CohereLabs/aya_evaluation_suite" in str(other)
    assert str(missing).startswith("--suite aya: CohereLabs/aya_evaluation_suite is no dataset there, or a private one")


def resolve(home: Path, endpoint: str, *cases: list[Any], script: str = SCRIPT) -> list[Any]:
    """What the client of a fresh process makes of configs; it reads its settings when it is imported."""
    env = {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}
    env.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", script, json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=env)
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_names_become_snapshots_once_and_are_there_offline(tmp_path: Path, endpoint: str) -> None:
    home = tmp_path / "home"
    run = [f"run.dir={tmp_path}/runs", "run.name=mine"]
    names = ["model.policy=hf:owner/open", "prompts.train='hf:owner/open:{lang}/test.jsonl'"]
    ((policy, train),) = resolve(home, endpoint, [*run, *names])
    assert policy == str(home / "hub" / "models--owner--open" / "snapshots" / COMMITS["main"])
    assert sorted(path.name for path in Path(policy).iterdir()) == ["config.json", "tokenizer.json"]
    assert train == str(home / "hub" / "datasets--owner--open" / "snapshots" / COMMITS["main"] / "{lang}/test.jsonl")
    assert Path(train.replace("{lang}", "sw")).read_text().startswith('{"id": 1')
    assert not (
        Path(policy).parents[2] / "datasets--owner--open" / "snapshots" / COMMITS["main"] / "notes.txt"
    ).exists()
    # The branch has moved since: the run that is there keeps its commit, a new one gets the other. Nothing answers now.
    moved = COMMITS["main"]
    COMMITS["main"] = "c" * 40
    try:
        again, other = resolve(home, endpoint, [*run, *names], [run[0], "run.name=new", *names])
        assert again == [policy, train]
        assert COMMITS["main"] in other[0]
    finally:
        COMMITS["main"] = moved
    assert resolve(home, "http://127.0.0.1:9", [*run, *names]) == [[policy, train]]


def test_what_cannot_be_had_ends_in_one_line(tmp_path: Path, endpoint: str) -> None:
    run = [f"run.dir={tmp_path}/runs"]
    cases = ["hf:owner/gated", "hf:owner/missing", "hf:owner/open@v9", "hf:owner/open@v2", "hf:owner"]
    found = resolve(
        tmp_path / "home", endpoint, *([*run, f"run.name=r{n}", f"model.policy={c}"] for n, c in enumerate(cases))
    )
    gated, missing, revision, good, name = found
    assert str(gated).startswith(
        "model.policy: owner/gated is gated; accept its terms at its page on the Hub and set HF_TO"
    )
    assert str(missing).startswith(
        "model.policy: owner/missing is no model there, or a private one; correct the name, or"
    )
    assert revision == "model.policy: owner/open has no revision v9; correct what stands after @"
    assert isinstance(good, list)
    assert good[0].endswith("b" * 40)
    assert str(name).startswith("model.policy: hf:owner is no name on the Hub; write hf:owner/name")
    (away,) = resolve(tmp_path / "empty", "http://127.0.0.1:9", [*run, "run.name=x", "model.policy=hf:owner/open"])
    assert str(away).startswith("model.policy: owner/open cannot be reached and is not in the local cache; connect")


def test_the_parts_of_a_name() -> None:
    assert parse("hf:a/b-c.d@refs/pr/1:data/{lang}", "f") == HubName("a/b-c.d", "refs/pr/1", "data/{lang}")
    for bad in ("hf:", "hf:a", "hf:a/b/c", "hf:a/b:../x", "hf:a/b@"):
        with pytest.raises(UserError, match="f: .* is no name on the Hub"):
            parse(bad, "f")
