"""The study over the embedded world: runs what is missing, writes the page and the results behind it.

    python -m benchmarks.science                        # everything in settings.yaml; writes docs/science.md
    python -m benchmarks.science --rows likelihood icr sharpening --worlds 0 --seeds 0
    python -m benchmarks.science --rows likelihood-0.8 sharpening-0.8     # on the dial; --dial runs all of it

Every run is an ordinary ``isogloss train``, kept in ``runs/science``: finished ones are not run again, unfinished ones
are resumed, so the command can be stopped and repeated. The page is made of what is there, and says how much that is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.science.page import render
from benchmarks.science.results import collect, read, write
from benchmarks.science.study import load_study, run


def main() -> None:
    """Command line."""
    study = load_study()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/science.md"), help="page; results go beside it, .jsonl")
    parser.add_argument("--runs", type=Path, default=Path("runs/science"))
    parser.add_argument("--kept", type=Path, help="results of earlier runs that the page is to show too")
    parser.add_argument("--rows", nargs="*", choices=list(study.rows), default=None)
    parser.add_argument("--dial", action="store_true", help="also the rows on the dial, whose worlds are built first")
    parser.add_argument("--worlds", nargs="*", type=int, choices=study.worlds, default=list(study.worlds))
    parser.add_argument("--seeds", nargs="*", type=int, choices=study.seeds, default=list(study.seeds))
    arguments = parser.parse_args()
    kept = read(arguments.kept) if arguments.kept else None
    rows = arguments.rows or [name for name in study.rows if arguments.dial or name not in study.on_dial]
    for row, world, seed in study.runs():
        if row.name in rows and world in arguments.worlds and seed in arguments.seeds:
            run(study, row, world, seed, arguments.runs)
    results = collect(study, arguments.runs, kept)
    write(results, arguments.out.with_suffix(".jsonl"))
    arguments.out.write_text(render(study, results), encoding="utf-8")
    print(arguments.out)


if __name__ == "__main__":
    main()
