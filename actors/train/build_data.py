"""``isogloss build-data``: a round without a learner. Samples, scores and mines, and leaves the pairs as a data set."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from pathlib import Path

from actors.observe.metrics import MetricsLog
from actors.observe.screen import Screen
from actors.plan.plugins import pinned
from actors.plan.preflight import Inputs, check_inputs
from actors.runtime.signals import StopFlag
from actors.train.run import with_team
from actors.train.run_folder import RunFolder, dated
from actors.train.sampling import SamplingTrack
from actors.train.team import Team
from actors.train.track import RunParts
from configs.atomic import write_text
from configs.errors import UserError
from configs.schema import Config
from rollout.data_card import data_card
from rollout.dataset import dataset_rows, write_dataset
from rollout.state import action_of
from rollout.store import Store

JOURNAL = "journal"
CARD = "README.md"


def make_pairs(parts: RunParts, inputs: Inputs, should_stop: Callable[[], bool]) -> None:
    """Sample, score and mine round 1, whose pairs nobody trains on.

    Raises:
        StopRequested: A stop was asked for; everything finished is in the journal.
    """
    track = SamplingTrack(parts, inputs)

    def tick() -> bool:
        parts.exported.pools([parts.team.rollouts, parts.team.rewards], parts.team.version, learning=False)
        return should_stop()

    while (action := action_of(parts.team.states()[1], 1)) is not None and action.kind != "reference":
        track.advance(action, tick)
    parts.exported.stage("finished", 1)


def run_build_data(config: Config, out: Path) -> bool:
    """Build a data set, or continue one that was begun in ``out``; returns whether it was finished.

    Args:
        config: Of a run; its learner, schedule and evaluation are not looked at.
        out: Folder of the data set: ``train.parquet``, ``README.md`` and ``journal/``.

    Raises:
        UserError: Anything that the user can correct; what was done is kept.
    """
    if config.offline.path is not None:
        raise UserError("offline.path: holds pairs already; build-data makes some, remove it")
    if config.learner.on_groups:
        raise UserError(
            f"learner.objective: {config.learner.objective} takes groups, and build-data writes pairs; choose another"
        )
    config = pinned(dated(data_config(config, out)))
    started = time.time()
    screen = Screen()
    inputs = check_inputs(config)
    what = f"{len(inputs.prompts.ids)} prompts in {', '.join(config.languages.codes)}"
    for line in inputs.notes:
        screen.say(line)

    def work(team: Team, folder: RunFolder, metrics: MetricsLog, flag: StopFlag) -> None:
        make_pairs(RunParts(config, team, screen, team.exported), inputs, flag)
        pairs = _write(config, folder.store, out)
        screen.say(f"took {time.time() - started:.0f}s   {pairs} pairs: {out}   card: {out / CARD}")

    resume = (out / JOURNAL / "config.yaml").is_file()
    again = f"isogloss build-data CONFIG --out {out}"
    return with_team(
        config,
        inputs.prompts,
        resume,
        screen,
        what,
        work=work,
        from_round=None,
        allowed=frozenset(),
        learns=False,
        again=again,
    )


def data_config(config: Config, out: Path) -> Config:
    """The config of the round: one round, its journal below ``out``, and nothing that is held out."""
    run = config.run.model_copy(update={"dir": out, "name": JOURNAL})
    prompts = config.prompts.model_copy(update={"heldout": None})
    schedule = config.schedule.model_copy(update={"rounds": 1})
    evaluation = config.evaluation.model_copy(update={"judge": None})
    serve = config.serve.model_copy(update={"enabled": False})
    return config.model_copy(
        update={"run": run, "prompts": prompts, "schedule": schedule, "evaluation": evaluation, "serve": serve}
    )


def _write(config: Config, journal: Path, out: Path) -> int:
    version = importlib.metadata.version("isogloss")
    with Store.read(journal) as store:
        pairs, candidates, scores = store.pairs(1), store.candidates(1), store.scores(1)
        _, data = store.round_state(1) or ("", {})
    by_key = {one.key: one for one in candidates}
    rows = dataset_rows(pairs, by_key, config.run.seed, version, config.model.policy.name)
    write_dataset(rows, out)
    card = data_card(config, out.resolve().name, pairs, candidates, scores, counts=data["counts"], version=version)
    write_text(out / CARD, card)
    return len(pairs)
