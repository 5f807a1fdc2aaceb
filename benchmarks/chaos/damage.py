"""Files and disks that go bad under a run: a flipped or cut checkpoint or journal, a full disk, a read-only folder.

What is right: the run is refused with one message of ours, or ends equal to an undisturbed one. Once the damage is
undone it continues, and ends equal. Never a traceback, and never other weights without a word.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.chain import END_S, RUN_S, Straight
from benchmarks.chaos.compare import differences
from benchmarks.chaos.run import USER_ERROR, Setting, Start
from benchmarks.chaos.schedule import DAMAGES, Damage

_CHECKPOINT = ("model.safetensors", "state.json", "config.json")


@dataclass
class Damaged:
    """One damage and what followed: refused, unnoticed and equal, ended (by a full disk), or not possible here."""

    damage: Damage
    outcome: str = ""
    where: str = ""
    problems: list[str] = field(default_factory=list)


def damages(seed: int, count: int) -> Iterator[Damage]:
    """The first ``count`` damages of a seed, every kind in turn."""
    order = list(DAMAGES)
    random.Random(f"damages {seed}").shuffle(order)
    return (order[number % len(order)] for number in range(count))


class Bench:
    """Does damages, one run folder each, from a copy of a half-finished run where that is enough.

    Args:
        setting: The run.
        straight: What it must be equal to.
        folder: Where run folders are made.
        draw: Chooses files and bytes.
        say: Gets a line of progress.
    """

    def __init__(
        self, setting: Setting, straight: Straight, folder: Path, draw: random.Random, say: Callable[[str], None]
    ) -> None:
        self._setting = setting
        self._straight = straight
        self._folder = folder
        self._draw = draw
        self._say = say
        self._half: Path | None = None

    def execute(self, damage: Damage, number: int) -> Damaged:
        """One damage."""
        found = Damaged(damage)
        run = self._folder / f"damaged-{number:03d}"
        if damage in ("disk full", "read-only"):
            self._disk(found, run)
        else:
            self._file(found, run)
        self._say(f"{damage}: {found.outcome} ({found.where})")
        for problem in found.problems:
            self._say(f"         ! {problem}")
        return found

    def _start(self, run: Path, what: str) -> Start:
        return Start(self._setting, run, self._folder / f"{run.parent.name}-{run.name}-{what}.log")

    def _half_done(self) -> Path:
        """A run that was killed with at least one checkpoint, made once."""
        if self._half is None:
            run = self._folder / "half"
            start = self._start(run, "begin")
            while not start.ended and not (run / "checkpoints" / "round-0002" / "state.json").is_file():
                time.sleep(0.05)
            start.process.kill()
            start.process.wait()
            start.end([-9])
            self._half = run
        return self._half

    def _file(self, found: Damaged, run: Path) -> None:
        half = self._half_done()
        run = run / half.name  # a run's folder has its name
        shutil.copytree(half, run, symlinks=True)
        path = self._choose(run, found.damage)
        found.where = str(path.relative_to(run))
        sound = path.read_bytes()
        spoiled = bytearray(sound)
        at = self._draw.randrange(len(sound))
        if found.damage.endswith("cut"):
            del spoiled[at:]
        else:
            spoiled[at] ^= 1 << self._draw.randrange(8)
        path.write_bytes(bytes(spoiled))
        found.where += f", byte {at} of {len(sound)}"
        start = self._start(run, "damaged")
        start.wait(RUN_S)
        code = start.process.poll()
        found.problems += [one for one in start.end([0, USER_ERROR]) if "no cure" not in one]
        if code == 0:
            found.outcome = "unnoticed, the end is equal"
            found.problems += differences(self._straight.run, run, self._setting.rounds)
            return
        found.outcome = "refused"
        if path.parent.name not in start.errors and path.name not in start.errors:
            found.problems.append(f"the message does not name the file: {start.errors[:300]!r}")
        # As it was: the damaged start may have written nothing that keeps the sound files from continuing.
        shutil.rmtree(run)
        shutil.copytree(half, run, symlinks=True)
        self._finish(found, run)

    def _choose(self, run: Path, damage: Damage) -> Path:
        if damage.startswith("journal"):  # after a kill most of it is in the write-ahead log
            files = [path for path in (run / "store.sqlite", run / "store.sqlite-wal") if path.is_file()]
            return max(files, key=lambda path: path.stat().st_size)
        newest = max((run / "checkpoints").glob("round-*"))
        files = sorted((newest / "trainer").rglob("*"))
        files += [newest / name for name in _CHECKPOINT if (newest / name).is_file()]
        return self._draw.choice([path for path in files if path.is_file() and path.stat().st_size])

    def _finish(self, found: Damaged, run: Path) -> None:
        start = self._start(run, "finish")
        start.wait(RUN_S)
        problems = start.end([0])
        found.problems += problems
        if not problems:
            found.problems += differences(self._straight.run, run, self._setting.rounds)

    def _disk(self, found: Damaged, run: Path) -> None:
        size = sum(path.stat().st_size for path in self._straight.run.rglob("*") if path.is_file())
        kib = int(size * (0.2 + 0.6 * self._draw.random())) // 1024
        root = self._folder / f"{run.name}-disk"
        root.mkdir(exist_ok=True)
        run = root / run.name
        try:
            with _mounted(root, f"size={max(kib, 512)}k") as remount:
                if found.damage == "disk full":
                    found.where = f"{kib} KiB of the {size // 1024} that it takes"
                    self._full(found, run, remount)
                else:
                    found.where = "between two starts"
                    remount(f"size={4 * size // 1024}k")
                    self._read_only(found, run, remount)
        except PermissionError as error:
            found.outcome = f"not possible here ({error})"

    def _full(self, found: Damaged, run: Path, remount: Callable[[str], None]) -> None:
        start = self._start(run, "full")
        start.wait(RUN_S)
        found.problems += start.end([USER_ERROR])
        found.outcome = "ended with a message"
        remount("size=512m")
        self._finish(found, run)

    def _read_only(self, found: Damaged, run: Path, remount: Callable[[str], None]) -> None:
        run = run.with_name(self._half_done().name)
        shutil.copytree(self._half_done(), run, symlinks=True)
        remount("ro")
        start = self._start(run, "read-only")
        start.wait(END_S)
        found.problems += [one for one in start.end([USER_ERROR]) if "no cure" not in one]
        found.outcome = "refused"
        remount("rw")
        self._finish(found, run)


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A memory file system on a folder; yields what mounts it anew with other options."""

    def call(*arguments: str) -> None:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, timeout=30, check=False)
        if done.returncode != 0:
            raise PermissionError(done.stderr.strip())

    call("-t", "tmpfs", "-o", options, "isogloss-chaos", str(folder))
    try:
        yield lambda change: call("-o", f"remount,{change}", str(folder))
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], timeout=30, check=True)
