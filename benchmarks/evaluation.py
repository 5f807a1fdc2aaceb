"""How long a repeated evaluation takes: 805 prompts in six languages, two models, answers and verdicts kept.

``python -m benchmarks.evaluation [FOLDER]``. Answers of about 1500 characters are made of the embedded world's
sentences and put into the cache as if two models had made them; verdicts come once from a small judge's server on the
loopback interface. Then ``isogloss eval`` runs as a fresh process: first with the languages of the answers still to be
detected, then with everything known. Asserts that no process imported Ray, vLLM or torch, and that results are equal.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from evaluation.suites.cache import EvalCache
from evaluation.suites.detect import KIND
from evaluation.suites.read import load_suite
from evaluation.suites.records import Answer, Decoding, SuiteItem
from evaluation.suites.weights import model_checksum
from rollout.seeds import stable_seed

LANGUAGES = ("de", "en", "es", "fr", "ru", "sw")
PROMPTS = 805
_LINES = 45  # of an answer
_CODE = (
    "import sys\nfrom cli import app\n"
    "app(sys.argv[1:], standalone_mode=False)\n"
    "assert not {'ray', 'vllm', 'torch'} & set(sys.modules)\n"
)


class _Judge(BaseHTTPRequestHandler):
    """The longer answer is better."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answers = re.findall(r"<answer_[AB]>\n(.*?)\n</answer_[AB]>", body["messages"][-1]["content"], re.DOTALL)
        label = "A" if len(answers[0]) >= len(answers[1]) else "B"
        message = {"role": "assistant", "content": label}
        payload: dict[str, Any] = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
        data = json.dumps(payload).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def main(folder: Path) -> None:
    """Build the caches, then time the command."""
    lines = {
        code: [item.gold or "" for item in load_suite("world", None, languages=[code]).items] for code in LANGUAGES
    }
    for code in LANGUAGES:
        rows = [{"id": n, "instruction": f"{lines[code][n % 192]} ({n})"} for n in range(PROMPTS)]
        path = folder / "prompts" / f"{code}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows), encoding="utf-8")
    suite = load_suite("x-alpacaeval", str(folder / "prompts"))
    decoding = Decoding(0.0, 1.0, 1024, "float32", False, 0)
    with EvalCache.open(folder / "cache" / "eval.sqlite") as cache:
        for name in ("one", "two"):
            checksum = model_checksum(_model(folder / name), cache)
            cache.put_answers(
                {decoding.key(checksum, item): _answer(name, item, lines[item.language]) for item in suite.items}
            )
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Judge)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    judge = folder / "judge.yaml"
    judge.write_text(f"base_url: http://127.0.0.1:{server.server_address[1]}/v1\nmodel: longer\n", encoding="utf-8")
    seconds = [_timed(folder, "judging")]
    server.shutdown()
    server.server_close()  # from here on nobody could answer a question
    with EvalCache.open(folder / "cache" / "eval.sqlite") as cache:
        cache.forget(KIND)
    first = json.loads((folder / "out" / "result.json").read_text(encoding="utf-8"))
    for what in ("answers and verdicts kept", "languages kept too"):
        seconds.append(_timed(folder, what))
        again = json.loads((folder / "out" / "result.json").read_text(encoding="utf-8"))
        assert again["figures"] == first["figures"]
        assert again["model"]["generated"] == again["against"]["generated"] == 0
    length = sum(figure["value"] for figure in first["figures"] if figure["name"] == "length") / (len(LANGUAGES) + 1)
    print(f"{len(suite.items)} prompts, {length:.0f} characters an answer")


def _model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(folder.name.encode())
    return folder


def _answer(name: str, item: SuiteItem, lines: list[str]) -> Answer:
    place = stable_seed(name, item.id) % len(lines)
    chosen = [lines[(place + k) % len(lines)] for k in range(_LINES + place % 5)]
    text = "\n".join(" ".join(chosen[k : k + 4]) for k in range(0, len(chosen), 4))
    return Answer(text, "stop", len(text) // 4)


def _timed(folder: Path, what: str) -> float:
    arguments = ["eval", str(folder / "one"), "--suite", "x-alpacaeval", "--data", str(folder / "prompts")]
    arguments += ["--against", str(folder / "two"), "--judge", str(folder / "judge.yaml")]
    arguments += ["--cache", str(folder / "cache"), "--out", str(folder / "out"), "--format", "md"]
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", _CODE, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=500)
    seconds = time.perf_counter() - begun
    print(f"{what}: {seconds:.1f} s", flush=True)
    return seconds


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
