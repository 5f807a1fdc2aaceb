"""One whole round, from prompts to updated weights, here against TRL's ``OnlineDPOTrainer``, in one run.

    python -m benchmarks.round [--sizes 1m_32 135m_64 135m_256] [--model FOLDER] [--turns 2]

Same prompts, two samples each, the same cap on tokens, the same pairs a step, the same cores in all. Every measurement
is a process of its own and they take turns; time begins when models are loaded and engines are up. TRL runs in float32
and in bfloat16, with one thread and with two; its best is what counts. Its vLLM mode does not run on a CPU: it puts
tensors into the live model (``model.load_weights``), where the CPU engine holds packed weights only. The reward is a
function of the text that both compute (``benchmarks.workload.worth``). Asserted: the first loss is ln 2 on both sides,
both train on as many pairs, and on pairs made here both compute the same loss under the trained weights.

``--against cluster.colocate=false`` runs ours once more a turn with that setting, as another row. A size such as
``135m_256:4`` is one of four prompts, to see that all runs.

``--gpu`` (size ``135m_256_gpu``): an engine and a rank share one GPU; TRL samples with Transformers' ``generate`` or
with a vLLM engine beside it, both in bfloat16. What cannot run of TRL's is named, and left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers import need
from benchmarks.workload import CPU_SIZES, OUT, Size, add_sizes, chosen_sizes, report

Setting = tuple[str, str]  # dtype, and a number of threads, or how TRL samples on a GPU
TRL: list[Setting] = [(dtype, threads) for dtype in ("float32", "bfloat16") for threads in ("1", "2")]
TRL_ON_GPU: list[Setting] = [("bfloat16", "generate"), ("bfloat16", "vllm")]
_CHECKED = 16  # pairs whose loss both compute


class Failed(Exception):
    """A measurement did not end well; the message has its last lines."""


def part(module: str, *arguments: str) -> dict[str, Any]:
    """Run a measurement in a process of its own; Failed if it ends badly."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Failed(f"benchmarks.{module} {' '.join(arguments)} failed:\n{done.stdout[-2000:]}{done.stderr[-6000:]}")
    line = done.stdout.strip().splitlines()[-1]
    print(f"{module} {' '.join(arguments[:4])}: {line}", file=sys.stderr, flush=True)
    found: dict[str, Any] = json.loads(line)
    return found


def same_loss(size: Size, ours: dict[str, Any], folder: Path) -> tuple[float, float]:
    """Mean loss of some of a round's pairs under its trained weights, by our learner and by TRL; float32."""
    pairs = json.loads((Path(ours["run"]) / "pairs.json").read_text())
    usable = [pair for pair in pairs if all(pair)][:_CHECKED]
    kept = folder / "checked.json"
    kept.write_text(json.dumps(usable))
    theirs = part("round_trl", size.name, str(size.model), "float32", "1", str(kept), ours["model"])["loss"]
    mine = part("round_check", str(size.model), ours["model"], str(kept))["loss"]
    return mine, theirs


def measure(size: Size, turns: int, given: argparse.Namespace) -> dict[str, Any]:
    """All turns of a size: ours, ours with other settings where there are such, then TRL in each setting."""
    dtype = "float32" if size.small else "bfloat16"
    ours: list[dict[str, Any]] = []
    other: list[dict[str, Any]] = []
    theirs: dict[str, list[dict[str, Any]]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        here = ("round_ours", size.name, str(size.model), dtype, "gpu" if given.gpu else "cpu", name, *given.set)
        for turn in range(turns):
            ours.append(part(*here))
            if given.against:
                other.append(part(*here, *given.against))
            # In float32 the references are the sampler's, whose kernels round otherwise.
            tolerance = 1e-5 if dtype == "float32" else 1e-3
            assert abs(ours[-1]["first_loss"] - math.log(2)) < tolerance, ours[-1]["first_loss"]
            for their_dtype, how in given.trl:
                title = f"{their_dtype}, {how} thread(s)" if how.isdecimal() else f"{their_dtype}, {how}"
                try:
                    found = part("round_trl", size.name, str(size.model), their_dtype, how)
                except Failed as error:
                    if how.isdecimal():
                        raise
                    failed[title] = str(error).rstrip().splitlines()[-1]
                    print(error, file=sys.stderr)
                    continue
                assert abs(found["first_loss"] - math.log(2)) < 1e-2, found["first_loss"]
                assert found["pairs"] == ours[-1]["pairs"], (found["pairs"], ours[-1]["pairs"])
                theirs.setdefault(title, []).append(found)
            if turn == 0:
                losses = same_loss(size, ours[0], Path(name))
                assert abs(losses[0] - losses[1]) < 1e-4, losses
    kept = {"dtype": dtype, "ours": ours, "against": given.against, "other": other, "trl": theirs}
    return {**kept, "failed": failed, "same_loss": losses}


def rate(one: dict[str, Any]) -> float:
    """Completion tokens a second over the whole round."""
    return float(one["tokens"] / one["seconds"])


def _stages(one: dict[str, Any]) -> str:
    parts = [f"{name} {one['tokens'] / seconds:,.0f}" for name, seconds in one["stages"].items() if seconds > 0.01]
    return ", ".join(parts)


def rows(size: Size, found: dict[str, Any]) -> tuple[list[str], float, float | None]:
    """Lines of the table, and the ratios against TRL's best and against its best in float32, if that ran."""
    best = {name: statistics.median(map(rate, turns)) for name, turns in found["trl"].items()}
    mine = statistics.median(map(rate, found["ours"]))
    top = max(best, key=lambda name: best[name])
    plain = max((value for name, value in best.items() if name.startswith("float32")), default=None)
    lines = [f"| {size.name} | here, {found['dtype']} | {mine:,.0f} | | {_stages(found['ours'][-1])} |"]
    if found["other"]:
        value = statistics.median(map(rate, found["other"]))
        name, stages = ", ".join(found["against"]), _stages(found["other"][-1])
        lines.append(f"| | here, {name} | {value:,.0f} | {mine / value:.2f} | {stages} |")
    lines += [
        f"| | TRL, {name} | {value:,.0f} | {mine / value:.2f}{' (best)' if name == top else ''} | "
        f"{_stages(found['trl'][name][-1])} |"
        for name, value in best.items()
    ]
    lines += [f"| | TRL, {name} | failed: {reason} | | |" for name, reason in found["failed"].items()]
    return lines, mine / best[top], plain and mine / plain


def main() -> None:
    """Measure and report."""
    need("trl", "datasets")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sizes(parser, CPU_SIZES)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--gpu", action="store_true", help="on one GPU")
    parser.add_argument("--trl", nargs="+", help="only these settings, as DTYPE:THREADS; on a GPU DTYPE:generate|vllm")
    parser.add_argument("--set", nargs="*", default=[], help="further settings of our run, section.field=value")
    parser.add_argument("--against", nargs="*", default=[], help="settings that ours is run with once more a turn")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of round.json and round.md")
    given = parser.parse_args()
    chosen = chosen_sizes(given)
    given.trl = [tuple(one.split(":")) for one in given.trl or ()] or (TRL_ON_GPU if given.gpu else TRL)
    result: dict[str, Any] = {"ratios": {}, "against_float32": {}, "sizes": {}, "load_before": os.getloadavg()}
    table = ["| size | | completion tokens/s | here / TRL | tokens/s by stage |", "|---|---|---|---|---|"]
    for size in chosen:
        try:
            found = measure(size, given.turns, given)
        except Failed as error:
            sys.exit(str(error))
        lines, best, plain = rows(size, found)
        table += lines
        result["ratios"][size.name], result["against_float32"][size.name] = best, plain
        result["sizes"][size.name] = found
        report("round", result, table, given.out)


if __name__ == "__main__":
    main()
