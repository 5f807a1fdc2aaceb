"""The folder of a run: claimed by one config, and by one process at a time."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from actors.plan.colocate import learner_threads, usable_cores
from configs.atomic import write_json, write_text
from configs.errors import UserError
from configs.json_types import JsonObject
from configs.load import dump_yaml, load_run_config
from configs.locks import freed, holder, take
from configs.schema import Config
from rollout.identity import AFTER_OUT_OF_MEMORY, BY_ROUND, comparable_config, differing_fields, identity_of
from rollout.input_digests import changed_inputs, input_digests, input_files
from rollout.run_layout import JOURNAL, RUN_LOCK, checkpoint_folder
from rollout.store_open import accept_changes, lock_path

_WRITABLE = "make the folder writable, or copy the run to a disk that is"
_JOURNAL_S = 60.0  # until the journal's process of a driver that was killed has noticed that; it takes seconds
_SHOWN = 5  # differing fields that a message lists
_LARGE = 4 << 30  # bytes that are not read without a word


@dataclass
class RunFolder:
    """Paths of a run (docs/architecture.md, "what a run leaves") and the lock that keeps a second driver out."""

    path: Path
    _lock: FileLock

    @property
    def store(self) -> Path:
        """The SQLite journal."""
        return self.path / JOURNAL

    def checkpoint(self, version: int, start: Path) -> Path:
        """The model folder of a weight version; version 0 is the starting policy."""
        return start if version == 0 else checkpoint_folder(self.path, version)

    def write_summary(self, summary: JsonObject) -> Path:
        """Write ``summary.json`` atomically."""
        return write_json(self.path / "summary.json", summary)

    def close(self) -> None:
        """Let the next process in."""
        self._lock.release()


def open_run_folder(
    config: Config,
    resume: bool,
    allowed: frozenset[str] = frozenset(),
    say: Callable[[str], None] = lambda line: None,
) -> RunFolder:
    """Create the run's folder, or come back to it.

    Args:
        config: The run.
        resume: Whether to continue in it.
        allowed: Fields that may differ from the run's config.
        say: Told in one line where what is left of a killed driver is waited for, and before much is read.

    Raises:
        UserError: The folder is in use, is another config's, already holds a run that ``resume`` was not asked
            for, or is not there to be resumed; or the run was begun over other contents of what it reads.
    """
    path = config.run.dir / config.run.name
    kept = path / "config.yaml"
    if resume and not kept.is_file():
        raise UserError(f"{path}: nothing to resume there; leave --resume out, or check run.dir and run.name")
    begun: dict[str, str] = {}
    if kept.is_file():
        begun = check_same_config(kept, config, allowed).run.inputs
        if not resume:
            raise UserError(
                f"{path}: already holds a run of this config; add --resume to continue it, or choose another run.name"
            )
    elif path.exists() and any(path.iterdir()):
        raise UserError(f"{path}: holds files but no run (no config.yaml); choose another run.name")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run.dir: cannot create {path} ({error.strerror}); choose another folder") from None
    lock = _lock(path)
    try:
        _await_journal(path, say)
        inputs = _known_inputs(config, path, begun, say)
        if allowed and (path / JOURNAL).is_file():
            accept_changes(path / JOURNAL, identity_of(config))
        for left in path.glob(".isogloss-*-learner-mailbox-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        write_text(kept, dump_yaml(config.model_copy(update={"run": config.run.model_copy(update={"inputs": inputs})})))
    except OSError as error:
        lock.release()
        raise UserError(f"{path}: cannot be written ({error.strerror}); {_WRITABLE}") from None
    except BaseException:
        lock.release()
        raise
    return RunFolder(path, lock)


def _known_inputs(config: Config, path: Path, begun: dict[str, str], say: Callable[[str], None]) -> dict[str, str]:
    """Checksums of what a run reads, for ``run.inputs`` of its own config; those that it was begun with stay.

    A run that began before runs kept them, or could not read a file at one start, keeps them from the next one on.

    Raises:
        UserError: It was begun over other contents.
    """
    files = input_files(config)
    size = sum(file.stat().st_size for _, paths in files.values() for file in paths)
    if size > _LARGE:
        say(f"reading {size / 2**30:.0f} GiB of models and data, by whose checksums a resume knows them again")
    now = input_digests(files)
    if changed := changed_inputs(begun, now):
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise UserError(
            f"{path}: what {', '.join(changed[:_SHOWN])}{more} names has other contents than when the run was "
            "begun; restore them, choose another run.name, or remove the folder"
        )
    return {**now, **begun}


def dated(config: Config) -> Config:
    """The config with what the run's first start settles, however long it lasts: the date that chat templates are told,
    how many streams a round is sampled in, and the threads of a learner's rank.

    A run that began before runs kept these continues without: its templates are told the present day, it has a stream
    for each actor and a thread for each rank.
    """
    run = config.run.dir / config.run.name
    kept = load_run_config(run) if (run / "config.yaml").is_file() else None
    if config.model.template_date is None:
        date = kept.model.template_date if kept else datetime.date.today()
        config = config.model_copy(update={"model": config.model.model_copy(update={"template_date": date})})
    if config.learner.threads is None:
        threads = kept.learner.threads if kept else learner_threads(config, usable_cores(config.cluster.num_cpus))
        config = config.model_copy(update={"learner": config.learner.model_copy(update={"threads": threads})})
    if config.rollout.streams is None:
        streams = kept.rollout.streams if kept else config.rollout.actors
        config = config.model_copy(update={"rollout": config.rollout.model_copy(update={"streams": streams})})
    return config


def check_same_config(kept: Path, config: Config, allowed: frozenset[str] = frozenset()) -> Config:
    """Refuse a folder whose config differs in anything that the run's data or arithmetic depends on; returns that one.

    Args:
        kept: The run's own config.
        config: The one to continue with.
        allowed: Fields that may differ, among ``AFTER_OUT_OF_MEMORY``.
    """
    if refused := sorted(allowed - set(AFTER_OUT_OF_MEMORY)):
        raise UserError(
            f"--allow-changed: {', '.join(refused)} cannot be allowed; the fields are {', '.join(AFTER_OUT_OF_MEMORY)}"
        )
    earlier = load_run_config(kept.parent)
    old, new = comparable_config(earlier), comparable_config(config)
    # Whether a bound may change depends on the rounds that have pairs: the journal judges it when it is opened.
    old = {name: value for name, value in old.items() if not _below(name, allowed)}
    same = {name: value for name, value in new.items() if name in BY_ROUND or _below(name, allowed)}
    changed = differing_fields({**old, **same}, new)
    if changed:
        more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise UserError(
            f"{kept.parent}: belongs to another config ({'; '.join(changed[:_SHOWN])}{more}); choose another "
            f"run.name, or use the config it was started with{_cure(changed)}"
        )
    return earlier


def _below(name: str, fields: Collection[str]) -> bool:
    return any(name == field or name.startswith(field + ".") for field in fields)


def _cure(changed: list[str]) -> str:
    names = [line.partition(":")[0] for line in changed]
    if not all(_below(name, AFTER_OUT_OF_MEMORY) for name in names):
        return ""
    fields = sorted({field for field in AFTER_OUT_OF_MEMORY for name in names if _below(name, (field,))})
    return f". After out-of-memory add --allow-changed {','.join(fields)} (equality to the last bit is given up)"


def _lock(path: Path) -> FileLock:
    try:
        lock = take(path / RUN_LOCK)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); {_WRITABLE}") from None
    if lock is None:
        who = holder(path / RUN_LOCK)
        raise UserError(f"{path}: another process{who} is running in it; wait for it or stop it first")
    return lock


def _await_journal(path: Path, say: Callable[[str], None]) -> None:
    """Wait for the journal's process of a driver that was killed, which outlives it. It is not that of a run that
    lives: such a run would hold its own lock as well.
    """
    lock = lock_path(path / JOURNAL)

    def waits() -> None:
        say(f"{path}: the journal's process{holder(lock)} of a killed run is ending; it gets {_JOURNAL_S:g} s")

    if not freed(lock, _JOURNAL_S, waits):
        raise UserError(
            f"{path}: the journal's process{holder(lock)} of a run that was killed has not ended within "
            f"{_JOURNAL_S:g} s; end it, and give the same command again"
        )
