"""Build the DeepSpeed engine around a model, and read the gradient norm from it at every ZeRO stage."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from configs.errors import UserError
from configs.schema import LearnerConfig
from learners.distributed import load_deepspeed

# DeepSpeed allocates buffers of this many elements whatever the model's size: take no more than the model
# has.
_LARGEST_BUCKET = 200_000_000


def load_model(folder: Path, dtype: str, device: torch.device) -> PreTrainedModel:
    """A causal model from a folder, every dropout set to 0 and attention through SDPA.

    Without dropout the same weights give the same log-probabilities in sampling, scoring and training; the
    first step of a round would otherwise not start at the reference.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json there; it must be a Hugging Face model folder")
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, dtype),
            attn_implementation="sdpa",
            local_files_only=True,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: its weights cannot be loaded ({error})") from error
    # eval(): nothing in a forward pass may depend on a mode.
    loaded: PreTrainedModel = model.to(device).eval()  # type: ignore[arg-type]
    return loaded


def deepspeed_config(learner: LearnerConfig, dtype: str, parameters: int) -> dict[str, Any]:
    """The engine's settings: ours first, then ``learner.deepspeed``, which may not repeat our fields."""
    stage = zero_stage(learner, dtype)
    bucket = min(_LARGEST_BUCKET, parameters)
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "overlap_comm": False,
    }
    if stage == 3:
        zero["stage3_prefetch_bucket_size"] = bucket
    given = dict(learner.deepspeed)
    extra_zero = given.pop("zero_optimization", {})
    if not isinstance(extra_zero, dict):
        raise UserError("learner.deepspeed.zero_optimization: must be a mapping")
    config: dict[str, Any] = {
        # Counted in packed batches. Accumulation is ours: a step has as many backward passes as its pairs
        # need.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        # DeepSpeed reports no norm at stage 0: there _UnpartitionedClipping clips.
        "gradient_clipping": 0.0 if stage == 0 else learner.max_grad_norm,
        "zero_optimization": zero | extra_zero | {"stage": stage},
        # PyTorch's AdamW instead of DeepSpeed's own, which would have to be compiled first.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if dtype == "bfloat16":
        config["bf16"] = {"enabled": True, "check_grad_overflow": True}
    return config | given


def zero_stage(learner: LearnerConfig, dtype: str) -> int:
    """The ZeRO stage that is used: in bfloat16 stage 0 runs as stage 1.

    DeepSpeed's stage 0 sends bfloat16 through its fp16 wrapper, whose updates differ from those of all other
    stages (measured: half the drop in loss after one step); stage 1 keeps float32 master weights.
    """
    return 1 if learner.zero_stage == 0 and dtype == "bfloat16" else learner.zero_stage


class _UnpartitionedClipping:
    """Clip and check gradients just before an optimizer that DeepSpeed does not wrap takes its step."""

    def __init__(self, parameters: list[nn.Parameter], max_norm: float) -> None:
        self.parameters = parameters
        self.max_norm = max_norm
        self.norm = 0.0

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.norm = float(nn.utils.clip_grad_norm_(self.parameters, self.max_norm))
        if not math.isfinite(self.norm):
            raise FloatingPointError("gradient norm is not finite")


class Engine:
    """A DeepSpeed engine with the few calls that a session makes.

    Args:
        module: The model; called with one packed batch.
        learner: Optimiser, ZeRO stage and further DeepSpeed options.
        dtype: ``float32`` or ``bfloat16``.
    """

    def __init__(self, module: nn.Module, learner: LearnerConfig, dtype: str) -> None:
        deepspeed = load_deepspeed()
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        # Fused: one pass over the state, without temporaries as large as the largest parameter.
        optimizer = AdamW(_groups(parameters, learner.weight_decay), lr=learner.learning_rate, fused=True)
        warmup = learner.warmup_steps
        schedule = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (warmup + 1)))
        self._clipping: _UnpartitionedClipping | None = None
        if zero_stage(learner, dtype) == 0:
            self._clipping = _UnpartitionedClipping(parameters, learner.max_grad_norm)
            optimizer.register_step_pre_hook(self._clipping)
        total = sum(parameter.numel() for parameter in parameters)
        self.deepspeed, _, _, _ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            lr_scheduler=schedule,
            config=deepspeed_config(learner, dtype, total),
            dist_init_required=False,
        )
        self.deepspeed.eval()

    def __call__(self, batch: Any) -> torch.Tensor:
        values: torch.Tensor = self.deepspeed(batch)
        return values

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate gradients of this rank's share of the step's loss."""
        self.deepspeed.backward(loss)

    def step(self) -> tuple[float, float]:
        """Reduce, clip and apply the gradients.

        Returns:
            The gradient norm before clipping, and the learning rate that was used.

        Raises:
            FloatingPointError: The norm is not finite; the weights are as before.
        """
        rate = float(self.deepspeed.get_lr()[0])
        self.deepspeed.step()
        norm = self._clipping.norm if self._clipping else self.deepspeed.get_global_grad_norm()
        if norm is None or not math.isfinite(float(norm)) or not self.deepspeed.was_step_applied():
            raise FloatingPointError("gradient norm is not finite")
        return float(norm), rate

    def save(self, folder: Path) -> None:
        """Write weights, optimiser and schedule; called by every rank."""
        self.deepspeed.save_checkpoint(str(folder), tag="state", save_latest=False)

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote, with the same world size and ZeRO stage; called by every rank."""
        path, _ = self.deepspeed.load_checkpoint(str(folder), tag="state")
        if path is None:
            raise UserError(f"{folder}: holds no optimiser state; delete the folder to go on with a fresh optimiser")

    def close(self) -> None:
        """Release hooks and buffers."""
        self.deepspeed.destroy()


def _groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices only: norms and biases are not decayed."""
    if weight_decay == 0:
        return [{"params": parameters, "weight_decay": 0.0}]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
