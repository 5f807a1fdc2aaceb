"""Our learner's loss of given pairs, for ``benchmarks.round``: ``MODEL TRAINED PAIRS``, float32, as JSON."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch

from learners.encode import ChatEncoder
from learners.engine import load_model
from learners.logprobs import LogprobModel, segment_logprobs
from learners.packing import Segment

BETA = 0.1


def loss_of(start: Path, trained: Path, pairs: list[list[str]]) -> float:
    """Mean DPO loss (nats) of (prompt, chosen, rejected), with the starting policy as reference."""
    encoder, device = ChatEncoder(start), torch.device("cpu")
    segments = [
        Segment(tuple(encoder.prompt_ids(prompt)), tuple(tuple(encoder.completion_ids(answer)) for answer in answers))
        for prompt, *answers in pairs
    ]
    sums = []
    for folder in (trained, start):
        scorer = LogprobModel(load_model(folder, "float32", device).requires_grad_(False), 1024)
        rows = segment_logprobs(scorer, segments, 2048, device)
        sums.append([[float(one.sum()) for one in row] for row in rows])
    margins = [(now[0] - before[0]) - (now[1] - before[1]) for now, before in zip(*sums, strict=True)]
    return sum(math.log1p(math.exp(-BETA * margin)) for margin in margins) / len(margins)


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    print(json.dumps({"loss": loss_of(given[0], given[1], json.loads(given[2].read_text()))}))
