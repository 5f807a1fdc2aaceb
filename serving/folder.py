"""What a run serves, on disk: the source of truth that a restarted endpoint is rebuilt from.

``RUN/serving.json`` says which version is current and which one a canary. ``RUN/serving/v0003/`` holds a served
version: hard links to the checkpoint's files, so that they outlive its retirement, and ``manifest.json``, by which an
engine proves that it computes with them. ``RUN/promotions.jsonl`` has every decision, refusals included.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from configs.atomic import complete_or_absent, write_json
from configs.errors import UserError
from configs.locks import lock_of
from learners.checkpoint_layout import STATE_FILE, TRAINER_FOLDER
from learners.manifest import WeightsManifest, manifest_from_json
from serving.facts import ServedVersion, WantedVersions
from serving.gate import GateDecision

STATE = "serving.json"
STATUS = "serving.status.json"
PROMOTIONS = "promotions.jsonl"
MANIFEST = "manifest.json"
STATUS_FRESH_S = 10.0  # a running endpoint writes its status every 2 s
KEPT = 3  # versions that a rollback can still reach


@dataclass(frozen=True, slots=True)
class Served:
    """A version that is or was served, with the checksum of its weights."""

    version: int
    checksum: str


@dataclass(frozen=True, slots=True)
class ServingState:
    """What ``serving.json`` holds.

    Attributes:
        generation: Counts changes.
        current: Answers requests.
        canary: Answers a share of them; None mostly.
        previous: Were current, newest last.
    """

    generation: int
    current: Served
    canary: Served | None = None
    previous: tuple[Served, ...] = ()

    def to_json(self) -> WantedVersions:
        """For the file."""
        return cast(WantedVersions, asdict(self))

    @classmethod
    def from_json(cls, data: WantedVersions) -> ServingState:
        """The inverse of :meth:`to_json`.

        Raises:
            KeyError, TypeError: It is of another form.
        """
        canary, generation = data["canary"], data["generation"]
        if type(generation) is not int:
            raise TypeError("the generation is no whole number")
        return cls(
            generation,
            _served(data["current"]),
            None if canary is None else _served(canary),
            tuple(_served(row) for row in data["previous"]),
        )


def _served(row: ServedVersion) -> Served:
    served = Served(**row)
    # A bool is no version, though Python takes it for a number.
    if type(served.version) is not int or served.version < 0 or not isinstance(served.checksum, str):
        raise TypeError("a version is no whole number, or its checksum no text")
    return served


class ServingFolder:
    """The serving part of a run folder; several processes may hold one.

    Args:
        path: The run's folder, or any other folder for a model that is no run's.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def version_folder(self, version: int) -> Path:
        """Where the model folder of a served version lies."""
        return self.path / "serving" / f"v{version:04d}"

    def read(self) -> ServingState | None:
        """What is served; None if nothing was yet.

        Raises:
            UserError: The file is damaged.
        """
        try:
            return ServingState.from_json(json.loads((self.path / STATE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(f"{self.path / STATE}: cannot be read ({error}); remove it and promote again") from None

    def manifest(self, version: int) -> WeightsManifest:
        """What an engine must prove about a version.

        Raises:
            UserError: The version is not kept here.
        """
        path = self.version_folder(version) / MANIFEST
        try:
            return manifest_from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}: cannot be read ({error}); promote v{version} again") from None

    def _add(self, model: Path, manifest: WeightsManifest) -> Served:
        """Keep a model folder as a version; nothing happens if it is there already."""
        folder = self.version_folder(manifest.version)
        if not (folder / MANIFEST).is_file() or self.manifest(manifest.version).checksum != manifest.checksum:
            shutil.rmtree(folder, ignore_errors=True)
            with complete_or_absent(folder) as temporary:
                for source in _files(model):
                    if source.name not in (STATE_FILE, MANIFEST, TRAINER_FOLDER):
                        _link(source.resolve(), temporary / source.name)
                text = json.dumps(asdict(manifest)) + "\n"
                (temporary / MANIFEST).write_text(text, encoding="utf-8")
        return Served(manifest.version, manifest.checksum)

    def promote(
        self, model: Path, manifest: WeightsManifest, decision: GateDecision, asked_by: str, canary: bool = False
    ) -> ServingState:
        """Keep a model folder as a version, and make it the current one or the canary.

        Args:
            model: Folder of the version's weights; not read if they are kept here already.
            manifest: Of those weights, with the version's number.
            decision: Why it may be served.
            asked_by: For the record.
            canary: Serve it by a share of the replicas only.

        Raises:
            UserError: The model folder is gone.
        """
        with self._lock():
            state = self.read()
            served = self._add(model, manifest)
            if state is None:
                state = ServingState(1, served)
            elif canary and served != state.current:
                state = replace(state, generation=state.generation + 1, canary=served)
            elif served == state.current:
                state = replace(state, generation=state.generation + 1, canary=None)
            else:
                previous = tuple(row for row in state.previous if row != served)
                kept = (*previous, state.current)[-KEPT:]
                state = ServingState(state.generation + 1, served, None, kept)
            event = "canary" if canary and state.canary == served else "promoted"
            self._decide(state, event, served, decision, asked_by)
        return state

    def rollback(self, asked_by: str) -> ServingState:
        """Give up the canary if there is one, else go back to the version before the current one.

        Raises:
            UserError: There is nothing to go back to.
        """
        with self._lock():
            state = self.read()
            if state is None:
                raise UserError(f"{self.path}: nothing is served yet, so there is nothing to roll back")
            return self._back(state, f"rolled back from v{(state.canary or state.current).version}", asked_by)

    def failed(self, served: Served, reason: str) -> ServingState | None:
        """A replica could not load a version: go back, if it still is the current one or the canary."""
        with self._lock():
            state = self.read()
            if state is None or served not in (state.current, state.canary):
                return state
            if served == state.current and not state.previous:
                self._record("failed", served, GateDecision(False, reason), "endpoint")
                return state
            self._record("failed", served, GateDecision(False, reason), "endpoint")
            without = state if served == state.canary else replace(state, canary=None)
            return self._back(without, f"v{served.version} could not be loaded", "endpoint")

    def refuse(self, served: Served, decision: GateDecision, asked_by: str) -> None:
        """Record that a version did not pass."""
        with self._lock():
            self._record("refused", served, decision, asked_by)

    def reset(self) -> None:
        """Forget what was served; the record stays."""
        with self._lock():
            (self.path / STATE).unlink(missing_ok=True)
            shutil.rmtree(self.path / "serving", ignore_errors=True)

    def decided(self) -> set[int]:
        """Versions that were promoted or refused before.

        A line that a kill cut short, or that somebody edited, names none: that version is judged once more.

        Raises:
            UserError: The record cannot be read.
        """
        record = self.path / PROMOTIONS
        found: set[int] = set()
        try:
            lines = record.read_bytes().splitlines()
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise UserError(f"{record}: cannot be read ({error.strerror}); make it readable, or remove it") from None
        for line in lines:
            with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
                found.add(int(json.loads(line)["version"]))
        return found

    def _back(self, state: ServingState, reason: str, asked_by: str) -> ServingState:
        if state.canary is not None:
            back = replace(state, generation=state.generation + 1, canary=None)
        elif state.previous:
            *older, last = state.previous
            back = ServingState(state.generation + 1, last, None, tuple(older))
        else:
            raise UserError(f"{self.path}: no earlier version than v{state.current.version} was served")
        self._decide(back, "rolled back", back.current, GateDecision(True, reason), asked_by)
        return back

    def _decide(self, state: ServingState, event: str, served: Served, decision: GateDecision, asked_by: str) -> None:
        """Record a decision and make it the state, or neither where the disk takes but one."""
        record = self.path / PROMOTIONS
        before = record.stat().st_size if record.is_file() else 0
        try:
            self._record(event, served, decision, asked_by)
            self._write(state)
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(record, before)
            raise

    def _write(self, state: ServingState) -> None:
        write_json(self.path / STATE, state.to_json(), writers=2)
        # All versions come and go under the lock, so that what the state does not name is of no use to anybody.
        named = {self.version_folder(row.version) for row in (state.current, state.canary, *state.previous) if row}
        for folder in (self.path / "serving").glob("*"):
            if folder not in named:
                shutil.rmtree(folder, ignore_errors=True)

    def _record(self, event: str, served: Served, decision: GateDecision, asked_by: str) -> None:
        row = {"time": time.time(), "event": event, **asdict(served), **asdict(decision), "asked_by": asked_by}
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        with (self.path / PROMOTIONS).open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line  # after one that a kill cut short
            file.write(line)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with lock_of(self.path / ".serving.lock"):  # for milliseconds, or for a copy where files cannot be linked
                yield
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror or error}); make the folder writable, or free some "
                "space. What is served is as it was"
            ) from None


def _files(model: Path) -> list[Path]:
    try:
        return sorted(path for path in Path(model).resolve().iterdir() if path.is_file())
    except OSError as error:
        raise UserError(
            f"{model}: cannot be read ({error.strerror}); promote a version whose folder is there"
        ) from None


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
