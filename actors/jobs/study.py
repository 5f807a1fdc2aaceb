"""``isogloss study``: the runs of a study, one after another or as Ray jobs, and the matrix that they end in."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.jobs.children import INTERRUPTED, Ended, run_logged
from actors.jobs.submit import cluster_address, submit_run
from actors.observe.screen import Screen
from actors.runtime.signals import StopFlag, stop_on_signals
from configs.atomic import write_text
from configs.errors import Stopped, UserError
from configs.presets import beside, is_packaged, world_path
from configs.reading import read_text
from configs.study import PlannedRow, Study, load_study, own_fields, run_name
from evaluation.matrix.compute import Contrast, Matrix, Missing, Row, build_matrix
from evaluation.matrix.page import render_html
from evaluation.matrix.runs import RunResult, is_finished, read_result
from evaluation.matrix.tables import render_markdown, to_csv, to_json

LOGS = "logs"
_FILES = "matrix"


@dataclass(frozen=True)
class StudyRequest:
    """What ``isogloss study`` was asked for.

    Attributes:
        path: The study's file.
        rows: Only these rows are run; none are all.
        seeds: Only these seeds; none are all.
        address: Dashboard of a cluster where the runs are submitted as jobs; None runs them here.
        dry_run: Show what would be done.
        tables: Run nothing, make the matrix of what is there.
    """

    path: Path
    rows: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    address: str | None = None
    dry_run: bool = False
    tables: bool = False


def run_study(request: StudyRequest) -> bool:
    """Run what is not finished, then write the matrix; returns whether every run that was asked for has a result.

    Raises:
        UserError: The study's file is wrong, a row or seed is none of its, or a step before the runs failed.
        Stopped: A signal asked for it; the same command continues.
    """
    study = load_study(request.path)
    wanted = _wanted(study, request)
    screen = Screen()
    if request.dry_run:
        _show(study, wanted, screen)
        return True
    failures: dict[tuple[str, int], str] = {}
    if request.address is not None:
        cluster_address(request.address, os.environ)
    if not request.tables:
        flag = StopFlag()
        with stop_on_signals(flag):
            _prepare(study, screen, flag)
            failures = _run_all(study, wanted, request.address, screen, flag)
        if flag():
            write_matrix(study, failures, screen)
            again = f"isogloss study {shlex.quote(str(request.path))}"
            raise Stopped(f"stopped by {flag.asked_by}; nothing is lost. Continue: {again}")
    matrix = write_matrix(study, failures, screen)
    for answer in matrix.answers:
        screen.say(f"{answer.contrast.question} {answer.verdict}")
    without = {(one.row, one.seed): one.why for one in matrix.missing}
    for row, seed in wanted:
        if (row.name, seed) in without:
            screen.say(f"no result: {row.name}, seed {seed}: {without[row.name, seed]}")
    lacking = sum((row.name, seed) in without for row, seed in wanted)
    found = len(wanted) - lacking
    screen.result(f"{found} of {len(wanted)} runs have a result   matrix: {study.folder / f'{_FILES}.html'}")
    return lacking == 0


def _wanted(study: Study, request: StudyRequest) -> list[tuple[PlannedRow, int]]:
    names = [row.name for row in study.rows]
    for name in request.rows:
        if name not in names:
            raise UserError(f"--row {name}: is no row of this study; it has {', '.join(names)}")
    for seed in request.seeds:
        if seed not in study.config.seeds:
            raise UserError(f"--seed {seed}: is none of the study's seeds {study.config.seeds}")
    return [
        (row, seed)
        for row, seed in study.runs()
        if (not request.rows or row.name in request.rows) and (not request.seeds or seed in request.seeds)
    ]


def _folder(study: Study, row: PlannedRow, seed: int) -> Path:
    return study.folder / run_name(row.name, seed)


def _state(folder: Path) -> str:
    return "finished" if is_finished(folder) else "begun" if (folder / "config.yaml").is_file() else "to run"


def _show(study: Study, wanted: Sequence[tuple[PlannedRow, int]], screen: Screen) -> None:
    for step in study.config.prepare:
        state = "done" if step.creates.exists() else "to do"
        screen.say(f"before the runs: isogloss {shlex.join(step.run)}   ({state}: {step.creates})")
    states = {(row.name, seed): _state(_folder(study, row, seed)) for row, seed in wanted}
    for row in study.rows:
        own = ", ".join(
            f"seed {seed} {states[row.name, seed]}" for seed in study.config.seeds if (row.name, seed) in states
        )
        if own:
            screen.say(f"{row.name}: {row.title}   ({own})\n           {row.base} {' '.join(row.overrides)}")
    for contrast in study.config.contrasts:
        against = ", ".join(contrast.second) or "their own start"
        screen.say(f"question: {contrast.question}   {', '.join(contrast.first)} less {against}")
    found = [*states.values()]
    counted = ", ".join(f"{found.count(state)} {state}" for state in ("finished", "begun", "to run"))
    screen.result(f"{len(wanted)} runs of {len(study.rows)} rows: {counted}   folder: {study.folder}")


def _prepare(study: Study, screen: Screen, flag: StopFlag) -> None:
    for number, step in enumerate(study.config.prepare):
        if step.creates.exists():
            continue
        arguments = [_packaged_world(study, argument) for argument in step.run]
        command = f"isogloss {shlex.join(arguments)}"
        screen.say(f"before the runs: {command}")
        log = study.folder / LOGS / f"prepare-{number}.log"
        ended = run_logged(arguments, log, flag)
        if flag():
            raise Stopped(f"stopped by {flag.asked_by}, before the first run; continue with the same command")
        if ended.status:
            raise UserError(f"prepare.{number}: {command} ended with status {ended.status}; {_why(ended, log)}")
        if not step.creates.exists():
            raise UserError(
                f"prepare.{number}.creates: {step.creates} is not there after {command}; correct one of them"
            )


def _packaged_world(study: Study, argument: str) -> str:
    """A path of the embedded world in a study that comes with isogloss, as in its presets."""
    return world_path(argument) if argument.startswith("worlds/") and is_packaged(study.path) else argument


def _run_all(
    study: Study, wanted: Sequence[tuple[PlannedRow, int]], address: str | None, screen: Screen, flag: StopFlag
) -> dict[tuple[str, int], str]:
    """Run what is not finished; returns why runs failed."""
    failures: dict[tuple[str, int], str] = {}
    for number, (row, seed) in enumerate(wanted, start=1):
        folder = _folder(study, row, seed)
        state = _state(folder)
        if state == "finished":
            continue
        if flag():
            break
        name = run_name(row.name, seed)
        screen.say(f"{number} of {len(wanted)}  {name}{': continues' if state == 'begun' else ''}")
        log = study.folder / LOGS / f"{name}.log"
        overrides = [*row.overrides, *own_fields(study.config, row.name, seed)]
        if address is None:
            problem = _here(row.base, overrides, log, flag)
        else:
            problem = _as_job(row.base, overrides, log, address)
        if problem is None and not is_finished(folder):
            problem = (
                f"ended without {folder}/summary.json here; a job's run.dir must be on storage that this machine has"
            )
        if problem is not None and not flag():
            failures[row.name, seed] = problem
            screen.say(f"failed, and the study continues: {name}: {problem}")
    return failures


def _here(base: Path, overrides: Sequence[str], log: Path, flag: StopFlag) -> str | None:
    """Run one here; returns why it failed, None where it did not."""
    ended = run_logged(["train", str(base), *overrides, "--resume-or-start"], log, flag)
    if ended.status == 0:
        return None
    how = "interrupted" if ended.status == INTERRUPTED else f"exit status {ended.status}"
    return f"{how}; {_why(ended, log)}"


def _why(ended: Ended, log: Path) -> str:
    return f"its log {log} ends with: {ended.tail or 'nothing'}"


def _as_job(base: Path, overrides: Sequence[str], log: Path, address: str) -> str | None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as out:

        def write(text: str) -> None:
            out.write(text)
            out.flush()

        try:
            finished = submit_run(base, overrides, address, wait=True, write=write)
        except UserError as error:
            return f"{error} (log: {log})"
    return None if finished else f"the job was stopped (log: {log})"


def results(study: Study) -> tuple[list[RunResult], dict[tuple[str, int], str]]:
    """The finished runs, and why others have no result though their folders are there."""
    found: list[RunResult] = []
    damaged: dict[tuple[str, int], str] = {}
    for row, seed in study.runs():
        folder = _folder(study, row, seed)
        if is_finished(folder):
            try:
                found.append(read_result(folder, row.name, seed))
            except UserError as error:
                damaged[row.name, seed] = str(error)
    return found, damaged


def write_matrix(study: Study, failures: dict[tuple[str, int], str], screen: Screen) -> Matrix:
    """Write the matrix of the runs that have finished as ``matrix.{md,json,csv,html}``, and the study's page."""
    found, damaged = results(study)
    known = {(one.row, one.seed) for one in found}
    missing = [
        Missing(row.name, seed, damaged.get(key) or failures.get(key) or _not_finished(_folder(study, row, seed)))
        for row, seed in study.runs()
        if (key := (row.name, seed)) not in known
    ]
    config = study.config
    matrix = build_matrix(
        config.name,
        [Row(row.name, row.title) for row in study.rows],
        found,
        [
            Contrast(c.question, tuple(c.first), tuple(c.second), c.measure, c.languages, c.better)
            for c in config.contrasts
        ],
        study.rows[0].config.languages.dominant,
        missing=missing,
        resamples=config.bootstrap_samples,
        planned=study.trained,
    )
    study.folder.mkdir(parents=True, exist_ok=True)
    tables = render_markdown(matrix)
    page = _page(study, tables)
    texts = {"md": page, "json": to_json(matrix), "csv": to_csv(matrix), "html": render_html(matrix)}
    for suffix, text in texts.items():
        _replace(study.folder / f"{_FILES}.{suffix}", text)
    if config.page is not None:
        _replace(config.page, page)
        screen.say(f"page: {config.page}")
    return matrix


def _not_finished(folder: Path) -> str:
    return "begun and not finished" if _state(folder) == "begun" else "not run"


def _page(study: Study, tables: str) -> str:
    config = study.config
    head = f"# {config.title or config.name}\n\nGenerated by `isogloss study {study.path}`; edit that file instead.\n\n"
    if config.text is not None:
        head += read_text(beside(study.path, config.text), "text of the study", "correct `text`").strip() + "\n\n"
    return head + tables


def _replace(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free space, or name another `dir`") from None
