"""Pushing a checkpoint: the real client against a stand-in of the Hub's routes for commits; and the model card."""

from __future__ import annotations

import base64
import http.server
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from configs.errors import UserError
from configs.load import dump_yaml
from configs.yaml12 import load_yaml
from evaluation.model_card import model_card
from rollout.hub_push import pushed_checkpoint, pushed_files
from tests.kits.run import small_config
from tests.kits.stand_in import stand_in

POLICY = Path("worlds/default/policy")
SNAPSHOT = "/home/me/.cache/hub/models--owner--base/snapshots/" + "a" * 40


COMMITS: list[dict[str, bytes]] = []
STORED: dict[str, bytes] = {}  # what was uploaded apart, by its SHA-256
MADE: list[dict[str, object]] = []  # repositories


class StandIn(http.server.BaseHTTPRequestHandler):
    """owner/mine takes commits with the token ``good``, owner/other is somebody else's; all else is missing."""

    def log_message(self, *args: object) -> None:
        pass

    def do_PUT(self) -> None:
        STORED[self.path.rpartition("/")[2]] = self._body()
        self._send({})

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path.strip("/"), self._body()
        if path == "api/validate-yaml":
            return self._send({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != "Bearer good":
            return self._send({"error": "Invalid credentials in Authorization header"}, 401)
        if path == "api/repos/create":
            MADE.append(json.loads(body))
            return self._send({"url": f"http://{self.headers['Host']}/owner/new"})
        repo = "/".join(path.removeprefix("api/models/").removesuffix(".git/info/lfs/objects/batch").split("/")[:2])
        if repo == "owner/other":
            return self._send({"error": "forbidden"}, 403)
        if repo not in ("owner/mine", "owner/new"):
            return self._send({}, 404, {"X-Error-Code": "RepoNotFound"})
        if path.endswith("objects/batch"):
            wanted = json.loads(body)["objects"]
            url = f"http://{self.headers['Host']}/store"
            return self._send({
                "transfer": "basic",
                "objects": [{**one, "actions": {"upload": {"href": f"{url}/{one['oid']}"}}} for one in wanted],
            }, kind="application/vnd.git-lfs+json")  # fmt: skip
        if "/preupload/" in path:
            files = [one["path"] for one in json.loads(body)["files"]]
            modes = [(name, "lfs" if name.endswith(".safetensors") else "regular") for name in files]
            return self._send({"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes]})
        COMMITS.append(committed(body))
        return self._send(
            {
                "commitUrl": f"http://{self.headers['Host']}/{repo}/commit/1",
                "commitOid": "1" * 40,
                "pullRequestUrl": None,
            }
        )

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(
        self, value: object, status: int = 200, headers: dict[str, str] | None = None, kind: str = "application/json"
    ) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {**(headers or {}), "Content-Type": kind, "Content-Length": str(len(data))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)


def committed(body: bytes) -> dict[str, bytes]:
    """The files of a commit, those that were uploaded apart among them."""
    found = {}
    for item in map(json.loads, body.splitlines()):
        value = item["value"]
        if item["key"] == "file":
            found[value["path"]] = base64.b64decode(value["content"])
        elif item["key"] == "lfsFile":
            found[value["path"]] = STORED[value["oid"]]
    return found


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with stand_in(StandIn) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two rounds, with what only a resume reads beside its newest policy."""
    folder = tmp_path / "runs" / "mine"
    newest = folder / "checkpoints" / "round-0002"
    newest.mkdir(parents=True)
    for file in POLICY.iterdir():
        (newest / file.name).write_bytes(file.read_bytes())
    (newest / "trainer").mkdir()
    (newest / "trainer" / "optimizer.pt").write_bytes(b"not pushed")
    (folder / "policy").symlink_to("checkpoints/round-0002")
    config = small_config(tmp_path / "runs", "run.name=mine", "judge.base_url=http://secret.example/v1")
    (folder / "config.yaml").write_text(dump_yaml(config))
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    return folder


def side(greedy: float, sampled: float, right: float, length: float) -> dict[str, float]:
    names = ("accuracy_greedy", "accuracy_sampled", "right_language", "mean_length")
    return dict(zip(names, (greedy, sampled, right, length), strict=True))


SUMMARY = {
    "weight_version": 2,
    "languages": {
        "sw": {
            "start": side(0.25, 0.2, 0.9, 30.4),
            "end": side(0.5, 0.45, 1.0, 29.6),
            "delta_ci95": [0.1, 0.4],
            "greedy_delta_ci95": None,
        }
    },
}


def push(run: Path, repo: str, endpoint: str, *options: str, token: str | None = "good") -> tuple[int, str, str]:
    env = {**os.environ, "HF_HOME": str(run.parent / "home"), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1",
           "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
    env.pop("HF_TOKEN", None)
    env.pop("HF_HUB_OFFLINE", None)
    if token is not None:
        env["HF_TOKEN"] = token
    command = [sys.executable, "-m", "cli", "push", str(run), repo, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)
    return done.returncode, done.stdout, done.stderr


def test_a_checkpoint_arrives_whole_with_its_card(run: Path, endpoint: str) -> None:
    status, said, errors = push(run, "owner/mine", endpoint)
    assert (status, errors) == (0, "")
    assert said.endswith(f"pushed: {endpoint}/owner/mine/commit/1\n")
    (commit,) = COMMITS
    card = commit.pop("README.md").decode()
    assert commit == {file.name: file.read_bytes() for file in POLICY.iterdir()}
    assert "| sw | 25.0 | 50.0 | – | 20.0 | 45.0 | +10.0 to +40.0 | 90.0 | 100.0 | 30 | 30 |" in card
    head = load_yaml(card.split("---")[1], "card")
    assert head == {
        "language": ["en", "es", "sw"], "library_name": "transformers", "pipeline_tag": "text-generation",
        "tags": ["isogloss", "preference-alignment", "sigmoid"],
    }  # fmt: skip
    assert "secret.example" not in card
    assert str(run.parent) not in card
    status, said, _ = push(run, "owner/new", endpoint, "--create")
    assert status == 0
    assert MADE == [{"name": "new", "organization": "owner", "visibility": "private"}]


def test_what_cannot_be_pushed_ends_in_one_line(run: Path, endpoint: str) -> None:
    before = len(COMMITS)
    away = "http://127.0.0.1:9"
    for repo, where, token, message in (
        ("owner/mine", endpoint, None, "owner/mine: there is no token; set HF_TOKEN to one that may write, or run"),
        ("owner/mine", endpoint, "bad", "owner/mine: cannot be written: the Hub does not know the token; set HF_T"),
        ("owner/gone", endpoint, "good", "owner/gone: is no model repository that the token can see; correct the name"),
        ("owner/other", endpoint, "good", "owner/other: may not be written with this token; set HF_TOKEN to one"),
        ("owner/mine", away, "good", "owner/mine: cannot be reached ("),
        ("mine", endpoint, "good", "mine: is no repository's name; write owner/name"),
    ):  # fmt: skip
        status, _, errors = push(run, repo, where, token=token)
        assert (status, errors.count("\n")) == (2, 1), errors
        assert errors.startswith(f"isogloss: {message}")
    status, said, errors = push(run, "owner/gone", away, "--dry-run", token=None)
    assert (status, errors) == (0, "")
    assert "# gone\n" in said
    assert "  model.safetensors  4.7 MB\n" in said
    assert said.endswith("would be pushed to owner/gone; nothing was sent\n")
    assert len(COMMITS) == before


def test_a_run_without_a_checkpoint(run: Path, tmp_path: Path) -> None:
    folder, version = pushed_checkpoint(run)
    assert (folder.name, version) == ("round-0002", 2)
    assert [path.name for path in pushed_files(folder)] == sorted(path.name for path in POLICY.iterdir())
    (run / "policy").unlink()
    with pytest.raises(UserError, match="mine: has no checkpoint to push; train a round first, or restore"):
        pushed_checkpoint(run)
    with pytest.raises(UserError, match="no config.yaml in it; name a run folder"):
        pushed_checkpoint(tmp_path)


def test_a_card_names_the_model_it_came_from(tmp_path: Path) -> None:
    config = small_config(tmp_path, f"model.policy={SNAPSHOT}", "languages.codes=[en, no]", "evaluation.languages=[]",
                          "prompts.train=/data/secret/prompts/{lang}.jsonl", "prompts.heldout=null")  # fmt: skip
    card = model_card(config, None, 1, "owner/name")
    head = load_yaml(card.split("---")[1], "card")
    assert isinstance(head, dict)
    assert head["base_model"] == "owner/base"
    assert head["language"] == ["en", "no"]
    assert "`owner/base` after 1 round(s)" in card
    assert "not evaluated on held-out prompts" in card
    assert "| `prompts.train` | `prompts/{lang}.jsonl` |" in card
    assert f"hf:owner/base@{'a' * 40}" in card
    assert "/data/secret" not in card
