"""The fuzzing harness: a slice of it on the readers as they are, and that it counts what it is there to count."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.fuzz.case import REFUSED, Place, Reader
from benchmarks.fuzz.mutate import encoded, mutated, plain, spoiled, to_json, to_yaml, tree
from benchmarks.fuzz.odd import json_value, yaml_value
from benchmarks.fuzz.worker import READERS, chosen, reader_of, run_case
from configs.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

# In the place of `rollout/jsonl.py`'s reader of lines: by the file's bytes it crashes, never ends, or raises.
BROKEN = """
def read_lines(path, what):
    import os, zlib
    kind = zlib.crc32(path.read_bytes()) % 3
    if kind == 0:
        os.abort()
    while kind == 1: pass
    raise KeyError("a slip")
"""


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.fuzz", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("readers", ["configs", "data", "wire"])
def test_a_slice_ends_in_no_traceback(readers: str) -> None:
    done = fuzz("--seed", "11", "--cases", "120", "--readers", f"quick,{readers}")
    assert done.stdout.splitlines()[-1] == "120 cases, 0 tracebacks", done.stdout + done.stderr
    assert done.returncode == 0
    assert "Tracebacks here, and in the commit c6f2a15" in done.stdout  # the baseline stands beside it


def test_a_crash_a_hang_and_a_slip_are_each_counted_with_their_case(tmp_path: Path) -> None:
    for name in ("configs", "evaluation", "judges", "actors"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "rollout", tmp_path / "rollout", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "rollout" / "jsonl.py").open("a") as file:
        file.write(BROKEN)
    options = ["--seed", "1", "--readers", "answers", "--deadline", "1", "--target", str(tmp_path)]
    done = fuzz(*options, "--cases", "9")
    assert done.returncode == 1, done.stdout + done.stderr
    found = Counter(re.findall(r"case \d+: (over the deadline|the process died|KeyError)", done.stdout))
    assert found == {"over the deadline": 1, "the process died": 1, "KeyError": 1}, done.stdout  # once for each cause
    assert "KeyError at rollout/jsonl.py" in done.stdout
    told = re.fullmatch(r"(\d+) cases, (\d+) tracebacks", done.stdout.splitlines()[-1])
    assert told is not None, done.stdout
    cases, tracebacks = map(int, told.groups())
    assert cases == 9
    assert tracebacks >= 7  # of the rest the path was no file's
    slip = re.search(r"case (\d+): KeyError", done.stdout)
    assert slip is not None, done.stdout
    shown = fuzz(*options, "--case", slip[1])
    assert "KeyError: 'a slip'" in shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        (lambda: 1, "ok"),
        (lambda: REFUSED, "refused"),
        (lambda: (_ for _ in ()).throw(UserError("f:1: correct it")).__next__(), "refused"),
        (lambda: (_ for _ in ()).throw(UserError("x" * 100_000)).__next__(), "traceback"),
        (lambda: dict[str, int]()["x"], "traceback"),
        (lambda: sys.exit(1), "traceback"),
        (lambda: bytearray(-1 + 2**62), "traceback"),
    ],
)
def test_outcomes(tmp_path: Path, ends, outcome: str) -> None:
    reader = Reader("x", "data", 1, lambda rng, place: ends)
    assert run_case(reader, random.Random(0), Place(ROOT, tmp_path))[0] == outcome


def test_a_case_is_drawn_from_seed_and_number_alone(tmp_path: Path) -> None:
    place = Place(ROOT, tmp_path)
    prompts = chosen("prompts")

    def files() -> dict[str, bytes]:
        place.clear()
        reader, rng = reader_of(3, 17, prompts)
        reader.make(rng, place)
        return {path.name: path.read_bytes() for path in place.folder.iterdir()}

    first = files()
    assert files() == first
    assert {reader_of(3, n, READERS)[0].name for n in range(400)} == {reader.name for reader in READERS}


def test_mutations_change_what_they_are_given_and_leave_the_original() -> None:
    whole = tree({"a": {"b": [1, "x", None]}, "c": 2.5})
    assert plain(whole) == {"a": {"b": [1, "x", None]}, "c": 2.5}
    before = to_json(whole)
    assert before == '{"a": {"b": [1, "x", null]}, "c": 2.5}'
    assert to_yaml(whole) == "a:\n  b: [1, x, null]\nc: 2.5"
    rng = random.Random(0)
    texts = {to_yaml(mutated(whole, rng, yaml_value)) for _ in range(300)}
    texts |= {to_json(mutated(whole, rng, json_value)) for _ in range(300)}
    assert to_json(whole) == before
    assert len(texts) > 400
    assert encoded("\ud800") == b"\xed\xa0\x80"
    assert len({spoiled(b"abc: def\n", b"xyz", rng) for _ in range(300)}) > 150
