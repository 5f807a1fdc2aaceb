"""The learner's step at 135 M parameters in bfloat16, against a plain forward and backward pass of Transformers.

    python -m benchmarks.learner_real [--turns 3] [--threads 1 --threads 2]

The plain pass is 2 x 300 tokens with the logits of all positions. Ours is a step of DPO on pairs: prompt and answers
counted, the prompt once, reference passes not timed. Both take turns in one process. With one thread the seconds are
the process's own, so other work on the machine counts little; with more they are wall-clock seconds. Writes
``runs/bench/learner.json``.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.smollm2 import smollm2
from benchmarks.workload import report
from rollout.records import Pair

PAIRS = 4
WORDS = ("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not", "he")


def make_pairs() -> list[Pair]:
    """Prompts of about 60 tokens with their template, and answers of 150 to 256."""
    draw = random.Random(0)

    def text(least: int, most: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(least, most)))

    texts = [(text(20, 40), text(150, 255), text(150, 255)) for _ in range(PAIRS)]
    return [Pair(f"p{number}", 1, str(number), "en", "anchor", *one, 1.0, 0.0, 0) for number, one in enumerate(texts)]


def measure(model: Path, count: int, turns: int) -> dict[str, float]:
    """Positions a second of both, and the median of the turns' ratios."""
    import torch

    from configs.schema import LearnerConfig, ModelConfig
    from learners.distributed import single_process
    from learners.engine import load_model
    from learners.session import LearnerSession

    clock = time.process_time if count == 1 else time.perf_counter
    learner = LearnerConfig(nll_weight=0.0, learning_rate=1e-6, pairs_per_step=PAIRS, zero_stage=0)
    rows = torch.randint(10, 40_000, (2, 300), generator=torch.Generator().manual_seed(0))
    rates: list[tuple[float, float]] = []
    torch.set_num_threads(count)
    with single_process():
        plain = load_model(model, "bfloat16", torch.device("cpu"))
        session = LearnerSession(learner, ModelConfig(policy=model, max_length=2048), 0, model)
        pairs = make_pairs()
        known = session.reference_logprobs(1, pairs)
        pairs = [replace(p, reference_chosen=known[p.id][0], reference_rejected=known[p.id][1]) for p in pairs]
        for turn in range(turns + 1):
            begun = clock()
            plain(input_ids=rows, labels=rows, use_cache=False).loss.backward()
            middle = clock()
            plain.zero_grad()
            between = clock()
            (step,) = session.train_round(turn + 1, pairs).steps
            if turn:  # the first warms up
                rates.append((rows.numel() / (middle - begun), step.tokens / (clock() - between)))
        session.close()
    return {
        "plain": statistics.median(theirs for theirs, _ in rates),
        "ours": statistics.median(ours for _, ours in rates),
        "ratio": statistics.median(ours / theirs for theirs, ours in rates),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, action="append")
    arguments = parser.parse_args()
    model = smollm2()
    found = {count: measure(model, count, arguments.turns) for count in arguments.threads or (1, 2)}
    table = ["| threads | plain pass, positions/s | a whole step here | ratio | load |", "|---|---|---|---|---|"]
    table += [
        f"| {count} | {row['plain']:.0f} | {row['ours']:.0f} | {row['ratio']:.2f} | {row['load']:.0f} |"
        for count, row in found.items()
    ]
    ratios = {f"135m_bf16_{count}_threads": row["ratio"] for count, row in found.items()}
    report("learner", {"ratios": ratios, "rows": found}, table)


if __name__ == "__main__":
    main()
