"""A real Prometheus with the project's scrape config; asked as Grafana asks it."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.kits.cluster import HEAD, free_ports

CONFIG = Path("deploy/prometheus.yml")
DASHBOARD = Path("deploy/grafana/isogloss.json")
PROMETHEUS = shutil.which("prometheus")
_RAYS_FOLDER, _EVERY = "/tmp/ray/", "10s"  # in CONFIG


@dataclass(frozen=True)
class Prometheus:
    """A server that scrapes once a second."""

    url: str
    since: float  # Unix seconds

    def _get(self, path: str, **query: Any) -> Any:
        reply = httpx.get(f"{self.url}/api/v1/{path}", params=query, timeout=20)
        answer = reply.json()
        assert answer["status"] == "success", f"{query}: {answer['error']}"
        return answer["data"]

    def targets(self) -> dict[str, str]:
        """Health by address, of what Ray says is there."""
        return {one["labels"]["instance"]: one["health"] for one in self._get("targets")["activeTargets"]}

    def series(self, expression: str) -> list[dict[str, str]]:
        """Labels of every series that an expression gave since the start, as a panel would draw them."""
        now = time.time()
        data = self._get("query_range", query=expression, start=self.since, end=now, step=1)
        return [one["metric"] for one in data["result"]]

    def values(self, metric: str, label: str) -> set[str]:
        """What ``label_values(metric, label)`` of a dashboard's variable gives."""
        return set(self._get(f"label/{label}/values", **{"match[]": metric}))


@contextlib.contextmanager
def prometheus(folder: Path, session: Path) -> Iterator[Prometheus]:
    """Scrape the nodes that are listed in ``session``, the temporary folder of a Ray, until the block ends."""
    assert PROMETHEUS is not None
    text = CONFIG.read_text()
    assert _RAYS_FOLDER in text
    assert _EVERY in text
    config = folder / "prometheus.yml"
    config.write_text(text.replace(_RAYS_FOLDER, f"{session}/").replace(_EVERY, "1s"))
    (port,) = free_ports(1)
    url = f"http://{HEAD}:{port}"
    command = [
        PROMETHEUS, f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={HEAD}:{port}",
    ]  # fmt: skip
    since = time.time()
    log = folder / "prometheus.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 30
        while not _ready(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield Prometheus(url, since)
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)


def expressions(run: str) -> dict[str, list[str]]:
    """Every expression of the dashboard by its panel's title, as Grafana sends it for a run."""
    found: dict[str, list[str]] = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            sent = target["expr"].replace("$run", run).replace("$endpoint", ".*")
            found.setdefault(panel["title"], []).append(sent)
    return found


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
