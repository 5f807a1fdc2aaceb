"""The learner against TRL's ``DPOTrainer``: pairs a second and peak memory, side by side, same work.

``python -m benchmarks.learner [--part speed|memory|profile|sweep]``. Both train the same random Llama on the same token
ids, in the same steps, in float32 on one thread, with PyTorch's fused AdamW, constant learning rate, the same clipping,
plain DPO and reference log-probabilities computed beforehand. Each measurement is a process of its own. That both
compute the same is checked each time: loss (1e-5) and gradient norm (1e-4) of the first step, relative, and the losses
of later steps (1e-3; they depend on the updates between).

TRL gets the settings that serve it best on a CPU: no gradient checkpointing, no bf16 autocast, the pairs of a step
sorted by length, and micro-batches of one pair (``--part sweep``: larger ones are slower, since its output layer then
takes more padding and its tiles leave the cache). Padding-free batches are switched off for DPO in TRL 1.16, and on a
CPU its output layer takes every position; with Triton it takes the answers' only, so figures on GPUs will differ.
``--part memory`` compares peaks where both hold the same pairs in a forward pass.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.peers import need
from benchmarks.word_tokenizer import word, write_word_tokenizer
from rollout.records import Pair

VOCABULARIES = (32_000, 256_000)
SHARES = {"1:4": 0.2, "1:1": 0.5, "4:1": 0.8}  # prompt : answer -> share of the prompt
REPEATED = "1:1"  # what every pass measures, for the spread; the others are measured in the first
PEERS = ("isogloss", "trl")
PEERS_NEEDED = ("trl", "datasets")
MEAN_TOKENS = 128  # prompt and one answer
PAIRS_PER_STEP = {32_000: 8, 256_000: 2}
SEED = 0


@dataclass(frozen=True)
class Case:
    """One measurement. ``trl_micro``: pairs of one of TRL's forward passes."""

    peer: str
    vocabulary: int
    ratio: str
    trl_micro: int
    pairs: int  # of an optimiser step
    steps: int = 2  # the first warms up, where there are several
    profile: bool = False


def make_model(folder: Path, vocabulary: int) -> Path:
    """A seeded random Llama (hidden 256, 4 layers, tied embeddings) with a tokenizer of a word a token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    write_word_tokenizer(folder, vocabulary)
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.05,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_pairs(case: Case) -> list[Pair]:
    """Seeded pairs of random words; lengths are log-normal, as those of instructions and answers are."""
    share = SHARES[case.ratio]
    draw = random.Random(f"{SEED}/{case.ratio}")

    def text(mean: float) -> str:
        length = max(4, min(3 * MEAN_TOKENS, round(mean)))
        return " ".join(word(draw.randrange(2, case.vocabulary)) for _ in range(length))

    pairs = []
    for number in range(case.pairs * case.steps):
        total = MEAN_TOKENS * draw.lognormvariate(-0.125, 0.5)
        prompt, answer = share * total, (1 - share) * total
        asked = text(prompt)  # in this order, on which what is drawn depends
        chosen, rejected = (text(answer * draw.lognormvariate(-0.045, 0.3)) for _ in range(2))
        pairs.append(Pair(f"p{number:04d}", 1, str(number), "en", "anchor", asked, chosen, rejected, 1.0, 0.0, 0))
    return pairs


def measure(case: Case, model: Path) -> dict[str, Any]:
    """Run a case in this process; what the parent reads as JSON."""
    import torch

    torch.set_num_threads(1)
    run = _ours if case.peer == "isogloss" else _trl
    if not case.profile:
        return run(case, model)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        found = run(case, model)
    rows = sorted(profiler.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    return found | {"top": [(row.key, row.self_cpu_time_total / total, row.self_cpu_time_total / 1e6) for row in rows]}


def _ours(case: Case, model: Path) -> dict[str, Any]:
    from configs.schema import LearnerConfig, ModelConfig
    from learners.distributed import single_process
    from learners.session import LearnerSession

    # One rank has nothing to partition: stage 0. All else is as by default, but for plain DPO without an NLL term.
    learner = LearnerConfig(
        nll_weight=0.0, learning_rate=1e-4, max_grad_norm=1.0, pairs_per_step=case.pairs, zero_stage=0
    )
    pairs = make_pairs(case)
    with single_process():
        session = LearnerSession(learner, ModelConfig(policy=model, dtype="float32", max_length=2048), SEED, model)
        loaded = _resident(session.policy)
        known = session.reference_logprobs(1, pairs)
        pairs = [replace(p, reference_chosen=known[p.id][0], reference_rejected=known[p.id][1]) for p in pairs]
        steps = session.train_round(1, pairs).steps
        session.close()
    return {
        "losses": [step.values["loss"] for step in steps],
        "norms": [step.grad_norm for step in steps],
        "seconds": sum(step.seconds for step in steps[1:]),
        "positions": sum(step.tokens for step in steps[1:]),
        "scored": sum(round((s.values["tokens_chosen"] + s.values["tokens_rejected"]) * case.pairs) for s in steps[1:]),
        **_memory(loaded),
    }


def _trl(case: Case, model: Path) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    from learners.batching import encode_examples, steps_of_epoch
    from learners.encode import ChatEncoder

    encoded = encode_examples(ChatEncoder(model), make_pairs(case), 2048, "dpo")
    rows = [
        {"prompt_ids": list(s.prompt_ids), "chosen_ids": list(s.completions[0]), "rejected_ids": list(s.completions[1])}
        for step in steps_of_epoch(encoded, case.pairs, SEED, 1, 0)
        for s in sorted((one.segment for one in step), key=lambda segment: segment.longest)
    ]
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="sdpa")
    loaded = _resident(policy)
    losses: list[float] = []
    positions: list[int] = []
    ends: list[float] = []

    class Trainer(DPOTrainer):
        """Takes token ids as they are, and notes what each forward pass gets and gives."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            positions.append(inputs["input_ids"].numel())
            loss = super().training_step(model, inputs, *rest, **named)
            losses.append(float(loss))
            return loss

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    accumulate = case.pairs // case.trl_micro
    with tempfile.TemporaryDirectory() as out:
        settings = DPOConfig(
            output_dir=out,
            per_device_train_batch_size=case.trl_micro,
            gradient_accumulation_steps=accumulate,
            num_train_epochs=1,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            beta=0.1,
            max_length=None,
            precompute_ref_log_probs=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            train_sampling_strategy="sequential",
            dataloader_pin_memory=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
        )
        trainer = Trainer(
            model=policy,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(model),
            callbacks=[Clock()],
        )
        trainer.train()
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    return {
        "losses": [sum(losses[k : k + accumulate]) for k in range(0, len(losses), accumulate)],
        "norms": [float(norm) for norm in norms],
        "seconds": ends[-1] - ends[0],
        "positions": sum(positions[accumulate:]),
        "scored": sum(positions[accumulate:]),  # TRL's output layer takes every position where there is no Triton
        **_memory(loaded),
    }


def _resident(model: Any) -> int:
    """Resident bytes of this process once every weight has been touched (files are mapped lazily)."""
    for parameter in model.parameters():
        parameter.detach().sum()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _memory(loaded: int) -> dict[str, float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak": peak / 2**20, "over": (peak - loaded) / 2**20}


def run_case(case: Case, model: Path) -> dict[str, Any]:
    """Measure a case in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.learner", "--case", json.dumps(vars(case)), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    if done.returncode:
        sys.exit(f"{case}: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["rate"] = case.pairs * (case.steps - 1) / found["seconds"] if case.steps > 1 else 0.0
    return found


def check_equal(case: Case, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Stop unless both computed the same."""

    def apart(key: str, step: int) -> float:
        return abs(ours[key][step] - theirs[key][step]) / abs(theirs[key][step])

    later = max((apart("losses", step) for step in range(1, case.steps)), default=0.0)
    found = {"loss": apart("losses", 0), "gradient norm": apart("norms", 0), "later losses": later}
    allowed = {"loss": 1e-5, "gradient norm": 1e-4, "later losses": 1e-3}
    if any(not found[name] <= allowed[name] for name in allowed) or len(ours["norms"]) != len(theirs["norms"]):
        sys.exit(f"{case}: not the same computation: {found}, allowed {allowed}")
    print(f"  equal: {', '.join(f'{name} {value:.1e}' for name, value in found.items())}")


def both(case: Case, models: dict[int, Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A case for both peers, checked to be the same computation."""
    found = []
    for peer in PEERS:
        one = run_case(replace(case, peer=peer), models[case.vocabulary])
        found.append(one)
        print(
            f"{case.vocabulary:6}  {case.ratio}  {peer:8}  {one['rate']:.3f} pairs/s  peak {one['peak']:.0f} MiB, "
            f"{one['over']:.0f} over the loaded model",
            flush=True,
        )
    check_equal(case, *found)
    return found[0], found[1]


def speed(passes: int, micro: int, models: dict[int, Path]) -> str:
    """Pairs a second and peaks of all cases, as Markdown."""
    cases = [Case("", size, ratio, micro, PAIRS_PER_STEP[size]) for size in VOCABULARIES for ratio in SHARES]
    results: dict[Case, list[tuple[dict[str, Any], dict[str, Any]]]] = {case: [] for case in cases}
    for number in range(passes):
        for case in cases:
            if number == 0 or case.ratio == REPEATED:
                results[case].append(both(case, models))
    lines = [
        "| vocabulary | prompt : answer | pairs/s | TRL | times | peak MiB | TRL | over the loaded model | TRL | "
        "layers | TRL | output layer | TRL |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case, found in results.items():
        ours, theirs = zip(*found, strict=True)
        times = [a["rate"] / b["rate"] for a, b in found]
        rates = [_span([one["rate"] for one in side]) for side in (ours, theirs)]
        peaks = [f"{max(one[key] for one in side):,.0f}" for key in ("peak", "over") for side in (ours, theirs)]
        work = [f"{side[0][key]:,}" for key in ("positions", "scored") for side in (ours, theirs)]
        lines.append(
            "| " + " | ".join([f"{case.vocabulary:,}", case.ratio, *rates, _span(times), *peaks, *work]) + " |"
        )
    return "\n".join(lines)


def memory(models: dict[int, Path]) -> str:
    """Peaks of one step at the large vocabulary, where a pass of TRL holds as many pairs as one of ours, as Markdown.

    One step only, for time: AdamW's state, the same on both sides, is then made after the backward pass.
    """
    ours, theirs = both(Case("", VOCABULARIES[-1], "1:1", 8, 8, steps=1), models)
    cells = [f"{side[key]:,.0f}" for key in ("peak", "over") for side in (ours, theirs)]
    return (
        "| pairs a forward pass | peak MiB | TRL | share | over the loaded model | TRL | share |\n"
        "|---|---|---|---|---|---|---|\n"
        f"| 8 | {cells[0]} | {cells[1]} | {ours['peak'] / theirs['peak']:.2f} | {cells[2]} | {cells[3]} | "
        f"{ours['over'] / theirs['over']:.2f} |"
    )


def _span(values: list[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low}-{high}"


def profile(micro: int, models: dict[int, Path]) -> str:
    """Where both spend their time (reference pass and two steps), by operator, as Markdown."""
    size = VOCABULARIES[-1]
    case = Case("", size, REPEATED, micro, PAIRS_PER_STEP[size], profile=True)
    tops = [run_case(replace(case, peer=peer), models[size])["top"][:6] for peer in PEERS]
    lines = ["| isogloss | s | share | TRL | s | share |", "|---|---|---|---|---|---|"]
    for row in zip(*tops, strict=True):
        lines.append("| " + " | ".join(f"`{key}` | {own:.1f} | {share:.0%}" for key, share, own in row) + " |")
    return "\n".join(lines)


def sweep(models: dict[int, Path]) -> str:
    """Which size of micro-batch serves TRL best."""
    size = VOCABULARIES[0]
    lines = ["| TRL's micro-batch | pairs/s | peak MiB |", "|---|---|---|"]
    for micro in (1, 2, 4):
        found = run_case(Case("trl", size, "1:1", micro, PAIRS_PER_STEP[size]), models[size])
        lines.append(f"| {micro} | {found['rate']:.2f} | {found['peak']:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=["speed", "memory", "profile", "sweep"], action="append")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--trl-micro", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(Case(**json.loads(arguments.case[0])), Path(arguments.case[1]))))
        return
    need(*PEERS_NEEDED)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        models = {size: make_model(Path(folder) / str(size), size) for size in VOCABULARIES}
        parts: dict[str, Callable[[], str]] = {
            "speed": lambda: speed(arguments.passes, arguments.trl_micro, models),
            "memory": lambda: memory(models),
            "profile": lambda: profile(arguments.trl_micro, models),
            "sweep": lambda: sweep(models),
        }
        for part in arguments.part or ("speed", "memory", "profile"):
            print(f"\n{parts[part]()}\n", flush=True)
    print(f"{time.perf_counter() - started:.0f} s, one thread")


if __name__ == "__main__":
    main()
