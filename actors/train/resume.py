"""Before a run continues: the checkpoints that it will load are whole, or the round before them is offered.

Nothing has been started by then, so a damaged file costs seconds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from configs.errors import UserError
from configs.schema import Config
from learners.checkpoint import point_policy
from learners.checkpoint_layout import all_checkpoints, latest_checkpoint
from rollout.identity import identity_of
from rollout.model_folder import Damaged, verify_checkpoint
from rollout.run_layout import JOURNAL, POLICY_LINK, checkpoint_folder, round_of
from rollout.staleness import rollout_version
from rollout.state import RoundState, check_states, reached
from rollout.store import Store


def check_checkpoints(config: Config, run: Path) -> None:
    """Verify the checksums of the checkpoints that a continued run begins with, and that the journal led to the newest.

    Raises:
        UserError: One is damaged, or the journal lost the rows that it was trained on; names the file, and the round to
            continue from.
    """
    newest = latest_checkpoint(run)
    states = _states(config, run)
    if newest and states and not reached(states.get(round_of(newest), "planned"), "referenced"):
        raise UserError(_lost_rows(run, newest, states))
    sampled_from = (checkpoint_folder(run, version) for version in _sampled_from(config, states))
    needed = {folder for folder in sampled_from if folder.is_dir()}
    for folder in sorted(needed | ({newest} if newest else set())):
        try:
            verify_checkpoint(folder, weights_only=folder != newest)
        except Damaged as damage:
            raise UserError(f"{damage}\n  {_offer(run, round_of(folder))}") from None


def _sampled_from(config: Config, states: Mapping[int, RoundState]) -> set[int]:
    """Versions that rollout and reward actors are started with."""
    if not states:
        return set()
    asked = {round_number: state for round_number, state in states.items() if round_number <= config.schedule.rounds}
    version = rollout_version(config.schedule, asked)
    previous = config.reward.moving_reference
    return {version, version - config.schedule.sync_every if previous else version}


def _states(config: Config, run: Path) -> Mapping[int, RoundState]:
    """Of every round, as the journal has it; empty for offline runs and where there is no journal."""
    store = run / JOURNAL
    if config.offline.path is not None or not store.is_file():
        return {}
    with Store.read(store) as journal:
        found: Mapping[int, tuple[str, object]] = journal.round_states()
    return check_states(
        {round_number: state for round_number, (state, _) in found.items()}, max([config.schedule.rounds, *found])
    )


def _lost_rows(run: Path, newest: Path, states: Mapping[int, RoundState]) -> str:
    """SQLite drops what follows a damaged page of its write-ahead log without a word: the journal is older then."""
    trained = {round_number for round_number, state in states.items() if reached(state, "trained")}
    known = (round_of(folder) for folder in all_checkpoints(run) if round_of(folder) in trained)
    whole = max(known, default=0)
    return (
        f"{run / JOURNAL}: its last rows are lost (a damaged store.sqlite-wal, or an older copy of it): it does "
        f"not know what {newest} was trained on\n"
        f"  put back the journal that belongs to the checkpoints, or add --resume --from-round {whole}: rounds from "
        f"{whole + 1} on are sampled as far as the journal lacks them and trained again"
    )


def _offer(run: Path, damaged: int) -> str:
    whole = 0
    for folder in all_checkpoints(run):
        if round_of(folder) < damaged and _is_whole(folder):
            whole = round_of(folder)
    place = f"round {whole}, whose checkpoint is whole" if whole else "the start, as no earlier checkpoint is whole"
    return (
        f"or add --resume --from-round {whole} to continue from {place}: the journal's answers, scores and pairs are "
        f"kept, rounds from {whole + 1} on are trained again"
    )


def _is_whole(folder: Path) -> bool:
    try:
        verify_checkpoint(folder)
    except UserError:
        return False
    return True


def rewind(config: Config, run: Path, round_number: int) -> list[str]:
    """Set a run back to the weights after ``round_number``: later rounds keep what was sampled and are trained again.

    Their checkpoints are renamed, not deleted. What is damaged of them in the journal is dropped, to be made again.
    Done twice, it changes nothing more, so it may be cut off at any point.

    Returns:
        What was done, for the screen: where the later checkpoints are now, what was dropped.

    Raises:
        UserError: There is no whole checkpoint of ``round_number``.
    """
    kept = checkpoint_folder(run, round_number)
    if round_number > 0:
        if kept not in all_checkpoints(run):
            there = ", ".join(str(round_of(folder)) for folder in all_checkpoints(run)) or "none"
            raise UserError(
                f"--from-round: {run} has no checkpoint of round {round_number} (there are: {there}, and 0)"
            )
        verify_checkpoint(kept)
    moved = []
    for folder in reversed(all_checkpoints(run)):
        if round_of(folder) > round_number:
            aside = _unused(folder.parent / f"set-aside-{folder.name}")
            os.replace(folder, aside)
            moved.append(f"set aside, not deleted: {aside}")
    if round_number > 0:
        point_policy(run, kept)
    else:
        (run / POLICY_LINK).unlink(missing_ok=True)
    with Store.open(run / JOURNAL, *identity_of(config)) as store:
        dropped = store.drop_damaged(round_number)
        store.train_again_after(round_number)
    if dropped:
        rows = ", ".join(f"{count} of {table}" for table, count in dropped.items())
        moved.append(f"damaged in the journal, or made from what was: {rows}; dropped, and made again")
    return moved


def _unused(path: Path) -> Path:
    number = 1
    while path.exists():
        number += 1
        path = path.with_name(f"{path.name.partition('.')[0]}.{number}")
    return path
