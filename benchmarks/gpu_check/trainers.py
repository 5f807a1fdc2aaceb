"""The learner itself, with DeepSpeed and from a model folder, and TRL's trainer on the same tokens."""

from __future__ import annotations

import gc
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.gpu_check.machine import Device
from benchmarks.gpu_check.memory import config_of
from benchmarks.gpu_check.result import Found
from benchmarks.gpu_check.speed import STEPS, Load
from benchmarks.gpu_check.work import BETA, MAX_NORM, parameters_of, random_model, random_pairs
from benchmarks.word_tokenizer import word, write_word_tokenizer
from rollout.records import Pair

_END = 1  # id of the end of turn
_RATE = 1e-6


def write_folder(load: Load, folder: Path) -> Path:
    """A random model in bfloat16 with a tokenizer of a word a token."""
    write_word_tokenizer(folder, load.shape.vocabulary)
    config = load.shape.config()
    config.eos_token_id, config.pad_token_id, config.bos_token_id = _END, 0, None
    random_model(config, torch.bfloat16, torch.device("cpu")).save_pretrained(folder)
    return folder


def text_pairs(load: Load) -> list[Pair]:
    """The pairs of all steps as texts of the tokenizer's words."""
    found = []
    for one in random_pairs(load.pairs * (1 + STEPS), load.shape.vocabulary - 2, load.prompt, load.answer):
        prompt, chosen, rejected = (
            " ".join(word(token + 2) for token in ids) for ids in (one.segment.prompt_ids, *one.segment.completions)
        )
        assert isinstance(one.example, Pair)
        found.append(replace(one.example, prompt=prompt, chosen=chosen, rejected=rejected))
    return found


def session(device: Device, load: Load) -> Found:
    """A round of the learner as a run has it: encoding, reference pass, steps, DeepSpeed's optimizer."""
    from actors.plan.gpu_memory import ModelSize, needs
    from learners.distributed import single_process
    from learners.session import LearnerSession

    found = Found(
        ("positions a micro-batch", "pairs/s", "positions/s", "reference pass, pairs/s", "GiB kept", "at most")
    )
    pairs = text_pairs(load)
    with tempfile.TemporaryDirectory() as name, single_process():
        folder = write_folder(load, Path(name) / "model")
        for budget in load.budgets:
            config = config_of(
                folder,
                nll_weight=0.0,
                beta=BETA,
                learning_rate=_RATE,
                max_grad_norm=MAX_NORM,
                pairs_per_step=load.pairs,
                tokens_per_micro_batch=budget,
            )
            device.reset()
            one = LearnerSession(config.learner, config.model, 0, folder)
            started = time.perf_counter()
            known = one.reference_logprobs(1, pairs)
            scoring = time.perf_counter() - started
            ready = [replace(p, reference_chosen=known[p.id][0], reference_rejected=known[p.id][1]) for p in pairs]
            steps = one.train_round(1, ready).steps
            seconds = median(step.seconds for step in steps[1:])
            positions = sum(step.tokens for step in steps[1:]) / len(steps[1:])
            kept, peak = device.allocated(), device.peak()
            size = load.shape
            count = parameters_of(one.policy)
            one.close()
            del one
            gc.collect()
            device.reset()
            measures = ModelSize(count, 0, size.layers, size.heads, size.kv_heads, size.hidden // size.heads)
            need = next(role for role in needs(config, measures) if role.role == "learner")
            found.rows.append(
                (
                    f"{budget:,}",
                    f"{load.pairs / seconds:.1f}",
                    f"{positions / seconds:,.0f}",
                    f"{len(pairs) / scoring:.1f}",
                    f"{kept:.2f}",
                    f"{peak:.2f}",
                )
            )
            found.check(f"{budget:,} positions: first loss from ln 2", abs(steps[0].values["loss"] - math.log(2)), 1e-6)
            found.figures[f"pairs/s, {budget}"] = load.pairs / seconds
            found.figures["predicted GiB"], found.figures["kept GiB"] = need.gib, kept
    found.figures["pairs/s"] = max(float(value) for name, value in found.figures.items() if name.startswith("pairs/s,"))
    found.notes.append(
        f"{load.shape.name} parameters, LearnerSession with DeepSpeed in bfloat16, {load.pairs} pairs a step; the plan "
        f"predicts {found.figures['predicted GiB']:.2f} GiB without activations"
    )
    return found


def trl(device: Device, load: Load, ours: float | None) -> Found:
    """TRL's DPOTrainer on the same pairs: weights in float32 under autocast, and in bfloat16."""
    found = Found(("weights", "pairs a micro-batch", "pairs/s", "GiB at most"))
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = write_folder(load, Path(name) / "model")
        for kind in ("float32", "bfloat16"):
            for micro in load.plain:
                device.reset()
                try:
                    seconds = _trl_step(load, folder, getattr(torch, kind), micro, out=Path(name), device=device)
                except torch.OutOfMemoryError:
                    found.rows.append((kind, micro, "out of memory", ""))
                    continue
                finally:
                    gc.collect()
                rate = load.pairs / seconds
                rates[kind] = max(rates.get(kind, 0.0), rate)
                found.rows.append((kind, micro, f"{rate:.1f}", f"{device.peak():.1f}"))
    for kind, rate in rates.items():
        found.figures[f"pairs/s, {kind}"] = rate
        if ours:
            found.figures[f"times TRL, {kind}"] = ours / rate
            found.notes.append(
                f"the learner's session is {ours / rate:.2f} times as fast as TRL with weights in {kind}"
            )
    found.notes.append(
        "float32 weights under autocast are what the learner keeps as well (a float32 copy beside those in bfloat16); "
        "in bfloat16 alone TRL's AdamW moves half the bytes, and loses updates of less than 1/256 of a weight"
    )
    return found


def _trl_step(load: Load, folder: Path, kind: torch.dtype, micro: int, *, out: Path, device: Device) -> float:
    """Seconds of a step; the first warms up."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    from learners.batching import encode_examples, steps_of_epoch
    from learners.encode import ChatEncoder

    encoded = encode_examples(ChatEncoder(folder), text_pairs(load), 4096, "sigmoid")
    rows: list[dict[str, Sequence[int]]] = [
        {"prompt_ids": list(s.prompt_ids), "chosen_ids": list(s.completions[0]), "rejected_ids": list(s.completions[1])}
        for step in steps_of_epoch(encoded, load.pairs, 0, 1, 0)
        for s in sorted((one.segment for one in step), key=lambda segment: segment.longest)
    ]
    ends: list[float] = []

    class Trainer(DPOTrainer):
        """Takes token ids as they are."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            device.wait()
            ends.append(time.perf_counter())

    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=kind, attn_implementation="sdpa"),
        args=DPOConfig(
            output_dir=str(out / "trl"),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=load.pairs // micro,
            num_train_epochs=1,
            learning_rate=_RATE,
            lr_scheduler_type="constant",
            max_grad_norm=MAX_NORM,
            beta=BETA,
            max_length=None,
            precompute_ref_log_probs=True,
            gradient_checkpointing=False,
            bf16=True,
            use_cpu=device.torch.type == "cpu",
            train_sampling_strategy="sequential",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=[Clock()],
    )
    trainer.train()
    return median(after - before for before, after in pairwise(ends))
