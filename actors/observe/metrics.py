"""Where a run's numbers go: ``metrics.jsonl`` (one object a round) and ``tensorboard/``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from configs.atomic import write_text
from configs.errors import UserError
from configs.json_types import JsonMapping, JsonObject
from configs.plugins import Plugin

START = "heldout_start"  # in the first round's row: the evaluation of the weights before it
TRACKER_S = 30.0  # deadline of a tracker's call
_GAP_S = 0.01
_MAX_SPANS = 150  # of one actor and kind of call in a round


class StageClock:
    """Wall seconds by stage, and how long the workers were at work at all.

    Stages may overlap (streaming), so their sum can exceed the wall time. The overhead is therefore not wall
    minus sum, but the part of the wall time in which no worker was busy: waiting for the driver or the store.
    """

    def __init__(self) -> None:
        self.started = time.time()
        self.stages: dict[str, float] = {}
        self._busy: list[tuple[float, float]] = []
        self._calls: dict[str, dict[str, list[tuple[float, float]]]] = {}

    @contextmanager
    def stage(self, name: str, worker: bool = False) -> Iterator[None]:
        """Add the wall time of the block to ``name``; ``worker`` marks it as time in which workers work."""
        begin = time.time()
        try:
            yield
        finally:
            self.add(name, begin, time.time(), worker)

    def add(self, name: str, begin: float, end: float, worker: bool) -> None:
        """Add an interval (Unix seconds) that was measured elsewhere, such as inside an actor."""
        self.stages[name] = self.stages.get(name, 0.0) + end - begin
        if worker:
            self.busy(begin, end)

    def busy(self, begin: float, end: float) -> None:
        """A worker was at work from ``begin`` to ``end`` (Unix seconds)."""
        self._busy.append((begin, end))

    def call(self, actor: str, what: str, begin: float, end: float) -> None:
        """An actor did ``what`` from ``begin`` to ``end`` (Unix seconds)."""
        self._calls.setdefault(actor, {}).setdefault(what, []).append((begin, end))

    @contextmanager
    def lane(self, actors: Sequence[str], what: str) -> Iterator[None]:
        """Record the block as a call of these actors."""
        begin = time.time()
        try:
            yield
        finally:
            for actor in actors:
                self.call(actor, what, begin, time.time())

    def timeline(self) -> dict[str, dict[str, list[float]]]:
        """Actor -> what -> [begin, end, begin, end, ...], seconds since the clock started.

        Calls that follow each other within a hundredth of a second are one, and within more where an actor has very
        many: a row of ``metrics.jsonl`` stays small however many calls a round has.
        """
        return {
            actor: {what: self._spans(calls) for what, calls in sorted(kinds.items())}
            for actor, kinds in sorted(self._calls.items())
        }

    def _spans(self, calls: list[tuple[float, float]]) -> list[float]:
        gap = _GAP_S
        spans = _merged(calls, gap)
        while len(spans) > _MAX_SPANS:
            gap *= 2
            spans = _merged(calls, gap)
        return [round(moment - self.started, 2) for span in spans for moment in span]

    def worker_seconds(self) -> float:
        """Length of the union of all intervals in which at least one worker was busy."""
        return covered(self._busy, self.started, time.time())

    def summary(self) -> JsonObject:
        """The breakdown that ``metrics.jsonl`` holds, seconds."""
        wall = time.time() - self.started
        idle = max(0.0, wall - self.worker_seconds())
        return {
            "wall": round(wall, 4),
            "stages": {name: round(seconds, 4) for name, seconds in sorted(self.stages.items())},
            "no_worker_busy": round(idle, 4),
            "overhead_fraction": round(idle / wall, 4) if wall else 0.0,
        }


def _merged(calls: list[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    out: list[tuple[float, float]] = []
    for begin, end in sorted(calls):
        if out and begin - out[-1][1] <= gap:
            out[-1] = out[-1][0], max(end, out[-1][1])
        else:
            out.append((begin, end))
    return out


def covered(intervals: list[tuple[float, float]], start: float, end: float) -> float:
    """Length of the union of ``intervals`` within [start, end]."""
    total, reach = 0.0, start
    for left, right in sorted(intervals):
        left, right = max(left, reach), min(right, end)
        if right > left:
            total += right - left
            reach = right
    return total


class MetricsLog:
    """Appends a round's object to ``metrics.jsonl`` and its scalars to TensorBoard, and hands it to trackers.

    Args:
        run_dir: The run's folder.
        trackers: Called with each row and ``run_dir``, also again with a row that got further fields. One that fails or
            is late stops nothing: it is named, and called again with the next row.
        say: Where failures are told.
    """

    def __init__(
        self, run_dir: Path, trackers: Sequence[Plugin] = (), say: Callable[[str], None] = lambda _text: None
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._trackers, self._say = run_dir, trackers, say

        self._path = run_dir / "metrics.jsonl"
        self._rows = {row["round"]: row for row in read_metrics(self._path)}
        self._board = SummaryWriter(log_dir=str(run_dir / "tensorboard"), flush_secs=10)

    def write(self, row: JsonObject) -> None:
        """Record one round; a round that is repeated after a resume replaces its earlier row."""
        self._save(row)
        # The start's figures belong to step 0, which has no round.
        self.scalars({key: value for key, value in row.items() if key != START}, row["round"])
        if START in row:
            self.scalars({"heldout": row[START]}, 0)

    def _save(self, row: JsonObject) -> None:
        self._rows[row["round"]] = row
        lines = [json.dumps(self._rows[key], ensure_ascii=False) + "\n" for key in sorted(self._rows)]
        write_text(self._path, "".join(lines), durable=True)
        for tracker in self._trackers:
            try:
                # A copy: what a tracker changes is its own.
                given = json.loads(json.dumps(row))
                tracker.run(given, self._folder, seconds=TRACKER_S, about=f"the row of round {row['round']}")
            except UserError as error:
                self._say(f"{error}; the run continues")

    def add(self, round_number: int, fields: JsonObject) -> None:
        """Put further fields into the row of a round that was recorded; one that is not there gets none."""
        if round_number in self._rows and any(
            self._rows[round_number].get(name) != value for name, value in fields.items()
        ):
            self._save(self._rows[round_number] | fields)
            self.scalars(fields, round_number)

    def scalars(self, values: JsonMapping, step: int) -> None:
        """Numbers for TensorBoard alone."""
        for name, value in scalars_of(values):
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush TensorBoard."""
        self._board.close()


def read_metrics(path: Path) -> list[JsonObject]:
    """All rounds recorded so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def scalars_of(values: JsonMapping, prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from scalars_of(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and key != "round":
            yield f"{prefix}{key}", float(value)
