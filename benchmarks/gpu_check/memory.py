"""What training keeps on the device, against what the plan of a run predicts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.gpu_check.machine import Device
from benchmarks.gpu_check.result import Found
from benchmarks.gpu_check.speed import Load
from benchmarks.gpu_check.work import (
    Optimiser,
    Ours,
    Shape,
    one_rank,
    parameters_of,
    random_model,
    random_pairs,
    shifted,
)

if TYPE_CHECKING:
    from configs.schema import Config


def config_of(policy: Path, **learner: object) -> Config:
    """The config of a run that trains a policy in bfloat16 on this GPU."""
    from configs.schema import Config

    return Config.model_validate(
        {
            "model": {"policy": policy, "dtype": "bfloat16", "max_length": 4096},
            "languages": {"dominant": "en", "codes": ["en"]},
            "offline": {"path": "nowhere.jsonl"},
            "learner": {"gpus_per_worker": 1, **learner},
        }
    )


def whole(device: Device, shapes: Sequence[Shape], positions: Sequence[int] = (4096, 16384)) -> Found:
    """What training keeps on the device against the plan's prediction, and what a position adds to it."""
    from actors.plan.gpu_memory import ModelSize, needs

    found = Found(
        ("model", "predicted", "kept after a step", "of it", *(f"at most, {n:,} positions" for n in positions))
    )
    for shape in shapes:
        config = shape.config()
        model = random_model(config, torch.bfloat16, device.torch)
        size = ModelSize(parameters_of(model), 0, shape.layers, shape.heads, shape.kv_heads, config.head_dim or 0)
        told = config_of(Path("nowhere"))
        need = next(one for one in needs(told, size) if one.role == "learner")
        optimiser = Optimiser([*model.parameters()], 1e-6)
        peaks = []
        with one_rank():
            for budget in (positions[0], *positions):  # the first step makes the optimizer's state
                examples = random_pairs(max(2, budget // 600), shape.vocabulary, 100, 250)
                way = Ours(model, budget)
                device.reset()
                way.gradients(examples, way.score(examples))
                peaks.append(device.peak())
                kept = device.allocated()
                optimiser.step()
        share = kept / need.gib
        found.rows.append(
            (shape.name, f"{need.gib:.2f}", f"{kept:.2f}", f"{share:.2f}", *(f"{value:.2f}" for value in peaks[1:]))
        )
        found.check(f"{shape.name}: kept over predicted", share, 1.1)
        found.check(f"{shape.name}: kept over predicted, at least", share, 0.9, at_least=True)
        found.notes.append(f"{shape.name}: predicted are {need.text()}")
        del model, optimiser, way
        device.reset()
    found.notes.append("GiB; activations and logits are not predicted, and are in the last columns")
    return found


def adapters(device: Device, load: Load, rank: int = 16) -> Found:
    """Adapters of a large model: what ``configs/llama3_8b_one_gpu.yaml`` asks of its learner."""
    from actors.plan.gpu_memory import ModelSize, needs
    from configs.schema import LoraConfig
    from learners.engine import recompute_layers
    from learners.lora import inject

    found = Found(("positions a micro-batch", "pairs/s", "positions/s", "kept, GiB", "at most, GiB"))
    lora, shape, config = LoraConfig(rank=rank, alpha=2.0 * rank), load.shape, load.shape.config()
    model = random_model(config, torch.bfloat16, device.torch)
    output = model.get_output_embeddings()
    layers = [one for one in model.modules() if isinstance(one, torch.nn.Linear) and one is not output]
    linear = sum(one.in_features + one.out_features for one in layers)
    size = ModelSize(parameters_of(model), linear, shape.layers, shape.heads, shape.kv_heads, config.head_dim or 0)
    told = config_of(Path("nowhere"), lora=lora.model_dump())
    need = next(one for one in needs(told, size) if one.role == "learner")
    inject(model, lora, 0)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimiser = Optimiser(trained, 1e-5)
    recompute_layers(model)
    examples = random_pairs(load.pairs, shape.vocabulary, load.prompt, load.answer)
    positions = sum(one.segment.tokens for one in examples)
    with one_rank():
        for budget in load.budgets:
            way = Ours(model, budget)
            references = shifted(way.score(examples))
            device.reset()
            seconds = []
            for _ in range(3):
                device.wait()
                started = time.perf_counter()
                way.gradients(examples, references)
                kept = device.allocated()
                optimiser.step()
                device.wait()
                seconds.append(time.perf_counter() - started)
            step = min(seconds[1:])
            found.rows.append(
                (
                    f"{budget:,}",
                    f"{load.pairs / step:.1f}",
                    f"{positions / step:,.0f}",
                    f"{kept:.2f}",
                    f"{device.peak():.2f}",
                )
            )
    found.check("kept over predicted", kept / need.gib, 1.1)
    count = sum(one.numel() for one in trained)
    found.notes.append(
        f"{parameters_of(model) / 1e9:.2f} B parameters in bfloat16, {count / 1e6:.0f} M of them in adapters of rank "
        f"{rank}, layers computed again in the backward pass; predicted are {need.text()}"
    )
    return found
