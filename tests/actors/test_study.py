"""``isogloss study``: what is run, what is not run again, what a failure leaves, and the files at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.jobs import study as module
from actors.jobs.children import run_logged
from actors.jobs.study import StudyRequest, run_study
from actors.runtime.signals import StopFlag
from cli import app
from configs.errors import Stopped, UserError
from tests.evaluation.test_matrix import journal

STUDY = """
name: small
base: base.yaml
dir: {dir}
page: {dir}/page.md
text: head.md
seeds: [0, 1]
rows:
  one: {{title: row one}}
  two: {{set: [learner.beta=0.2]}}
contrasts:
  - {{question: Is two better than one?, first: [two], second: [one], languages: de}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A study whose runs cannot start: there is no such model."""
    (tmp_path / "base.yaml").write_text("extends: likelihood.yaml\nmodel: {policy: nowhere/policy}\n", encoding="utf-8")
    (tmp_path / "head.md").write_text("Why it was done.\n", encoding="utf-8")
    (tmp_path / "study.yaml").write_text(STUDY.format(dir=tmp_path / "out"), encoding="utf-8")
    return tmp_path / "study.yaml"


def test_finished_runs_are_not_run_again_and_a_failure_is_counted(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = path.parent / "out" / "small"
    for name in ("one-s0", "two-s0", "one-s1"):
        journal(folder / name)
    assert not run_study(StudyRequest(path))
    said = capfd.readouterr().out
    assert "4 of 4  two-s1" in said
    assert "1 of 4" not in said
    assert "failed, and the study continues: two-s1: exit status 2" in said
    assert "nowhere/policy" in said
    assert "3 of 4 runs have a result" in said
    page = (path.parent / "out" / "page.md").read_text()
    assert "Why it was done." in page
    assert "| Is two better than one? | not shown | +0.0 |" in page
    assert "two, seed 1: exit status 2" in page
    data = json.loads((folder / "matrix.json").read_text())
    assert data["rows"][0]["title"] == "row one"
    assert (data["contrasts"][0]["estimate"]["runs"], len(data["missing"])) == (1, 1)
    assert (folder / "matrix.csv").read_text().startswith("kind,row,measure")
    assert "row one" in (folder / "matrix.html").read_text()
    assert (folder / "logs" / "two-s1.log").is_file()


def test_only_what_was_asked_for_is_run_and_counted(path: Path) -> None:
    folder = path.parent / "out" / "small"
    journal(folder / "one-s1")
    assert run_study(StudyRequest(path, rows=("one",), seeds=(1,)))
    assert not run_study(StudyRequest(path, tables=True))
    for request, message in (
        (StudyRequest(path, rows=("three",)), "--row three: is no row of this study; it has one, two"),
        (StudyRequest(path, seeds=(7,)), "--seed 7: is none of the study's seeds"),
        (StudyRequest(path, address="head:8265"), "--address: 'head:8265' is not the URL of a dashboard"),
    ):
        with pytest.raises(UserError, match=message):
            run_study(request)


def test_a_dry_run_starts_nothing_and_shows_what_there_is(path: Path) -> None:
    journal(path.parent / "out" / "small" / "one-s0")
    shown = CliRunner().invoke(app, ["study", str(path), "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert "seed 0 finished, seed 1 to run" in shown.output
    assert "4 runs of 2 rows: 1 finished, 0 begun, 3 to run" in shown.output
    assert [entry.name for entry in (path.parent / "out" / "small").iterdir()] == ["one-s0"]


def test_a_step_is_done_once_and_one_that_fails_ends_the_study(path: Path) -> None:
    made = path.parent / "made.md"
    steps = f"prepare:\n  - {{run: [config-reference, --out, {path.parent}], creates: {made}}}\n"
    path.write_text(path.read_text() + steps, encoding="utf-8")
    with pytest.raises(UserError, match=r"prepare.0.creates: .*made.md is not there after isogloss config-reference"):
        run_study(StudyRequest(path))
    path.write_text(path.read_text().replace("config-reference", "config-referense"), encoding="utf-8")
    with pytest.raises(UserError, match=r"prepare.0: .* ended with status 2; its log .*prepare-0.log ends with"):
        run_study(StudyRequest(path))
    made.write_text("")
    journal(path.parent / "out" / "small" / "one-s0")
    assert run_study(StudyRequest(path, rows=("one",), seeds=(0,)))


def test_a_stop_is_passed_on_and_the_rest_is_left_for_the_next_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def stopped(_base: Path, overrides: list[str], _log: Path, flag: StopFlag) -> str:
        begun.append(overrides[-3])
        flag.asked_by = "SIGTERM"
        return "interrupted"

    monkeypatch.setattr(module, "_here", stopped)
    with pytest.raises(Stopped, match=r"stopped by SIGTERM; nothing is lost. Continue: isogloss study .*study.yaml"):
        run_study(StudyRequest(path))
    assert begun == ["run.name=one-s0"]
    assert (path.parent / "out" / "small" / "matrix.md").is_file()


def test_jobs_that_cannot_be_submitted_are_failures_of_their_runs(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not run_study(StudyRequest(path, rows=("two",), seeds=(0,), address="http://127.0.0.1:9"))
    assert "failed, and the study continues: two-s0: " in capfd.readouterr().out


def test_a_child_gets_the_stop_and_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process, which ends by itself when it is told."""
    program = tmp_path / "cli.py"
    program.write_text(
        "import signal, sys\n"
        "def stop(*_):\n    print('isogloss: stopped\\n  as asked', flush=True); sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, stop)\nprint('ready', flush=True)\nsignal.pause()\n"
    )
    monkeypatch.chdir(tmp_path)
    flag, log = StopFlag(), tmp_path / "logs" / "x.log"

    def waited() -> None:
        if log.read_text():
            flag.asked_by = "SIGTERM"

    ended = run_logged(["train"], log, flag, waited)
    assert ended.status == 130
    assert ended.tail == "isogloss: stopped\n  as asked"
