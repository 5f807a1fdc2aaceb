"""``python -m benchmarks.fuzz --seed N --cases N``; exit status 1 where anything ended in a traceback."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fuzz.case import Place
from benchmarks.fuzz.worker import DEADLINE_S, READERS, chosen, reader_of, run_case

HERE = Path(__file__).resolve().parents[2]
BASELINE = Path(__file__).parent / "baseline.json"
PATIENCE = 3
OVER = "over the deadline"
_FRAME = re.compile(r'File "(.*)", line (\d+) in (.*)')


@dataclass
class Tally:
    """Outcomes by reader, and every cause with its first case."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    causes: dict[str, list[Any]] = field(default_factory=dict)  # count, reader, number, words of the first

    def add(self, line: dict[str, Any]) -> bool:
        """Count a case; whether its cause is new."""
        self.outcomes[line["reader"], line["outcome"]] += 1
        self.seconds[line["reader"]] += line.get("seconds", DEADLINE_S)
        if "cause" not in line:
            return False
        new = line["cause"] not in self.causes
        entry = self.causes.setdefault(line["cause"], [0, line["reader"], line["number"], line["text"]])
        entry[0] += 1
        return new

    def count(self, readers: set[str], outcome: str = "") -> int:
        """Cases of some readers."""
        return sum(n for (name, what), n in self.outcomes.items() if name in readers and outcome in ("", what))


def run(root: Path, seed: int, cases: int, names: str, deadline: float = DEADLINE_S) -> Iterator[dict[str, Any]]:
    """Outcomes of all cases, in order. A worker that dies is replaced, and its case counted.

    What ran over its deadline is run once more, alone and with ``PATIENCE`` times as long: a busy machine is no hang.
    """
    first = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-stacks-") as folder:
        while first < cases:
            for line in _worker(root, seed, first, cases, names=names, deadline=deadline, folder=Path(folder)):
                first = line["number"] + 1
                if line.get("cause", "").startswith(OVER):
                    yield from _worker(
                        root,
                        seed,
                        line["number"],
                        first,
                        names=names,
                        deadline=PATIENCE * deadline,
                        folder=Path(folder),
                    )
                else:
                    yield line


def _worker(
    root: Path, seed: int, first: int, end: int, *, names: str, deadline: float, folder: Path
) -> Iterator[dict[str, Any]]:
    """Outcomes of cases from ``first`` on, to ``end`` or to the one that the process died of."""
    stacks = folder / f"{first}-{deadline:g}"
    command = [sys.executable, "-m", "benchmarks.fuzz.worker", str(root), str(seed), str(first), str(end)]
    command += [names, str(stacks), str(deadline)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "TMPDIR": str(folder)}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=HERE, env=environment, text=True
    ) as worker:
        assert worker.stdout is not None
        for text in worker.stdout:
            line: dict[str, Any] = json.loads(text)
            first = line["number"] + 1
            yield line
    if worker.returncode and first < end:
        reader, _ = reader_of(seed, first, chosen(names))
        yield {"number": first, "reader": reader.name, "outcome": "traceback"} | _death(worker.returncode, stacks, root)


def _death(status: int, stacks: Path, root: Path) -> dict[str, str]:
    stack = stacks.read_text(encoding="utf-8", errors="replace") if stacks.exists() else ""
    ours = [found for found in _FRAME.finditer(stack) if found[1].startswith(f"{root}/") and "/fuzz/" not in found[1]]
    where = f"{Path(ours[0][1]).relative_to(root)}:{ours[0][2]} in {ours[0][3]}" if ours else "?"
    what = OVER if "Timeout" in stack else f"the process died ({status})"
    return {"cause": f"{what} at {where}", "text": ""}


def _replay(root: Path, seed: int, number: int, names: str) -> None:
    """Show one case: its files, and how it ends."""
    sys.path.insert(0, str(root))
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    place = Place(root, folder)
    reader, rng = reader_of(seed, number, chosen(names))
    outcome, error = run_case(reader, rng, place)
    print(f"case {number} of seed {seed}: {reader.name}, {outcome}; its files are in {place.folder}")
    if error is not None:
        traceback.print_exception(error)
    else:
        place.clear()
        _, rng = reader_of(seed, number, chosen(names))
        try:
            print("returned", repr(reader.make(rng, place)())[:500])
        except Exception as refusal:
            print(str(refusal)[:2000])


def _figures(tally: Tally) -> dict[str, dict[str, int]]:
    groups: dict[str, set[str]] = {}
    for reader in READERS:
        groups.setdefault(reader.group, set()).add(reader.name)
    return {
        group: {"cases": tally.count(names), "tracebacks": tally.count(names, "traceback")}
        for group, names in groups.items()
        if tally.count(names)
    }


def main() -> int:
    """Run, show, and say whether all was well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--case", type=int, help="run this one again and show it")
    parser.add_argument("--readers", default="", help="names or groups, by commas; default all; quick: no slow imports")
    parser.add_argument("--deadline", type=float, default=DEADLINE_S, help="seconds that a case may take")
    parser.add_argument("--target", type=Path, default=HERE, help="source tree whose readers are run")
    parser.add_argument("--record", type=Path, help="write the figures as a baseline to this file")
    given = parser.parse_args()
    root = given.target.resolve()
    if given.case is not None:
        _replay(root, given.seed, given.case, given.readers)
        return 0
    tally, begun = Tally(), time.monotonic()
    again = f"python -m benchmarks.fuzz --seed {given.seed}"
    again += f" --readers {given.readers!r}" if given.readers else ""
    for line in run(root, given.seed, given.cases, given.readers, given.deadline):
        if tally.add(line):
            print(f"{line['reader']}, case {line['number']}: {line['cause']}: {line['text'][:150]!r}", flush=True)
    _show(tally, time.monotonic() - begun, again)
    if given.record is not None:
        kept = {"command": f"{again} --cases {given.cases}", "groups": _figures(tally)}
        given.record.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    everything = {name for name, _ in tally.outcomes}
    cases, wrong = tally.count(everything), tally.count(everything, "traceback")
    print(f"{cases} cases, {wrong} tracebacks")
    return 1 if wrong else 0


def _show(tally: Tally, seconds: float, again: str) -> None:
    print(f"\n{'reader':24}{'cases':>8}{'read':>8}{'refused':>9}{'tracebacks':>12}{'ms':>8}")
    for name in dict.fromkeys(reader.name for reader in READERS):
        counts = [tally.count({name}, what) for what in ("", "ok", "refused", "traceback")]
        if counts[0]:
            taken = 1000 * tally.seconds[name] / counts[0]
            print(f"{name:24}{counts[0]:8}{counts[1]:8}{counts[2]:9}{counts[3]:12}{taken:8.1f}")
    if tally.causes:
        print(f"\n{len(tally.causes)} causes; {again} --case N shows one")
        for cause, (count, reader, number, _) in sorted(tally.causes.items(), key=lambda entry: -entry[1][0]):
            print(f"{count:6}  {cause} ({reader}, case {number})")
    baseline = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.is_file() else {"groups": {}}
    print(f"\n{seconds:.0f} s. Tracebacks here, and in the commit {baseline.get('commit')} of which the baseline is:")
    for group, now in _figures(tally).items():
        then = baseline["groups"].get(group)
        shown = "no baseline" if then is None else _share(then)
        print(f"  {group:8} {_share(now)}, then {shown}")


def _share(counts: dict[str, int]) -> str:
    return f"{counts['tracebacks']} of {counts['cases']} ({100 * counts['tracebacks'] / counts['cases']:.1f} %)"


if __name__ == "__main__":
    random.seed(0)
    sys.exit(main())
