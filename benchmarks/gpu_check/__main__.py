"""``python -m benchmarks.gpu_check --out DIR [--minutes 8] [--only PART ...] [--rehearse]``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

_FIND, _REHEARSE = (f"benchmarks.gpu_check.machine:{name}" for name in ("find", "rehearsal"))


def main(arguments: list[str] | None = None) -> int:
    """Run what can be run; 0 if all of it passed, 1 if a part failed, 2 without a GPU, torch or Transformers."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        print(f"gpu-check: {error}; it needs torch (a CUDA build) and Transformers at least", file=sys.stderr)
        return 2
    from benchmarks.gpu_check import page
    from benchmarks.gpu_check.machine import NoDevice
    from benchmarks.gpu_check.parts import PARTS, resolved
    from benchmarks.gpu_check.runner import run

    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of the JSON file and the page")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    names = [part.name for part in PARTS]
    parser.add_argument("--only", choices=names, action="append", help="this part, and others named so")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU with toy sizes, to try the check itself")
    told = parser.parse_args(arguments)
    device = _REHEARSE if told.rehearse else _FIND
    try:
        found = resolved(device)()
    except NoDevice as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    started = time.monotonic()
    told.out.mkdir(parents=True, exist_ok=True)
    parts = [part for part in PARTS if not told.only or part.name in told.only]
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(parts, device, found.gib, told.minutes * 60, Path(folder))
    paths = page.write(told.out, found.facts, outcomes)
    print(f"{time.monotonic() - started:.0f} s; {paths[0]}, {paths[1]}")
    return 1 if any(one.status == "failed" for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
