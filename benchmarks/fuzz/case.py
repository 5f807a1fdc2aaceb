"""What a reader's module gives for a case, and the folder that it writes to."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fuzz import odd
from benchmarks.fuzz.mutate import encoded, mutated, spoiled, to_json, tree

REFUSED = "refused"  # what reading returns where a refusal is no UserError; anything else does not matter
Read = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Reader:
    """A kind of input.

    Attributes:
        name: For the table.
        group: "configs", "data" or "wire".
        weight: How often, against the others.
        make: Writes a case's files and says how to read them.
        slow: Whether its imports take seconds; the slice within the tests leaves those out.
    """

    name: str
    group: str
    weight: int
    make: Callable[[random.Random, Place], Read]
    slow: bool = False


class Place:
    """Where the cases of a worker lie.

    Args:
        root: Source tree of the readers.
        folder: Emptied before each case; has a FIFO beside it that nobody writes to.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.base = folder
        self.folder = folder / "case"
        folder.mkdir(parents=True, exist_ok=True)
        self.fifo = folder / "fifo"
        if not self.fifo.exists():
            os.mkfifo(self.fifo)

    def clear(self) -> None:
        """Begin a case."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def write(self, name: str, data: bytes) -> Path:
        """Write a file of the case."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def strange(self, rng: random.Random) -> str:
        """A path that is no file to read."""
        return rng.choice(
            (str(self.fifo), str(self.folder), "/dev/null", "/dev/zero", "a\0b", "q" * 300, "", ".", "/", "no/such",
             "~", "\ud800", "/".join(["d" * 100] * 50), "/proc/self/mem", f"{self.fifo}/x", "/dev/stdin/x", "{lang}")
        )  # fmt: skip


def rows_file(rows: list[dict[str, Any]], rng: random.Random, other: bytes = b"{}") -> bytes:
    """JSON lines of ``rows``, mutated in one row's structure or in their bytes."""
    trees = [tree(row) for row in rows]
    ascii_only = rng.random() < 0.5
    structural = rng.random() < 0.75
    if structural:
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(len(trees))
            trees[at] = mutated(trees[at], rng, odd.json_value)
    data = encoded("".join(to_json(row, ascii_only) + "\n" for row in trees))
    return data if structural and rng.random() < 0.9 else spoiled(data, other, rng)


def json_file(content: Any, rng: random.Random) -> bytes:
    """One JSON document, mutated."""
    whole = tree(content)
    if rng.random() < 0.75:
        return encoded(to_json(mutated(whole, rng, odd.json_value), rng.random() < 0.5))
    return spoiled(encoded(to_json(whole)), b'{"a": [1, 2]}', rng)
