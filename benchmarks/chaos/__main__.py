"""``make chaos SEED=n KILLS=n``: kill, continue, compare; the figures add up over seeds and calls.

Each run folder lives through up to ``--per-run`` kills. Exit status 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.chaos.chain import Chain, Straight, straight_run
from benchmarks.chaos.damage import Bench, damages
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.processes import adopt
from benchmarks.chaos.run import Setting
from benchmarks.chaos.schedule import kills


def main() -> int:
    """Run what is missing of the asked number of kills; print the figures of all that the ledger holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--damages", type=int, default=0, help="of files and disks, after the kills")
    parser.add_argument("--per-run", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no further run after this")
    parser.add_argument("--out", type=Path, default=Path("runs/chaos"), help="where runs and results.json are kept")
    given = parser.parse_args()
    begun = time.monotonic()
    adopt()
    out = given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(out / "results.json")
    setting = Setting(given.seed)
    plan = list(enumerate(kills(given.seed, given.kills)))
    straight: Straight | None = None
    bench: Bench | None = None
    missed: Counter[int] = Counter()
    while waiting := [(number, kill) for number, kill in plan if number not in ledger.done(given.seed)]:
        if time.monotonic() - begun > given.seconds:
            break
        straight = straight or _undisturbed(setting, out)
        batch = waiting[: given.per_run]
        name = f"killed-{batch[0][0]:03d}"
        chain = Chain(setting, straight, straight.run.parent / name, _say)
        # A moment that came too late once comes sooner.
        done = chain.execute([replace(kill, at=kill.at * 0.7 ** missed[number]) for number, kill in batch])
        missed.update([batch[0][0]] if not done else [])
        rows = [
            {"seed": given.seed, "number": number, **one.to_json()}
            for (number, _), one in zip(batch, done, strict=False)
        ]
        run = {"seed": given.seed, "run": name, "starts": chain.starts, "problems": chain.problems}
        ledger.add(kills=rows, runs=[run])
        wrong = bool(chain.problems) or any(one.problems for one in done)
        _say(f"{len(done)} kills in {chain.starts} starts, {'PROBLEMS' if wrong else 'equal'}")
        if not wrong:
            shutil.rmtree(straight.run.parent / name)
    done = sum(row["seed"] == given.seed for row in ledger.data["damages"])
    for number, damage in list(enumerate(damages(given.seed, given.damages)))[done:]:
        if time.monotonic() - begun > given.seconds:
            break
        straight = straight or _undisturbed(setting, out)
        if bench is None:
            draw = random.Random(f"bytes {given.seed} {number}")
            bench = Bench(setting, straight, straight.run.parent, draw, _say)
        ledger.add(damages=[{"seed": given.seed, "number": number, **asdict(bench.execute(damage, number))}])
    for line in ledger.lines():
        print(line)
    return 1 if ledger.problems else 0


def _undisturbed(setting: Setting, out: Path) -> Straight:
    folder = out / f"seed-{setting.seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    straight = straight_run(setting, folder / "straight")
    _say(f"undisturbed run: {straight.start_s:.0f} s to start, {straight.work_s:.0f} s of work")
    return straight


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
