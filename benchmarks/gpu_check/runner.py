"""Run the parts one after the other, each in a process of its own, within the time that there is."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from benchmarks.gpu_check.parts import Earlier, Part, Work, resolved
from benchmarks.gpu_check.result import Check, Found, Outcome, outcome_of

_LEAST = 10.0  # seconds: a part is not started with less


def run(parts: Sequence[Part], device: str, gib: float, seconds: float, folder: Path) -> list[Outcome]:
    """All parts in their order.

    Args:
        parts: To be run.
        device: ``module:function`` that gives the device, called in each part's process.
        gib: The device's memory.
        seconds: All of them together.
        folder: Where a part's process leaves what it found.
    """
    # One server imports torch and Transformers, once; the parts' processes are forked from it, before CUDA is touched.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "benchmarks.gpu_check.work"])
    end = time.monotonic() + seconds
    done: list[Outcome] = []
    for part in parts:
        outcome = _one(
            context, part, device, gib=gib, left=end - time.monotonic(), folder=folder, earlier=_figures(done)
        )
        done.append(outcome)
        print(f"{part.name:14} {outcome.status:8} {outcome.seconds:6.1f} s  {outcome.reason}", flush=True)
    return done


def _figures(done: Sequence[Outcome]) -> Earlier:
    return {f"{one.part}: {name}": value for one in done for name, value in one.found.figures.items()}


def _one(
    context: multiprocessing.context.ForkServerContext,
    part: Part,
    device: str,
    *,
    gib: float,
    left: float,
    folder: Path,
    earlier: Earlier,
) -> Outcome:
    if obstacle := part.obstacle(gib):
        return Outcome(part.name, part.title, "not run", reason=obstacle)
    if left < _LEAST:
        return Outcome(part.name, part.title, "not run", reason="no time left for it (--minutes)")
    target = folder / f"{part.name}.json"
    target.unlink(missing_ok=True)
    limit = min(part.seconds, left)
    started = time.monotonic()
    process = context.Process(target=_child, args=(part.run, device, str(target), earlier))
    process.start()
    process.join(limit)
    seconds = time.monotonic() - started
    if process.is_alive():
        with suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)  # with what it started: it leads a group of its own
        process.join()
        return Outcome(part.name, part.title, "failed", seconds, f"did not end within {limit:.0f} s")
    if not target.is_file():
        return Outcome(part.name, part.title, "failed", seconds, f"its process ended with code {process.exitcode}")
    told = json.loads(target.read_text(encoding="utf-8"))
    target.unlink()
    if "error" in told:
        return Outcome(part.name, part.title, "failed", seconds, told["error"], Found(notes=[told["traceback"]]))
    checks = [Check(**check) for check in told.pop("checks")]
    rows = [tuple(row) for row in told.pop("rows")]
    return outcome_of(part.name, part.title, seconds, Found(**told, checks=checks, rows=rows))


def _child(work: Work, device: str, target: str, earlier: Earlier) -> None:
    """A part's process."""
    os.setpgid(0, 0)
    try:
        told: dict[str, object] = asdict(work(resolved(device)(), earlier))
    except Exception as error:  # whatever it is, it belongs into the report, and the next part runs
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        told = {"error": text, "traceback": traceback.format_exc(limit=-6)}
    Path(target).write_text(json.dumps(told), encoding="utf-8")
