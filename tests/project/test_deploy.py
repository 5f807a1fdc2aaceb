"""The files of deploy/, as far as they can be checked without Kubernetes, Docker, a cluster or Grafana."""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from actors.observe.telemetry import METRICS, exported_names
from actors.runtime.env import ingress_env
from cli import app
from configs.load import load_config
from tests.kits import promql

DEPLOY = Path("deploy")
SCHEMA = json.loads(Path("tests/data/kuberay.schema.json").read_text())
MANIFESTS = sorted((DEPLOY / "kuberay").glob("*.yaml"))


def manifest(name: str) -> Any:
    return yaml.safe_load((DEPLOY / "kuberay" / f"{name}.yaml").read_text())


def problems(document: Any) -> list[str]:
    """What Kubernetes' API server would refuse."""
    schema = {**SCHEMA, "$ref": f"#/definitions/{document['kind']}"}
    return [f"{e.json_path}: {e.message}" for e in jsonschema.Draft202012Validator(schema).iter_errors(document)]


def pods(document: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    spec = document["spec"]
    cluster = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
    for name, group in [
        ("head", cluster["headGroupSpec"]),
        *((g["groupName"], g) for g in cluster["workerGroupSpecs"]),
    ]:
        yield name, group["template"]["spec"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_are_what_kuberay_takes(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    assert problems(document) == []
    for name, pod in pods(document):
        volumes = {volume["name"] for volume in pod["volumes"]}
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) <= volumes, f"{name}: a mount without its volume"
        assert mounts["shared"] == "/shared", f"{name}: the run folder would be lost with the pod"
        assert container["image"].startswith("isogloss:")


def test_a_misspelt_field_is_found() -> None:
    document = manifest("rayjob")
    wrong = copy.deepcopy(document)
    wrong["spec"]["shutdownAfterJobFinish"] = True
    wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["imagePolicy"] = "x"
    wrong["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    found = "\n".join(problems(wrong))
    assert "shutdownAfterJobFinish" in found
    assert "imagePolicy" in found
    assert "0 is not of type 'string'" in found


def test_ray_versions_agree() -> None:
    pinned = re.search(r'"ray\[[^"]*\]==([\d.]+)"', Path("pyproject.toml").read_text())
    assert pinned
    for path in MANIFESTS:
        spec = yaml.safe_load(path.read_text())["spec"]
        assert (spec.get("rayClusterSpec") or spec["rayClusterConfig"])["rayVersion"] == pinned[1]


def test_rayjob_runs_a_preset_that_fits_its_pods(tmp_path: Path) -> None:
    document = manifest("rayjob")
    words = shlex.split(document["spec"]["entrypoint"])
    assert words[:2] == ["isogloss", "train"]
    assert words[-1] == "--resume-or-start"
    (home,) = [found[0] for name, found in instructions() if name == "WORKDIR"]
    preset = str(Path(words[2]).relative_to(home))
    config = load_config(Path(preset), words[3:-1])
    assert str(config.run.dir).startswith("/shared/")
    assert str(config.model.policy).startswith("/shared/")
    groups = document["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    nodes = [
        {
            "name": group["groupName"],
            "count": group["replicas"],
            "cpus": float(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]),
            "gpus": float(group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0)),
        }
        for group in groups
    ]
    described = tmp_path / "pods.yaml"
    described.write_text(yaml.safe_dump({"nodes": nodes}))
    done = CliRunner().invoke(app, ["train", preset, "--dry-run", "--cluster", str(described)])
    assert done.exit_code == 0, done.output
    assert "learner x 8" in done.output


def test_rayservice_names_an_application_that_exists() -> None:
    config = yaml.safe_load(manifest("rayservice")["spec"]["serveConfigV2"])
    module, _, builder = config["applications"][0]["import_path"].partition(":")
    place = Path(*module.split(".")).with_suffix(".py")
    assert re.search(rf"^def {builder}\(", place.read_text(), re.MULTILINE)


def instructions() -> list[tuple[str, list[str]]]:
    """The Dockerfile as (instruction, words), continued lines joined."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(line.split()[0].upper(), line.split()[1:]) for line in lines]


def test_dockerfile_is_sound() -> None:
    known = {"ARG", "FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "ENTRYPOINT", "CMD"}
    found = instructions()
    assert {name for name, _ in found} <= known
    # One stage: builders other than Docker's do not follow a stage that is named by an argument.
    (image,) = [words for name, words in found if name == "FROM"]
    assert re.fullmatch(r"\S+:\S+", " ".join(image)), "an image without a tag"
    assert ["STACK=cpu"] in [words for name, words in found if name == "ARG"]
    assert [words for name, words in found if name == "USER"][-1] != ["root"], "runs as root"
    text = " ".join(" ".join(words) for _, words in found)
    assert not re.search(r"(?i)(token|password|secret|key)=[\w-]{8,}", text), "a secret in the image"


def test_image_and_docs_start_haproxy_as_isogloss_does() -> None:
    wanted = ingress_env(Path(sys.executable).with_name("isogloss-haproxy"))
    set_in_image = {}
    for name, words in instructions():
        if name == "ENV":
            text = " ".join(words)
            set_in_image.update({key: quoted or plain for key, quoted, plain in
                                 re.findall(r'(\w+)=(?:"([^"]*)"|(\S+))', text)})  # fmt: skip
    found = {name: value for name, value in set_in_image.items() if name.startswith("RAY_SERVE")}
    assert found.pop("RAY_SERVE_HAPROXY_BINARY_PATH") == "/opt/venv/bin/isogloss-haproxy"
    assert len(found) == 4
    assert found.items() <= wanted.items()
    exported = Path("docs/cluster.md").read_text()
    for name, value in found.items():
        assert f'{name}="{value}"' in exported or f"{name}={value}" in exported


def test_dockerfile_copies_what_exists_and_is_sent() -> None:
    first, *rest = Path(".dockerignore").read_text().split()
    assert first == "*", "everything is sent that is not ignored"
    sent = {rule[1:] for rule in rest if rule.startswith("!")}
    copied: set[str] = set()
    for name, words in instructions():
        if name == "COPY":
            paths = [word for word in words[:-1] if not word.startswith("--")]
            copied.update(path.replace("${STACK}", stack) for path in paths for stack in ("cpu", "cuda"))
    for path in copied:
        assert Path(path).exists(), f"COPY {path}: no such file"
        assert path == "." or path.split("/")[0] in sent, f"{path}: ignored"
    include = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    needed = {name.removesuffix("*") for name in include} | {"cli.py", "pyproject.toml"}
    assert len(needed) == 10
    assert needed <= sent, f"the image lacks {needed - sent}"
    assert "." in copied


def test_image_has_what_the_project_needs_of_python() -> None:
    (image,) = [words[0] for name, words in instructions() if name == "FROM"]
    version = re.fullmatch(r"python:(\d+\.\d+)-slim-\w+", image)
    assert version
    assert version[1] == "3.11"


def test_dashboard_draws_every_metric_of_the_table_and_no_other() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "isogloss.json").read_text())
    texts = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    drawn = {name for text in texts for name in re.findall(r"ray_\w+", text)}
    known = {name: exported_names(name) for name in METRICS}
    assert drawn <= {name for names in known.values() for name in names}, "drawn, but not defined"
    missing = [metric for metric, names in known.items() if not drawn & set(names)]
    assert missing == [], "defined, but not drawn"
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            labels = promql.check(target["expr"])
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= labels, f"{panel['title']}: legend {shown - labels}"
    asked = {name for text in texts for name in re.findall(r"\$(\w+)", text)}
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert asked <= set(variables), "a variable that the dashboard has not"
    for name in asked:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variables[name]["query"]).groups()  # type: ignore[union-attr]
        assert label in promql.kinds()[metric][1]
    boxes = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [(x, y) for b in boxes for x in range(b["x"], b["x"] + b["w"]) for y in range(b["y"], b["y"] + b["h"])]
    assert len(cells) == len(set(cells)), "panels overlap"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('ray_isogloss_round{runs="x"}', "runs is no label"),
        ("ray_isogloss_rund", "not exported"),
        ("rate(ray_isogloss_round[1m])", "no counter"),
        ("rate(ray_isogloss_pairs_total)", "no counter over a time"),
        ("ray_isogloss_pairs_total[1m]", "no series"),
        ("sum by (gate) (ray_isogloss_pairs_total)", "sum by"),
        ("histogram_quantile(0.5, sum by (run) (ray_isogloss_sync_seconds_bucket))", "no le"),
        ("sum by (language) (ray_isogloss_pairs_total) / sum(ray_isogloss_pairs_total)", "never match"),
        ("sum(ray_isogloss_pairs_total", "ends too early"),
        ("sum(ray_isogloss_pairs_total))", "left over"),
    ],
)
def test_wrong_expressions_are_found(text: str, message: str) -> None:
    with pytest.raises(promql.Wrong, match=message):
        promql.check(text)


def test_prometheus_reads_the_file_that_ray_writes() -> None:
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    (files,) = config["scrape_configs"][0]["file_sd_configs"]
    assert Path(files["files"][0]).name == PROMETHEUS_SERVICE_DISCOVERY_FILE
    for path in (DEPLOY / "grafana" / "provisioning").rglob("*.yml"):
        assert yaml.safe_load(path.read_text())["apiVersion"] == 1
    if promtool := shutil.which("promtool"):
        command = [promtool, "check", "config", "--lint-fatal", str(DEPLOY / "prometheus.yml")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
