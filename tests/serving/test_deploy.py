"""The endpoint under Serve's own config, as an operator deploys it: KubeRay's manifest, on a Ray started by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import yaml

from serving.command import run_promote, run_rollback
from tests.kits.cluster import OneNode, free_ports, one_node
from tests.kits.run import small_config
from tests.kits.serving import POLICY, in_background, write_other_model
from tests.kits.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.nightly, pytest.mark.timeout(900)]

KEYS = "the-key-of-the-tests,another-key-of-the-tests"
SERVE = Path(sys.executable).with_name("serve")
MANIFEST = yaml.safe_load(Path("deploy/kuberay/rayservice.yaml").read_text())["spec"]
# Of this machine: no GPU, few cores. Later overrides win over the manifest's.
SMALL = ("gpus_per_replica=0", "cpus_per_replica=0.5", "kv_cache_gb=0.125", "drain_s=0.3", "max_tokens=64")


@dataclass
class Deployed:
    """An application that Serve keeps."""

    cluster: OneNode
    root: Path
    run: Path
    port: int

    def serve(self, *arguments: str) -> str:
        """Serve's own command."""
        command = [str(SERVE), *arguments, "--address", self.cluster.dashboard]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=self.root, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def deploy(self, *overrides: str, **deployment: Any) -> None:
        """The manifest's own text, with other paths, ports and sizes; waits until it runs."""
        config = yaml.safe_load(MANIFEST["serveConfigV2"])
        config["http_options"]["port"] = self.port  # on all interfaces, as in a cluster: who calls needs a key
        (application,) = config["applications"]
        application["args"]["target"] = str(self.run)
        application["args"]["overrides"] += [*SMALL, *overrides]
        application["runtime_env"]["env_vars"]["ISOGLOSS_HOME"] = str(self.root)
        if deployment:
            application["deployments"] = [{"name": "policy", **deployment}]
        (self.root / "serve.yaml").write_text(yaml.safe_dump(config))
        before = self.application().get("last_deployed_time_s", 0.0)
        self.serve("deploy", str(self.root / "serve.yaml"))
        self.wait(lambda: self.running(before), "the application runs", 300)

    def application(self) -> dict[str, Any]:
        """What Serve says of it."""
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

        details = ServeSubmissionClient(self.cluster.dashboard).get_serve_details()
        found: dict[str, Any] = details["applications"].get("isogloss", {})
        return found

    def running(self, since: float) -> bool:
        """Whether what was deployed after ``since`` is up."""
        found = self.application()
        assert found.get("status") != "DEPLOY_FAILED", found["message"]
        return found.get("status") == "RUNNING" and found["last_deployed_time_s"] > since

    def status(self) -> dict[str, Any]:
        """What the coordinator writes."""
        found: dict[str, Any] = json.loads((self.run / "serving.status.json").read_text())
        return found

    def chat(self, **fields: Any) -> Any:
        """One request by the unmodified client."""
        key = fields.pop("key", KEYS.split(",")[1])
        with openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0, timeout=60
        ) as client:
            messages = [{"role": "user", "content": "Which city does Bob live in?"}]
            return client.chat.completions.create(**{"model": "run", "messages": messages, "max_tokens": 16, **fields})

    def version(self) -> str:
        """Which weights answer."""
        return str(self.chat(max_tokens=2).model_dump()["isogloss"]["version"])

    def under_load(self, work: Callable[[], None]) -> set[str]:
        """Do something while a caller asks without a break; returns the versions that answered."""
        seen: list[str] = []

        def ask() -> None:
            time.sleep(0.2)  # replicas that start need the CPUs more
            seen.append(self.version())

        with in_background(ask, 1) as failures:
            work()
        assert failures == []
        assert len(seen) > 5
        return {one for versions in seen for one in versions.split("-")}

    def wait(self, reached: Callable[[], bool], what: str, seconds: float) -> None:
        wait_until(reached, what, seconds, lambda: self.serve("status"))


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """A run folder with a checkpoint of another policy, served by one replica."""
    root = tmp_path_factory.mktemp("deploy")
    run = root / "run"
    run.mkdir()
    config = small_config(root, "run.name=run", f"model.policy={POLICY}")
    (run / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    write_other_model(run / "checkpoints" / "round-0001")
    (container,) = MANIFEST["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
    env = {"PYTHONPATH": str(Path.cwd())}  # the image has the code installed
    for variable in container["env"]:
        env[variable["name"]] = variable.get("value", KEYS)
    (port,) = free_ports(1)
    with one_node(root, 2, env) as cluster:
        found = Deployed(cluster, root, run, port)
        found.deploy()
        yield found


def test_only_who_has_a_key_is_answered(deployed: Deployed) -> None:
    assert deployed.chat().choices[0].message.content
    assert deployed.version() == "v0"
    for key in ("a-key-that-nobody-has", KEYS):
        with pytest.raises(openai.AuthenticationError):
            deployed.chat(key=key)
    with pytest.raises(openai.BadRequestError, match="1 to 64"):
        deployed.chat(max_tokens=65)
    assert httpx.get(f"http://127.0.0.1:{deployed.port}/health").json()["version"] == "v0"


def test_promotions_reach_it_also_after_its_coordinator_was_killed(
    deployed: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    def scene() -> None:
        run_promote(deployed.run, 1, False, 60)
        assert deployed.version() == "v1"
        coordinator = deployed.status()["coordinator"]["pid"]
        os.kill(coordinator, signal.SIGKILL)
        deployed.wait(lambda: deployed.status()["coordinator"]["pid"] != coordinator, "the coordinator came back", 30)
        run_rollback(deployed.run, 60)
        assert deployed.version() == "v0"

    assert deployed.under_load(scene) == {"v0", "v1"}
    assert capsys.readouterr().out.splitlines() == [
        f"{deployed.run}: {version} is served by 1 replica(s) of a Serve application" for version in ("v1", "v0")
    ]


def test_deployed_again_it_has_the_new_settings_and_no_gap(deployed: Deployed) -> None:
    before = deployed.status()

    def again() -> None:
        deployed.deploy("max_tokens=32", "min_replicas=2", "max_replicas=2", "canary_share=0.5", max_surge_percent=100)

    assert deployed.under_load(again) == {"v0"}
    with pytest.raises(openai.BadRequestError, match="1 to 32"):
        deployed.chat(max_tokens=33)
    assert not psutil.pid_exists(before["coordinator"]["pid"]), "two coordinators"
    assert not set(before["replicas"]) & set(deployed.status()["replicas"])
    run_promote(deployed.run, 1, True, 60)  # the coordinator has the new share as well
    rows = deployed.status()["replicas"].values()
    assert sorted(row["version"] for row in rows) == [0, 1]
    assert {deployed.version() for _ in range(40)} == {"v0", "v1"}


def test_shut_down_it_leaves_nothing(deployed: Deployed) -> None:
    status = deployed.status()
    pids = [status["coordinator"]["pid"], *(row["pid"] for row in status["replicas"].values())]
    assert all(psutil.pid_exists(pid) for pid in pids)
    deployed.serve("shutdown", "--yes")
    deployed.wait(lambda: not any(psutil.pid_exists(pid) for pid in pids), "coordinator and replicas ended", 60)
    state = json.loads((deployed.run / "serving.json").read_text())
    assert state["current"]["version"] == 0, "what is served is on disk, for the next endpoint"
