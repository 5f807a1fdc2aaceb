"""The process that runs cases: one line a case on standard output, so that the parent knows where it died."""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.fuzz import config_readers, data_readers, form_readers, kept_readers, study_readers, wire_readers
from benchmarks.fuzz.case import REFUSED, Place, Reader

DEADLINE_S = 10.0  # of one case, which takes a few milliseconds
MEMORY_BYTES = 1 << 30  # of one case
_NOT_OURS = ("/benchmarks/fuzz/", "/.venv/")
LONGEST_MESSAGE = 20_000  # characters

READERS: tuple[Reader, ...] = (
    *config_readers.READERS,
    *data_readers.READERS,
    *form_readers.READERS,
    *kept_readers.READERS,
    *study_readers.READERS,
    *wire_readers.READERS,
)


def reader_of(seed: int, number: int, readers: tuple[Reader, ...]) -> tuple[Reader, random.Random]:
    """Which reader a case is for, and what draws its input."""
    rng = random.Random(f"{seed}/{number}")
    return rng.choices(readers, [reader.weight for reader in readers])[0], rng


def run_case(reader: Reader, rng: random.Random, place: Place) -> tuple[str, BaseException | None]:
    """("ok" | "refused", None), or ("traceback", what was raised)."""
    from configs.errors import UserError

    place.clear()
    read = reader.make(rng, place)
    try:
        if read() is REFUSED:
            return "refused", None
    except UserError as error:
        if len(str(error)) > LONGEST_MESSAGE:
            long = ValueError(f"a message of {len(str(error))} characters")
            return "traceback", long.with_traceback(error.__traceback__)
        return "refused", None
    except BaseException as error:
        return "traceback", error
    return "ok", None


def cause_of(error: BaseException, root: Path) -> str:
    """Exception type and innermost frame of the readers' source tree."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(f"{root}/") and not any(part in frame.filename for part in _NOT_OURS)
    ]
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    if isinstance(error, AssertionError) or type(error) is ValueError:
        kind += f" ({str(error)[:60]})"
    if not frames:
        return f"{kind} in the check of what was read"
    last = frames[-1]
    return f"{kind} at {Path(last.filename).relative_to(root)}:{last.lineno} in {last.name}"


def limit_memory() -> None:
    """Let one case take so much more than what the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def chosen(names: str) -> tuple[Reader, ...]:
    """Readers by comma-separated names of readers or groups; "quick" among them leaves out those with slow imports."""
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    quick = "quick" in wanted
    wanted -= {"quick"}
    return tuple(
        reader
        for reader in READERS
        if not (quick and reader.slow) and (not wanted or wanted & {reader.name, reader.group})
    )


def main(arguments: list[str]) -> None:
    """``ROOT SEED FIRST END READERS STACKS DEADLINE``: cases FIRST to END - 1."""
    root = Path(arguments[0])
    seed, first, end = map(int, arguments[1:4])
    names, stacks = arguments[4:6]
    deadline = float(arguments[6])
    sys.path.insert(0, str(root))
    out, sys.stdout = sys.stdout, sys.stderr  # what a reader prints is no outcome
    readers = chosen(names)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, Path(stacks).open("w", encoding="utf-8") as log:
        place = Place(root, Path(folder))
        os.chdir(folder)
        faulthandler.enable(log)
        for reader in readers:  # what it imports is not a case's
            place.clear()
            reader.make(random.Random(0), place)
        limit_memory()
        for number in range(first, end):
            reader, rng = reader_of(seed, number, readers)
            faulthandler.dump_traceback_later(deadline, exit=True, file=log)
            begun = time.perf_counter()
            outcome, error = run_case(reader, rng, place)
            seconds = time.perf_counter() - begun
            faulthandler.cancel_dump_traceback_later()
            line: dict[str, Any] = {"number": number, "reader": reader.name, "outcome": outcome, "seconds": seconds}
            if error is not None:
                line |= {"cause": cause_of(error, root), "text": str(error)[:300]}
            print(json.dumps(line), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
