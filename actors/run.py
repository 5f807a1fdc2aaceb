"""A whole run: checks, folder, team, rounds, summary."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from actors.calls import ActorDied, DeadlineExceeded
from actors.driver import Driver
from actors.health import SyncError
from actors.metrics import MetricsLog
from actors.pool import StopRequested
from actors.preflight import check_inputs
from actors.run_folder import RunFolder, open_run_folder
from actors.screen import Screen
from actors.signals import StopFlag
from actors.team import Team, start_team
from configs.errors import UserError
from configs.schema import Config
from evaluation.heldout import HeldoutResult
from evaluation.report import write_report
from evaluation.summary import build_summary
from learners.errors import LearnerFailed, LearnerTimeout


def run_training(
    config: Config, resume: bool, follow: Callable[[Config, RunFolder], AbstractContextManager[Any]] | None = None
) -> bool:
    """Run, or go on with, a config; returns whether it was finished.

    Args:
        config: The run.
        resume: Whether to go on with its folder.
        follow: Opens the endpoint that serves the run's versions: ``(endpoint, offer)``, see ``Driver``.

    Raises:
        UserError: Anything that the user can mend; the run folder stays resumable.
    """
    started = time.time()
    screen = Screen()
    inputs = check_inputs(config)
    folder = open_run_folder(config, resume)
    metrics = MetricsLog(folder.path)
    flag = StopFlag()
    skipped = f", {inputs.left_out} longer ones left out" if inputs.left_out else ""
    codes = ", ".join(config.languages.codes)
    screen.say(f"{folder.path}: {len(inputs.prompts.ids)} prompts in {codes}{skipped}")
    try:
        with start_team(config, inputs.prompts, folder, flag) as team:
            screen.say(f"rollout, reward and learner actors are up, weights v{team.version}")
            with contextlib.ExitStack() as stack:
                offer = None
                if follow is not None:
                    endpoint, offer = stack.enter_context(follow(config, folder))
                    screen.say(f"serving at {endpoint.url}")
                Driver(config, inputs, team, screen, metrics, flag, offer).run()
            _summarise(config, folder, team, screen, inputs.names, time.time() - started)
    except StopRequested:
        overrides = " ".join(arg for arg in sys.argv[2:] if not arg.startswith("--"))
        screen.say(f"stopped by {flag.asked_by}; nothing is lost. Go on: isogloss train {overrides} --resume")
        return False
    except (ActorDied, DeadlineExceeded, LearnerFailed, LearnerTimeout, SyncError) as error:
        raise UserError(f"{error}\n  {folder.path} keeps all that was done; go on with --resume") from error
    finally:
        metrics.close()
        folder.close()
    return True


def _summarise(
    config: Config, folder: RunFolder, team: Team, screen: Screen, names: dict[str, str], seconds: float
) -> None:
    rounds = config.schedule.rounds
    evaluations = team.store("evaluations")
    if rounds in evaluations:
        start, end = (HeldoutResult.from_json(evaluations[version]) for version in (0, rounds))
        summary = build_summary(config, start, end, rounds, seconds)
        screen.table(summary, names)
    else:  # no held-out prompts
        summary = {"rounds": rounds, "weight_version": rounds, "wall_seconds": seconds}
    path = folder.write_summary(summary)
    report = write_report(folder.path)
    policy = folder.path / "policy" if rounds else config.model.policy
    screen.say(f"took {seconds:.0f}s   summary: {path}   report: {report}   model: {policy}")
