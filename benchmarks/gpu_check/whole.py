"""The whole system on the GPU, each part by its own command: a run of the demo, hot swaps, sampling, the race.

They need Ray, vLLM and DeepSpeed.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.machine import Device
from benchmarks.gpu_check.result import Found
from benchmarks.smollm2 import FOLDER as SMOLLM2

ROOT = Path(__file__).parents[2]
DEMO = "configs/demo.yaml"

# Engine, reward and rank share one GPU's memory and take turns (cluster.colocate).
SHARED = (
    "rollout.actors=1", "rollout.gpus_per_actor=0.3", "rollout.kv_cache_gb=8", "reward.actors=1",
    "reward.gpus_per_actor=0.3", "learner.workers=1", "learner.gpus_per_worker=0.4",
)  # fmt: skip


class PartFailed(Exception):
    """A command of a part ended badly; the message has its last lines, the last one first."""


def _command(*words: str) -> str:
    """What a module's command printed.

    Raises:
        PartFailed: It ended with another status than 0.
    """
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr)[-3000:].rstrip().splitlines() or ["nothing was printed"]
        raise PartFailed("\n".join([f"{' '.join(words[:2])} ended with {done.returncode}: {said[-1]}", *said]))
    return done.stdout


def demo(device: Device) -> Found:
    """A round of the demo, twice: does it learn, what did each stage take, and is a repeat the same run?"""
    from rollout.store import Store

    found = Found(("stage", "s"))
    sampled: list[dict[Any, str]] = []
    with tempfile.TemporaryDirectory() as name:
        for run in ("first", "again"):
            shared = SHARED if device.gib else ("rollout.prompts_per_round=12", "evaluation.samples_per_prompt=1")
            _command("cli", "train", DEMO, "schedule.rounds=1", f"run.dir={name}", f"run.name={run}", *shared)
            with closing(Store.read(Path(name) / run / "store.sqlite")) as store:
                sampled.append({one.key: one.text for one in store.candidates(1)})
        rows = (Path(name) / "first" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(rows[0])
    stages = row["seconds"]["stages"]
    found.rows = [(stage, f"{seconds:.2f}") for stage, seconds in stages.items()]
    found.rows.append(("whole round", f"{row['seconds']['wall']:.2f}"))
    tokens = row["counts"]["completion_tokens"]
    found.figures["completion tokens"] = tokens
    found.figures["sampled tokens/s"] = tokens / stages["generate"]
    found.figures["sync, s"] = row["sync"][0]["seconds"]["total"]
    first = row["learner"]["first_preference_loss"]
    found.check("first preference loss from ln 2", abs(first - math.log(2)), 1e-3)
    found.check("engine's log-probabilities from the learner's, nats", row["sync"][0]["probe_error"], 1e-2)
    before, after = (_greedy(row[when]) for when in ("heldout_start", "heldout"))
    found.figures["greedy accuracy of the others, before"], found.figures["after"] = before, after
    if device.gib:
        found.check("greedy accuracy gained", after - before, 0.02, at_least=True)
    same = sum(text == sampled[1].get(key) for key, text in sampled[0].items()) / len(sampled[0])
    found.figures["share of a repeat's samples that are the same"] = same
    found.notes += [f"{name}: {value:,.4g}" for name, value in found.figures.items() if not isinstance(value, str)]
    return found


def _greedy(heldout: dict[str, Any]) -> float:
    others = [row["accuracy_greedy"] for code, row in heldout.items() if code in ("de", "es", "fr", "ru", "sw")]
    return float(sum(others) / len(others))


def endpoint(device: Device) -> Found:
    """Hot swaps of the endpoint under streaming clients; the command asserts that none is lost or mixed."""
    size = ["--swaps", "10", "--clients", "16", "--gpu"] if device.gib else ["--swaps", "1", "--clients", "2"]
    told = _command("benchmarks.serving", "--parts", "swaps", *size)
    return Found(notes=[line for line in told.splitlines() if line.strip()])


def rollout(device: Device) -> Found:
    """Sampling by a rollout actor against the same engine bare."""
    return _bench(device, "rollout", "--turns", "2")


def race(device: Device) -> Found:
    """A whole round against TRL's ``OnlineDPOTrainer``."""
    return _bench(device, "round", "--turns", "1", *([] if device.gib else ["--trl", "float32:1"]))


def _bench(device: Device, name: str, *words: str) -> Found:
    """A benchmark's table and ratios."""
    size = ["--gpu", "--sizes", "135m_256_gpu", "--model", str(SMOLLM2)] if device.gib else ["--sizes", "1m_32:8"]
    with tempfile.TemporaryDirectory() as folder:
        _command(f"benchmarks.{name}", *size, "--out", folder, *words)
        told = json.loads((Path(folder) / f"{name}.json").read_text(encoding="utf-8"))
        table = (Path(folder) / f"{name}.md").read_text(encoding="utf-8").splitlines()
    cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table if line.startswith("|")]
    head, rows = cells[0], cells[2:]
    return Found(head, list(rows), figures={f"ratio, {row}": value for row, value in told["ratios"].items()})
