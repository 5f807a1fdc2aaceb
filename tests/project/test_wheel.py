"""What is installed from a wheel works without the repository: presets by name, the embedded world, wordings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from configs.yaml12 import load_yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("actors", "configs", "evaluation", "judges", "learners", "rollout", "serving", "worlds")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy, so that nothing is left in the working tree; no network is asked."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "cli.py"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(source))
    (built,) = out.glob("isogloss-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--target", str(target), str(wheel))
    return target


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments, "--no-index"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def run(arguments: Sequence[str], cwd: Path, *path: Path, code: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the installed command (or ``code``) with ``path`` before everything else that Python finds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-c", code] if code else [str(path[-1] / "bin" / "isogloss"), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_the_wheel_holds_every_file_of_its_packages(wheel: Path) -> None:
    ours = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
    assert ours - held == set()
    assert held - ours == {"cli.py"}


@pytest.mark.parametrize("name", ["demo", "configs/icr.yaml", "offline"])
def test_a_preset_runs_by_name_from_another_folder(installed: Path, tmp_path: Path, name: str) -> None:
    done = run(["train", name, "--dry-run"], tmp_path, installed)
    assert done.returncode == 0, done.stderr
    policy = next(line.split(": ")[1] for line in done.stdout.splitlines() if line.strip().startswith("policy: "))
    assert policy.startswith(str(installed))
    assert (Path(policy) / "model.safetensors").is_file()
    assert list(tmp_path.iterdir()) == []


def test_a_strangers_config_extends_a_method_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    world = installed / "worlds/default"
    (tmp_path / "mine.yaml").write_text(
        f"extends: methods/lidr.yaml\nmodel: {{policy: {world}/policy, max_length: 256}}\n"
        f"languages: {{codes: [en, de]}}\nprompts: {{train: '{world}/prompts/train/{{lang}}.jsonl'}}\n"
        "rollout: {max_new_tokens: 32}\ncandidates: {translation_max_new_tokens: 32}\n",
        encoding="utf-8",
    )
    done = run(["train", "mine.yaml", "--dry-run"], tmp_path, installed)
    assert done.returncode == 0, done.stderr
    assert "kind: cross_language" in done.stdout


def test_wordings_and_the_world_suite_are_found(installed: Path, tmp_path: Path) -> None:
    code = """
import configs, cli
from judges.wording import load_wording
from evaluation.suites.read import load_suite
suite = load_suite("world", None, languages=("de", "sw"))
print([configs.__file__, load_wording("label").name, load_wording("reasoned").name, len(suite.items)])
"""
    done = run([], tmp_path, installed, code=code)
    assert done.returncode == 0, done.stderr
    assert load_yaml(done.stdout, "out") == [str(installed / "configs/__init__.py"), "label", "reasoned", 284]


def test_another_package_of_the_same_name_is_named(installed: Path, tmp_path: Path) -> None:
    for room in ("configs", "serving"):
        hiding = tmp_path / room
        hiding.mkdir()
        (hiding / room).mkdir()
        (hiding / room / "__init__.py").write_text("", encoding="utf-8")
        done = run(["train", "demo", "--dry-run"], tmp_path, hiding, installed)
        assert done.returncode == 2
        assert done.stderr == (
            f"isogloss: its package '{room}' is hidden by another of that name, {hiding / room / '__init__.py'}; "
            "install isogloss in an environment of its own, or take what hides it off PYTHONPATH\n"
        )
