"""Submitting a run, up to the first request: ids, addresses, what is uploaded, where a job's run folder lands."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from actors.jobs.job import HOME, IN_JOB, SUBMITTED_FROM, adapt_to_job
from actors.jobs.submit import RECONNECTS, Follower, Job, cluster_address, entrypoint, follow, free_job_id, within
from actors.jobs.upload import LIMIT_MIB, check_inputs_travel, check_upload, list_upload
from cli import app
from configs.errors import UserError
from configs.load import load_config
from configs.schema import Config
from tests.kits.imports import check_left_out
from tests.kits.run import ISOGLOSS

JOB = {IN_JOB: "{}"}
NOBODY = "http://127.0.0.1:9"


def config(*overrides: str) -> Config:
    return load_config(Path("configs/demo.yaml"), overrides)


# --- inside a job -------------------------------------------------------------------------------------------------


def test_outside_of_a_job_nothing_changes(tmp_path: Path) -> None:
    plain = config()
    assert adapt_to_job(plain, {HOME: str(tmp_path)}, tmp_path) is plain


def test_job_joins_its_cluster_and_its_runs_outlast_the_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload, home, desk = (tmp_path / name for name in ("upload", "home", "desk"))
    desk.mkdir()
    monkeypatch.setenv("HOME", str(home))
    found = adapt_to_job(config(), JOB, upload)
    assert (found.run.dir, found.cluster.address) == (home / "isogloss" / "runs", "auto")
    submitted = {**JOB, SUBMITTED_FROM: str(desk)}
    assert adapt_to_job(config(), submitted, upload).run.dir == desk / "runs"
    gone = {**JOB, SUBMITTED_FROM: str(tmp_path / "not on this node")}
    assert adapt_to_job(config(), gone, upload).run.dir == home / "isogloss" / "runs"
    volume = {**submitted, HOME: str(tmp_path / "volume")}
    assert adapt_to_job(config(), volume, upload).run.dir == tmp_path / "volume" / "runs"
    absolute = adapt_to_job(config("run.dir=/shared/runs", "cluster.address=other:6379"), volume, upload)
    assert (absolute.run.dir, absolute.cluster.address) == (Path("/shared/runs"), "other:6379")


def test_run_folder_inside_the_upload_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.dir: .* Ray deletes; name a folder"):
        adapt_to_job(config(f"run.dir={tmp_path}/runs"), JOB, tmp_path)


# --- what is sent ---------------------------------------------------------------------------------------------------


def test_upload_of_this_repository_is_small_and_has_all_that_a_run_needs() -> None:
    upload = list_upload(Path.cwd())
    check_upload(upload, 20)
    for path in ("cli.py", "actors/train/driver.py", "configs/icr.yaml", "worlds/default/policy/model.safetensors"):
        assert path in upload
    for path in ("tests", ".git", ".venv", "runs", "docs"):
        assert path not in upload
    assert check_inputs_travel(config(), Path("configs/demo.yaml"), upload) == "configs/demo.yaml"


def test_too_large_an_upload_names_the_largest_files(tmp_path: Path) -> None:
    for name, mib in (("model.bin", 90), ("data/big.jsonl", 20), ("small.txt", 0), (".venv/lib.so", 300)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.truncate(mib * 2**20)
    with pytest.raises(UserError) as caught:
        check_upload(list_upload(tmp_path))
    lines = str(caught.value).splitlines()
    assert f"110 MiB in 3 files, more than {LIMIT_MIB}" in lines[0]
    assert ".rayignore" in lines[0]
    assert [line.split()[-1] for line in lines[1:3]] == ["model.bin", "data/big.jsonl"]
    (tmp_path / ".rayignore").write_text("*.bin\n")
    check_upload(list_upload(tmp_path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.policy=runs/models/mine", r"model\.policy: runs/models/mine does not exist, .* absolute path"),
        ("model.policy=tests/data", r"model\.policy: tests/data is left out of the upload"),
        ("prompts.train=../{lang}.jsonl", r"prompts\.train \(en\): \.\./en\.jsonl does not exist"),
        ("evaluation.languages=[zz]", r"prompts\.heldout \(zz\): .* does not exist"),
        ("reward={kind: reward_model, model: runs/rm}", r"reward\.model: runs/rm does not exist"),
        ("serve={api_keys_file: keys.txt}", r"serve\.api_keys_file: keys\.txt does not exist"),
        ("model.policy=/shared/models/mine", None),
    ],
)
def test_inputs_that_the_job_would_not_find_are_refused(override: str, message: str | None) -> None:
    upload = list_upload(Path.cwd())
    if message is None:
        check_inputs_travel(config(override), Path("configs/demo.yaml"), upload)
        return
    with pytest.raises(UserError, match=message):
        check_inputs_travel(config(override), Path("configs/demo.yaml"), upload)


def test_answers_and_word_lists_travel_as_well(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "model: {policy: /shared/m}\n"
        "languages: {dominant: en, codes: [en, es]}\n"
        "prompts: {train: '/shared/{lang}.jsonl'}\n"
        "candidates: {sources: [{kind: policy}, {kind: file, name: human, languages: [es], path: 'a/{lang}.jsonl'}]}\n"
        "reward: {kind: terms, terms: {known: {kind: words, files: {es: es.txt}}}}\n"
    )
    with chdir(tmp_path):
        for path, field in (
            ("es.txt", r"reward\.terms\.known\.files\.es"),
            ("a/es.jsonl", r"candidates\.sources\.1\.path \(es\)"),
        ):
            with pytest.raises(UserError, match=rf"{field}: {path} does not exist, so the job would not find it"):
                check_inputs_travel(load_config(mine), mine, list_upload(tmp_path))
            Path(path).parent.mkdir(exist_ok=True)
            Path(path).write_text("x")
        assert check_inputs_travel(load_config(mine), mine, list_upload(tmp_path)) == "mine.yaml"


def test_config_from_elsewhere_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "mine.yaml"
    elsewhere.write_text("x: 1")
    with pytest.raises(UserError, match=r"mine\.yaml: is not below .*; copy it there"):
        check_inputs_travel(config(), elsewhere, list_upload(Path.cwd()))


def test_what_a_config_extends_and_preferences_travel_as_well(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "pairs").mkdir(parents=True)
    (project / "pairs" / "es.jsonl").write_text("{}")
    (tmp_path / "base.yaml").write_text("model: {policy: /shared/m}\noffline: {path: 'pairs/{lang}.jsonl'}\n")
    mine = project / "mine.yaml"
    mine.write_text("extends: ../base.yaml\n")
    with pytest.raises(UserError, match=r"base\.yaml: is not below .*; copy it there"):
        check_inputs_travel(load_config(mine), mine, list_upload(project))
    (tmp_path / "base.yaml").rename(project / "base.yaml")
    mine.write_text("extends: base.yaml\n")
    with chdir(project):
        assert check_inputs_travel(load_config(mine), mine, list_upload(project)) == "mine.yaml"
        (project / ".rayignore").write_text("base.yaml\n")
        with pytest.raises(UserError, match=r"config: .*base\.yaml is left out of the upload"):
            check_inputs_travel(load_config(mine), mine, list_upload(project))
        (project / ".rayignore").write_text("pairs/\n")
        with pytest.raises(UserError, match=r"offline\.path: pairs is left out of the upload"):
            check_inputs_travel(load_config(mine), mine, list_upload(project))


# --- the job's name and command ---------------------------------------------------------------------------------------


def test_job_ids_follow_the_run_and_count_on() -> None:
    others = {"raysubmit_x": "RUNNING", "isogloss-demo-2": "RUNNING", "isogloss-demo.x": "RUNNING"}
    assert free_job_id("demo", others) == "isogloss-demo"
    ended = {**others, "isogloss-demo": "STOPPED", "isogloss-demo.2": "FAILED", "isogloss-demo.10": "SUCCEEDED"}
    assert free_job_id("demo", ended) == "isogloss-demo.11"
    with pytest.raises(UserError, match=r"run\.name: 'demo' is running as job isogloss-demo\.2; stop it"):
        free_job_id("demo", {**ended, "isogloss-demo.2": "RUNNING"})


def test_command_survives_the_shell_and_resumes() -> None:
    command = entrypoint("configs/my run.yaml", ["languages.codes=[en, es]", "run.name=it's"])
    words = shlex.split(command)
    assert words[:5] == ["exec", "python", "-m", "cli", "train"]
    assert words[5:] == ["configs/my run.yaml", "languages.codes=[en, es]", "run.name=it's", "--resume-or-start"]
    assert "job stop --address http://h:8265 isogloss-demo" in FIRST.hints()


def test_address() -> None:
    assert cluster_address(None, {}) == "http://127.0.0.1:8265"
    assert cluster_address(None, {"RAY_ADDRESS": "http://head:8265/"}) == "http://head:8265"
    assert cluster_address("https://a", {"RAY_ADDRESS": "http://b"}) == "https://a"
    with pytest.raises(UserError, match=r"RAY_ADDRESS: 'head:6379' is not the URL .* --address"):
        cluster_address(None, {"RAY_ADDRESS": "head:6379"})


# --- requests ----------------------------------------------------------------------------------------------------


def test_silent_server_is_given_up_in_time() -> None:
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"list: no answer within 0\.2 s"):
        within(0.2, "list", lambda: threading.Event().wait(30))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("x"), "nothing answers there; start a cluster"),
        (RuntimeError("500: No available agent to submit job"), "--dashboard-agent-listen-port=0"),
        (type("AuthenticationError", (Exception,), {})("no"), "refuses this token"),
        (RuntimeError("whatever else"), "whatever else"),
    ],
)
def test_refusals_say_what_to_do(error: Exception, message: str) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(UserError, match=message):
        within(5, "submit", fail)


@pytest.mark.parametrize(
    ("token", "message"),
    [({"RAY_AUTH_TOKEN": "0" * 64}, "nothing answers there; start"), ({}, "there is no token here; put the head's")],
)
def test_no_cluster_at_all_is_one_message(tmp_path: Path, token: dict[str, str], message: str) -> None:
    command = [str(ISOGLOSS), "submit", "configs/demo.yaml", "--address", NOBODY]
    hidden = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    here = {name: value for name, value in os.environ.items() if name not in hidden} | {"HOME": str(tmp_path), **token}
    done = subprocess.run(command, env=here, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"isogloss: {NOBODY}: {message}")
    assert done.stderr.count("\n") == 1


def test_wrong_config_is_found_before_anything_is_sent() -> None:
    done = CliRunner().invoke(app, ["submit", "configs/demo.yaml", "learner.bta=1", "--address", "http://127.0.0.1:9"])
    assert "did you mean learner.beta" in str(done.exception)


def test_a_job_that_failed_is_told_without_its_log_again() -> None:
    class Failed(Flaky):
        def get_job_status(self, _job: str) -> SimpleNamespace:
            return SimpleNamespace(value="FAILED")

        def get_job_info(self, _job: str) -> SimpleNamespace:
            return SimpleNamespace(
                message="exit code 2, last available logs (truncated to 20,000 chars):\nno such model"
            )

    with pytest.raises(UserError) as caught:
        follow(Failed(["no such model\n"]), FIRST, lambda _text: None)  # type: ignore[arg-type]
    assert str(caught.value).splitlines()[0] == "isogloss-demo failed: exit code 2"
    assert "no such model" not in str(caught.value)


FIRST = Job("isogloss-demo", "http://h:8265", "isogloss submit configs/demo.yaml")


class Flaky:
    """A log that comes in pieces; the connection breaks after some of them."""

    def __init__(self, *attempts: list[str]) -> None:
        self.attempts = list(attempts)

    async def tail_job_logs(self, _job: str) -> AsyncIterator[str]:
        pieces = self.attempts.pop(0)
        for piece in pieces:
            if piece == "CTRL-C":
                raise KeyboardInterrupt
            if piece == "BREAK":
                raise RuntimeError("connection lost")
            yield piece


def test_log_is_printed_once_over_two_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    shown: list[str] = []
    Follower(Flaky(["one\n", "two\nth", "BREAK"], ["one\ntwo\n", "three\n", "four\n"]), FIRST, shown.append).follow()
    assert "".join(shown) == "one\ntwo\nthree\nfour\n"
    with pytest.raises(
        UserError, match=r"(?s)connection to its log was lost .* the job itself continues.* job logs --follow"
    ):
        Follower(Flaky(*[["BREAK"]] * 5), FIRST, shown.append).follow()


def test_attempts_are_counted_for_each_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of days outlasts more outages than one may have attempts, as long as its log grows between them."""
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    shown: list[str] = []
    log = [f"line {number}\n" for number in range(4 * RECONNECTS)]
    outages = [[*log[: number + 1], "BREAK"] for number in range(len(log))]
    Follower(Flaky(*outages, log), FIRST, shown.append).follow()
    assert shown == log
    silent = [[*log[:1], "BREAK"]] * (RECONNECTS - 1)  # nothing new: all of one outage
    Follower(Flaky(*silent, log[:2]), FIRST, shown.append).follow()
    with pytest.raises(UserError, match="was lost"):
        Follower(Flaky(*silent, silent[0], log[:2]), FIRST, shown.append).follow()


def test_job_that_does_not_end_with_its_log_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.jobs.submit.END_TIMEOUT_S", 0.0)

    class Endless(Flaky):
        def get_job_status(self, _job: str) -> SimpleNamespace:
            return SimpleNamespace(value="RUNNING")

    shown: list[str] = []
    with pytest.raises(UserError, match=r"(?s)log has ended, but after 0 s it is still running.*job logs --follow"):
        follow(Endless(["one\n"]), FIRST, shown.append)  # type: ignore[arg-type]
    assert "".join(shown) == "one\n"


def test_ctrl_c_detaches() -> None:
    shown: list[str] = []
    assert follow(Flaky(["one\n", "CTRL-C"]), FIRST, shown.append)  # type: ignore[arg-type]
    text = "".join(shown)
    assert text.startswith("one\n\ndetached: isogloss-demo continues")
    for hint in ("job logs --follow", "job stop", "isogloss submit configs/demo.yaml"):
        assert hint in text


# --- a described cluster -----------------------------------------------------------------------------------------


def dry_run(tmp_path: Path, nodes: object, *overrides: str) -> object:
    described = tmp_path / "cluster.yaml"
    described.write_text(json.dumps({"nodes": nodes}))
    command = ["train", "configs/llama3_8b_icr.yaml", *overrides, "--dry-run", "--cluster", str(described)]
    return CliRunner().invoke(app, command)


def test_preset_for_eight_billion_parameters_fits_two_nodes() -> None:
    command = ["train", "configs/llama3_8b_icr.yaml", "--dry-run", "--cluster", "deploy/clusters/2x8h100.yaml"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    rows = {line.split("│")[1].strip(): line for line in done.output.splitlines() if line.count("│") == 5}
    assert "learner x 8" in rows["gpu-1"], "the learner has a node of its own"
    assert "rollout x 2" in rows["gpu-0"]
    assert rows["gpu-0"].count("8 of 8") == rows["gpu-1"].count("8 of 8") == 1


def test_enough_in_all_is_not_enough_on_a_node(tmp_path: Path) -> None:
    done = dry_run(tmp_path, [{"count": 16, "cpus": 20, "gpus": 1}])
    assert str(done.exception).startswith(  # type: ignore[attr-defined]
        "cluster: rollout 0 of 2 needs 8 CPUs and 2 GPUs on one node, and no node has that even when it is empty "
        "(largest: node-0 20 CPUs and 1 GPUs); lower rollout.actors, rollout.cpus_per_actor, rollout.gpus_per_actor"
    )
    done = dry_run(tmp_path, [{"count": 5, "cpus": 40, "gpus": 3}])
    assert "reward 3 of 4 needs" not in str(done.exception)  # type: ignore[attr-defined]
    assert "learner 7 of 8 needs 8 CPUs and 1 GPUs on one node, and beside the others no node has that left" in str(
        done.exception  # type: ignore[attr-defined]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"cluster\.yaml: expected `nodes:` at the top level"),
        ("5", r"cluster\.yaml: expected `nodes:` at the top level"),
        ("nodes: []", "nodes: List should have at least 1 item"),
        ("nodes: [{cpus: 4, gpu: 1}]", r"nodes\.0\.gpu: unknown field; remove it"),
        ("nodes: [{cpus: 4}, {cpus: 8}]", "two groups have the same name"),
        ("nodes:\n  - {cpus: 4", r"cluster\.yaml:\d+: not valid YAML"),
    ],
)
def test_description_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    described = tmp_path / "cluster.yaml"
    described.write_text(text)
    done = CliRunner().invoke(app, ["train", "configs/demo.yaml", "--dry-run", "--cluster", str(described)])
    assert isinstance(done.exception, UserError)
    with pytest.raises(UserError, match=message):
        raise done.exception


def test_description_is_for_dry_runs() -> None:
    done = CliRunner().invoke(app, ["train", "configs/demo.yaml", "--cluster", "deploy/clusters/laptop.yaml"])
    assert "--cluster: only describes" in str(done.exception)


def test_submitting_imports_ray_only_after_its_environment_is_set() -> None:
    code = (
        "import cli, actors.jobs.submit, actors.jobs.upload, actors.jobs.job, actors.plan.fit; "
        "import actors.observe.telemetry, configs.nodes"
    )
    check_left_out(code, "ray", "torch", "vllm")
