"""A whole run: checks, folder, team, rounds, summary."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from actors.jobs.job import inside_job
from actors.observe.doctor import arithmetic_note
from actors.observe.metrics import MetricsLog
from actors.observe.screen import Screen
from actors.plan.fertility import fertility_cure
from actors.plan.plugins import pinned
from actors.plan.preflight import check_inputs
from actors.runtime.calls import ActorDied, DeadlineExceeded
from actors.runtime.health import SyncError
from actors.runtime.signals import StopFlag, StopRequested
from actors.train.driver import Driver
from actors.train.offline import OfflineTrack, check_offline, offline_summary
from actors.train.resume import check_checkpoints, rewind
from actors.train.run_folder import RunFolder, dated, open_run_folder
from actors.train.sampling import SamplingTrack
from actors.train.team import Team, start_team
from actors.train.track import RunParts
from configs.errors import UserError
from configs.json_types import JsonObject
from configs.plugins import load_plugin
from configs.schema import Config
from evaluation.heldout import HeldoutResult
from evaluation.report import write_report
from evaluation.summary import build_summary
from learners.errors import LearnerFailed, LearnerTimeout
from rollout.formats.left_out import LeftOut
from rollout.language import undetectable
from rollout.languages import DEFAULT_NAMES, language_name
from rollout.prompts import PromptSet

TRACKERS = {"wandb": "actors.observe.wandb_runs:track"}  # by the name that run.trackers has for them


def run_training(
    config: Config,
    resume: bool,
    follow: Callable[[Config, RunFolder, StopFlag], AbstractContextManager[Any]] | None = None,
    from_round: int | None = None,
    allowed: frozenset[str] = frozenset(),
    *,
    quiet: bool = False,
) -> bool:
    """Run, or continue with, a config; returns whether it was finished.

    Args:
        config: The run.
        resume: Whether to continue with its folder.
        follow: Opens the endpoint that serves the run's versions: ``(endpoint, offer)``, see ``Driver``.
        from_round: Go back to the weights after this round first (``actors.train.resume.rewind``).
        allowed: Fields that may differ from the run's config (``rollout.identity.AFTER_OUT_OF_MEMORY``).
        quiet: Show nothing but the line at the end.

    Raises:
        UserError: Anything that the user can fix; the run folder stays resumable.
    """
    config = pinned(dated(config))
    if config.offline.path is not None:
        return _run_offline(config, resume, from_round, allowed, quiet)
    started = time.time()
    screen = Screen(quiet)
    inputs = check_inputs(config)
    skipped = f", {inputs.left_out} longer ones left out" if inputs.left_out else ""
    what = (
        f"{len(inputs.prompts.ids)} prompts in {', '.join(config.languages.codes)}{skipped}{_spelled(inputs.spelled)}"
        f"{_left_out(inputs.prompts.left_out)}"
    )

    if config.gates.language and (open_gates := undetectable(config.languages.codes)):
        screen.say(
            f"language gate: answers in {', '.join(open_gates)} cannot be told from others; they pass unless they are "
            "surely in another language of the run"
        )

    if (cure := fertility_cure(inputs.fertility, config.rollout)) is not None:
        screen.say(cure)
    for line in inputs.notes:
        screen.say(line)

    def work(team: Team, folder: RunFolder, metrics: MetricsLog, flag: StopFlag) -> None:
        screen.say(f"rollout and reward actors are up, weights v{team.version}; the learner starts meanwhile")
        with contextlib.ExitStack() as stack:
            offer = None
            if follow is not None:
                endpoint, offer = stack.enter_context(follow(config, folder, flag))
                screen.say(f"serving at {endpoint.url}")
            parts = RunParts(config, team, screen, team.exported)
            Driver(parts, SamplingTrack(parts, inputs), metrics, flag, offer).run()
        _summarise(config, folder, team, screen, inputs.names, seconds=time.time() - started)

    return with_team(config, inputs.prompts, resume, screen, what, work=work, from_round=from_round, allowed=allowed)


def _run_offline(config: Config, resume: bool, from_round: int | None, allowed: frozenset[str], quiet: bool) -> bool:
    started = time.time()
    screen = Screen(quiet)
    inputs = check_offline(config)
    config = inputs.config
    skipped = f", {inputs.left_out} longer ones left out" if inputs.left_out else ""
    what = f"{len(inputs.preferences)} pairs of {config.offline.path} in {config.schedule.rounds} round(s){skipped}"
    what += _left_out(inputs.reading.left_out)
    what += _spelled(inputs.spelled)

    def work(team: Team, folder: RunFolder, metrics: MetricsLog, flag: StopFlag) -> None:
        parts = RunParts(config, team, screen, team.exported)
        Driver(parts, OfflineTrack(parts, inputs), metrics, flag).run()
        seconds = time.time() - started
        summary = offline_summary(inputs, team.store.round_states(), seconds)
        evaluations = team.store.evaluations()
        if inputs.heldout is not None:
            rounds = config.schedule.rounds
            start, end = (HeldoutResult.from_json(evaluations[version]) for version in (0, rounds))
            summary |= build_summary(config, start, end, rounds, seconds)
            names = {code: language_name(code, config.languages.names) for code in config.languages.codes}
            unseen = {code: DEFAULT_NAMES.get(code, code) for code in config.evaluation.languages}
            screen.table(summary, names | unseen)
        _conclude(folder, screen, summary)

    return with_team(config, None, resume, screen, what, work=work, from_round=from_round, allowed=allowed)


def _spelled(count: int) -> str:
    return f", {count} texts spell special tokens, which are taken as plain text" if count else ""


def _left_out(left_out: LeftOut) -> str:
    return "".join(f"\n  left out: {line}" for line in left_out.lines())


def with_team(
    config: Config,
    prompts: PromptSet | None,
    resume: bool,
    screen: Screen,
    what: str,
    *,
    work: Callable[[Team, RunFolder, MetricsLog, StopFlag], None],
    from_round: int | None,
    allowed: frozenset[str],
    learns: bool = True,
    again: str | None = None,
) -> bool:
    """Open the run's folder, start its team, and let ``work`` use it; returns whether it came to its end.

    Args:
        config: The run.
        prompts: Train prompts; None offline.
        resume: Whether to continue in its folder.
        screen: Told what happens.
        what: What the run is about, in a line.
        work: The rounds.
        from_round: Go back to the weights after this round first.
        allowed: Fields that may differ from the run's config.
        learns: Whether there is a learner.
        again: Command that continues after a stop; by default that of a training run.
    """
    names = [TRACKERS.get(name, name) for name in config.run.trackers]
    trackers = [load_plugin(name, "run.trackers", "isogloss.trackers") for name in names]
    for tracker in trackers:
        tracker.accepts(({}, config.run.dir), {}, "run.trackers")
    folder = open_run_folder(config, resume, allowed, screen.say)
    try:
        if allowed:
            screen.say(f"continues with changed {', '.join(sorted(allowed))}: no longer bit-equal to an unchanged run")
        if from_round is not None:
            for line in rewind(config, folder.path, from_round):
                screen.say(line)
        if resume:
            check_checkpoints(config, folder.path)
    except BaseException:
        folder.close()
        raise
    metrics = MetricsLog(folder.path, trackers, screen.say)
    flag = StopFlag()
    screen.say(f"{folder.path}: {what}")
    if (note := arithmetic_note(config)) is not None:
        screen.say(note)
    try:
        with start_team(config, prompts, folder, flag, screen.say, learns=learns) as team:
            work(team, folder, metrics, flag)
    except StopRequested:
        given = shlex.join(arg for arg in sys.argv[2:] if not arg.startswith("--"))
        command = again or f"isogloss train {given} --resume"
        again = "submit it again" if inside_job(os.environ) else command
        screen.say(f"stopped by {flag.asked_by}; nothing is lost. Continue: {again}")
        return False
    except (ActorDied, DeadlineExceeded, LearnerFailed, LearnerTimeout, SyncError) as error:
        raise UserError(f"{error}\n  {folder.path} keeps all that was done; continue with --resume") from error
    finally:
        metrics.close()
        folder.close()
    return True


def _summarise(
    config: Config, folder: RunFolder, team: Team, screen: Screen, names: dict[str, str], *, seconds: float
) -> None:
    rounds = config.schedule.rounds
    evaluations = team.store.evaluations()
    if rounds in evaluations:
        start, end = (HeldoutResult.from_json(evaluations[version]) for version in (0, rounds))
        summary = build_summary(config, start, end, rounds, seconds)
        screen.table(summary, names)
    else:  # no held-out prompts
        summary = {"rounds": rounds, "weight_version": rounds, "wall_seconds": seconds}
    policy = folder.path / "policy" if rounds else config.model.policy
    _conclude(folder, screen, summary, policy)


def _conclude(folder: RunFolder, screen: Screen, summary: JsonObject, policy: Path | None = None) -> None:
    path = folder.write_summary(summary)
    report = write_report(folder.path)
    model = policy or folder.path / "policy"
    screen.result(f"took {summary['wall_seconds']:.0f}s   summary: {path}   report: {report}   model: {model}")
