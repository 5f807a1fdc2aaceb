"""What the benchmarks of sampling and of whole rounds work on (model, prompts, cap on tokens), and how they report."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.peers import refuse
from benchmarks.smollm2 import FOLDER as SMOLLM2
from configs.load import load_config
from configs.schema import Config
from rollout.records import Candidate, Prompt

RACE = Path("benchmarks/race_world")
OUT = Path("runs/bench")

_TOPICS = (
    "a lighthouse", "the first train of the day", "a violin", "winter in a harbour", "an old bridge", "bees",
    "a market", "the moon", "a lost letter", "a bakery at night", "rain", "a map", "two sisters",
    "a mountain hut", "the library", "a clock", "an island", "a bicycle", "the sea", "a garden",
)  # fmt: skip
_TASKS = ("Write a short story about {}.", "Explain to a child what is special about {}.")


@dataclass(frozen=True)
class Size:
    """One row of a table.

    Attributes:
        name: In the tables and in the JSON.
        model: Hugging Face folder.
        prompts: How many, in each language.
        tokens: Longest answer.
        pairs_per_step: Of the optimiser.
    """

    name: str
    model: Path
    prompts: int
    tokens: int
    pairs_per_step: int

    @property
    def small(self) -> bool:
        """Whether it is the embedded world's model."""
        return self.model.is_relative_to(RACE)


def sizes(model: Path = SMOLLM2) -> dict[str, Size]:
    """All sizes by name; ``model`` is the one of 135 M parameters."""
    rows = (
        Size("1m_32", RACE / "policy", 288, 32, 32),
        Size("135m_64", model, 40, 64, 8),
        Size("135m_256", model, 40, 256, 8),
        Size("135m_256_gpu", model, 256, 256, 64),
    )
    return {row.name: row for row in rows}


def size_of(spec: str, model: Path = SMOLLM2) -> Size:
    """A size by name; ``NAME:N`` is that with N prompts (in each language, where there are several), for a trial."""
    name, _, count = spec.partition(":")
    known = sizes(model)
    if name not in known or (count and (not count.isdecimal() or int(count) == 0)):
        refuse(f"'{spec}' is no size; take one of {', '.join(known)}, or NAME:N for N prompts of it")
    return replace(known[name], name=spec, prompts=int(count)) if count else known[name]


def add_sizes(parser: argparse.ArgumentParser, default: Iterable[str]) -> None:
    """The options that :func:`chosen_sizes` reads."""
    parser.add_argument("--sizes", nargs="+", default=list(default), help=f"of {', '.join(sizes())}")
    parser.add_argument("--model", type=Path, default=SMOLLM2, help="the model of 135 M parameters")


def chosen_sizes(given: argparse.Namespace) -> list[Size]:
    """The sizes that were asked for; ends with one line where a model is not there."""
    chosen = [size_of(name, given.model) for name in given.sizes]
    for size in chosen:
        check(size)
    return chosen


def check(size: Size) -> None:
    """End with one line where the model is not there."""
    if not (size.model / "config.json").is_file():
        refuse(f"{size.name} needs {size.model}, which is not there; run make smollm2, or name a folder with --model")


def worth(text: str) -> float:
    """A reward that costs nothing: how many different characters an answer has, for its length."""
    return len(set(text)) - 0.01 * len(text)


def prompts_of(size: Size) -> list[tuple[str, str]]:
    """(language, prompt) of a size, in order."""
    if not size.small:
        texts = [task.format(topic) for topic in _TOPICS for task in _TASKS]
        turns = range(-(-size.prompts // len(texts)))
        more = [text + f" It is number {turn + 1} of a series." * (turn > 0) for turn in turns for text in texts]
        return [("en", text) for text in more[: size.prompts]]
    found = []
    # Five of six languages: the sixth is not needed to make a round.
    for path in sorted((RACE / "prompts").glob("*.jsonl"))[:5]:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found += [(path.stem, row["prompt"]) for row in rows[: size.prompts]]
    return found


def reward(prompts: Sequence[Prompt], candidates: Sequence[Candidate]) -> list[float]:
    """``worth`` as ``reward.function``."""
    return [worth(one.text) for one in candidates]


CPU_SIZES = ("1m_32", "135m_64", "135m_256")  # what runs where no GPU is

# One engine and one rank share a GPU; the reward needs none.
_ON_GPU = [
    "rollout.actors=1", "rollout.gpus_per_actor=0.4", "rollout.kv_cache_gb=12", "rollout.max_num_seqs=512",
    "rollout.chunk_prompts=64", "rollout.cpus_per_actor=1", "learner.workers=1", "learner.gpus_per_worker=0.6",
    "learner.cpus_per_worker=1", "learner.tokens_per_micro_batch=32768",
]  # fmt: skip


def config_of(size: Size, folder: Path, dtype: str, overrides: Sequence[str] = (), *, gpu: bool = False) -> Config:
    """A run over a size's prompts, which are written into ``folder``: two samples a prompt, one round, ``reward``.

    The settings that serve two cores best: two ranks of one thread train, as two threads of one rank wait for each
    other at every operation, and in float32 the sampler's log-probabilities are the references. With ``gpu`` an engine
    and a rank share one GPU.
    """
    by_language: dict[str, list[str]] = {}
    for language, prompt in prompts_of(size):
        by_language.setdefault(language, []).append(prompt)
    names, counts = list(by_language), {len(rows) for rows in by_language.values()}
    assert len(counts) == 1, "a run has each prompt in each language"
    (count,) = counts
    for language, rows in by_language.items():
        lines = [json.dumps({"id": f"p{index}", "prompt": text}) for index, text in enumerate(rows)]
        (folder / f"{language}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    values = {
        "run": {"dir": str(folder), "name": f"bench-{size.name.replace('_', '-').replace(':', '-')}"},
        "model": {"policy": str(size.model), "dtype": dtype, "max_length": size.tokens + 96},
        "languages": {"dominant": names[0], "codes": names},
        "prompts": {"train": f"{folder}/{{lang}}.jsonl"},
        "rollout": {
            "actors": 2, "cpus_per_actor": 0.3, "prompts_per_round": count, "samples_per_prompt": 2, "temperature": 1.0,
            "max_new_tokens": size.tokens, "chunk_prompts": 32 if size.small else 4, "kv_cache_gb": 0.5,
        },
        "reward": {"kind": "custom", "function": "benchmarks.workload:reward", "cpus_per_actor": 0.3},
        "gates": dict.fromkeys(("language", "truncated", "empty", "duplicates"), False),
        "learner": {
            "objective": "sigmoid", "beta": 0.1, "nll_weight": 0.0, "reference": "previous_round",
            "cpus_per_worker": 0.3, "learning_rate": 1e-5, "warmup_steps": 0, "epochs": 1,
            "pairs_per_step": size.pairs_per_step, "workers": 2, "zero_stage": 0,
            "reference_logprobs": "auto" if dtype == "float32" else "learner",
        },
        "schedule": {"rounds": 1},
    }  # fmt: skip
    kept = folder / "bench.yaml"
    kept.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return load_config(kept, [*(_ON_GPU if gpu else ()), *overrides])


def report(name: str, result: Mapping[str, Any], table: Sequence[str], out: Path = OUT) -> None:
    """Write ``NAME.json`` and ``NAME.md`` into ``out`` and print the latter, with the machine's load."""
    out.mkdir(parents=True, exist_ok=True)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    lines = [*table, "", f"{os.cpu_count()} cores; load average over 1, 5 and 15 minutes at the end: {load}."]
    (out / f"{name}.json").write_text(json.dumps({**result, "load": os.getloadavg()}, indent=1) + "\n")
    (out / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
