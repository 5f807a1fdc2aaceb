"""The same step by our session and by one of TRL's trainers: loss, gradients, and whether they agree."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from configs.schema import LearnerConfig, ModelConfig
from learners.distributed import single_process
from learners.metrics import StepMetrics
from learners.session import LearnerSession
from rollout.records import Example, Turns
from tests.kits.learner import make_folder

BETA = 0.3


@dataclass
class Folders:
    policy: Path
    reference: Path
    out: Path


def near_reference(base: Path) -> Folders:
    """A policy near its reference: two unrelated models would saturate every sigmoid."""
    reference = make_folder(base / "reference")
    model = AutoModelForCausalLM.from_pretrained(reference)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    policy = make_folder(base / "policy")
    model.save_pretrained(policy)
    return Folders(policy, reference, base / "out")


def import_trl() -> Any:
    """TRL, without what it says when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the versions of vLLM that it knows
        import trl
        import trl.experimental.cpo  # noqa: F401  # which makes it an attribute of trl

        return trl


@dataclass
class Step:
    """One optimiser step: its loss, the gradients, and the weights before it."""

    loss: float
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]
    metrics: StepMetrics | None = None


def ours(folders: Folders, examples: Sequence[Example], **fields: Any) -> list[Step]:
    """A round from the policy against the fixed reference, all examples in one step an epoch."""
    settings = {"reference": "initial", "nll_weight": 0.0, "beta": BETA, "tokens_per_micro_batch": 96} | fields
    if settings["objective"] in ("simpo", "cpo"):
        del settings["reference"]
    if settings["objective"] in ("rloo", "group"):
        del settings["beta"]
    # Clipping off; stage 0, where a parameter's gradient lies in the parameter.
    learner = LearnerConfig(pairs_per_step=len(examples), zero_stage=0, max_grad_norm=1e9, **settings)
    steps: list[Step] = []
    with single_process():
        session = LearnerSession(learner, ModelConfig(policy=folders.reference), 7, folders.policy)

        def read(*_: Any) -> None:
            named = dict(session.policy.named_parameters())
            gradients = {name: one.grad.clone() for name, one in named.items() if one.grad is not None}
            steps.append(Step(0.0, gradients, {name: one.detach().clone() for name, one in named.items()}))

        session.engine.deepspeed.optimizer.register_step_pre_hook(read)
        metrics = session.train_round(1, examples)
        session.close()
    return [replace(step, loss=m.values["loss"], metrics=m) for step, m in zip(steps, metrics.steps, strict=True)]


def theirs(trainer: Any, batches: list[dict[str, Any]], scale: float = 1.0) -> Step:
    """Mean of a trainer's loss over batches, times ``scale``, and its gradients."""
    model = trainer.model
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = trainer.compute_loss(model, batch) * scale / len(batches)
        loss.backward()
        total += loss.item()
    named = dict(model.named_parameters())
    gradients = {name: one.grad.clone() for name, one in named.items() if one.grad is not None}
    return Step(total, gradients, {name: one.detach() for name, one in named.items()})


def assert_same(mine: Step, other: Step, loss_error: float = 1e-5) -> None:
    assert abs(mine.loss - other.loss) < loss_error  # absolute, however large the loss is
    assert mine.gradients.keys() == other.gradients.keys()
    assert len(mine.gradients) == len(mine.weights)
    for name, expected in other.gradients.items():
        error, size = (mine.gradients[name] - expected).norm(), expected.norm()
        assert size > 1e-6, name
        assert error / size < 1e-4, f"{name}: {error / size:.2e}"


def common(folders: Folders, batch: int) -> dict[str, Any]:
    return {
        "output_dir": str(folders.out),
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "per_device_train_batch_size": batch,
    }


def load(folder: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    return model.train()  # what a trainer sets; there is no dropout


def user(text: Turns) -> list[dict[str, str]]:
    assert isinstance(text, str)
    return [{"role": "user", "content": text}]
