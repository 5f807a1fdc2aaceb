"""Build the DeepSpeed engine around a model, and read the gradient norm from it at every ZeRO stage."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.serialization import get_crc32_options, set_crc32_options
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.logging import disable_progress_bar

from configs.deepspeed import check_dtype, deepspeed_options
from configs.errors import UserError
from configs.json_types import JsonObject
from configs.model_config import read_model_config
from configs.schema import LearnerConfig
from learners.distributed import load_deepspeed
from learners.logprobs import LogprobModel
from learners.lr_schedules import rate_factor
from learners.optimiser import MasterAdamW

logger = logging.getLogger(__name__)

# DeepSpeed allocates buffers of this many elements whatever the model's size: take no more than the model
# has.
_LARGEST_BUCKET = 200_000_000

# What errors of torch's and DeepSpeed's just-in-time builds say.
_COMPILING = ("JIT load", "failed to build", "building extension", "Ninja is required")


def load_model(folder: Path, dtype: str, device: torch.device) -> PreTrainedModel:
    """A causal model from a folder, every dropout set to 0 and attention through SDPA.

    Without dropout the same weights give the same log-probabilities in sampling, scoring and training; the
    first step of a round would otherwise not start at the reference.

    Raises:
        UserError: There is no model in the folder, it cannot be loaded, or the device cannot compute in ``dtype``.
    """
    check_arithmetic(dtype, device)
    read_model_config(folder)
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


def check_arithmetic(dtype: str, device: torch.device) -> None:
    """Refuse what a GPU would emulate, many times slower.

    Raises:
        UserError: Names the field and the cure.
    """
    if dtype == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(
            f"model.dtype: {torch.cuda.get_device_name(device)} cannot compute in bfloat16; set model.dtype to float32"
        )


def deepspeed_config(learner: LearnerConfig, dtype: str, parameters: int, stage: int) -> JsonObject:
    """The engine's settings: ours first, then ``learner.deepspeed``, which may not contradict our fields.

    Args:
        learner: The learner's section.
        dtype: ``float32`` or ``bfloat16``.
        parameters: Elements of the whole model.
        stage: See ``zero_stage``.

    Raises:
        UserError: ``learner.deepspeed`` contradicts ``dtype``.
    """
    bucket = min(_LARGEST_BUCKET, parameters)
    zero: JsonObject = {
        "stage": stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "overlap_comm": False,
    }
    if stage == 3:
        zero["stage3_prefetch_bucket_size"] = bucket
    given = deepspeed_options(learner)
    try:
        check_dtype(given, dtype)
    except ValueError as error:
        raise UserError(str(error)) from None
    given.pop("fp16", None)
    bf16 = given.pop("bf16", {})
    config: JsonObject = {
        # Counted in packed batches. Accumulation is ours: a step has as many backward passes as its pairs
        # need.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        # DeepSpeed reports no norm at stage 0: there _UnpartitionedClipping clips.
        "gradient_clipping": 0.0 if stage == 0 else learner.max_grad_norm,
        "zero_optimization": zero | given.pop("zero_optimization", {}),
        # PyTorch's AdamW instead of DeepSpeed's own, which would have to be compiled first.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if dtype == "bfloat16" and stage > 0:  # at stage 0 the optimiser is ours, and DeepSpeed need not know
        config["bf16"] = {"check_grad_overflow": True} | bf16 | {"enabled": True}
    return config | given


def zero_stage(learner: LearnerConfig, dtype: str, world_size: int, written: int | None = None) -> int:
    """The ZeRO stage that is used.

    With several ranks stage 0 runs as stage 1 in bfloat16: DeepSpeed's stage 0 sends bfloat16 through its fp16 wrapper,
    whose updates differ from those of all other stages (measured: half the drop in loss after one step).

    One rank has nothing to partition, so stages 1 and 2 run as stage 0, in bfloat16 under ``MasterAdamW``: unless
    ``learner.deepspeed`` has options of its own, or the optimiser's state was written at the stage asked for.

    Args:
        learner: The learner's section.
        dtype: ``float32`` or ``bfloat16``.
        world_size: Ranks.
        written: Stage of the checkpoint that as many ranks continue from.
    """
    asked = 1 if learner.zero_stage == 0 and dtype == "bfloat16" else learner.zero_stage
    if world_size > 1 or asked == 3 or learner.deepspeed or written == asked:
        return asked
    return 0


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
        module: The model; called with one packed batch. Parameters that need no gradient stay as they are, and are not
            in what ``save`` writes.
        learner: Optimiser and further DeepSpeed options.
        dtype: ``float32`` or ``bfloat16``.
        stage: See ``zero_stage``.

    Raises:
        UserError: DeepSpeed refuses its options or cannot compile an optimiser, or the model cannot recompute its
            layers.
    """

    def __init__(self, module: LogprobModel, learner: LearnerConfig, dtype: str, stage: int) -> None:
        deepspeed = load_deepspeed()
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        total = sum(parameter.numel() for parameter in module.parameters())
        self._falls = learner.total_steps is not None  # until it is said that the rate has reached 0
        self._has_frozen = any(not parameter.requires_grad for parameter in module.parameters())
        config = deepspeed_config(learner, dtype, total, stage)
        groups = _groups(parameters, learner.weight_decay)
        factor = rate_factor(learner.schedule, learner.warmup_steps, learner.total_steps)
        self._masters: MasterAdamW | None = None
        # Fused: one pass over the state, without temporaries as large as the largest parameter.
        optimizer: Optimizer | None = None
        if stage == 0 and dtype == "bfloat16":
            optimizer = self._masters = MasterAdamW(groups, learner.learning_rate, learner.max_grad_norm)
        elif "optimizer" not in config:
            optimizer = AdamW(groups, lr=learner.learning_rate, fused=True)
        with _options_are_the_users(learner):
            self.deepspeed, _, _, _ = deepspeed.initialize(
                model=module,
                optimizer=optimizer,
                model_parameters=groups,
                lr_scheduler=None if "scheduler" in config else lambda optimizer: LambdaLR(optimizer, factor),
                config=config,
                dist_init_required=False,
            )
        self._clipping: _UnpartitionedClipping | None = None
        if stage == 0 and self._masters is None:
            self._clipping = _UnpartitionedClipping(parameters, learner.max_grad_norm)
            self.deepspeed.basic_optimizer.register_step_pre_hook(self._clipping)
        if dist.get_world_size() == 1:
            # At stage 0 DeepSpeed would flatten all gradients for a sum over one rank, and copy them back.
            self.deepspeed.enable_backward_allreduce = stage > 0
        self.deepspeed.eval()
        if learner.activation_checkpointing:
            recompute_layers(module.language_model)

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
        if rate == 0.0 and self._falls:
            logger.warning("learner.total_steps are done: the learning rate is 0, so nothing more is learned; raise it")
            self._falls = False
        self.deepspeed.step()
        ours = self._clipping or self._masters
        norm = ours.norm if ours else self.deepspeed.get_global_grad_norm()
        if norm is None or not math.isfinite(float(norm)) or not self.deepspeed.was_step_applied():
            raise FloatingPointError("gradient norm is not finite")
        return float(norm), rate

    def save(self, folder: Path) -> None:
        """Write weights, optimiser and schedule; called by every rank."""
        checked = get_crc32_options()
        set_crc32_options(False)  # every file of a checkpoint has a checksum of ours; a second takes half of the time
        try:
            self.deepspeed.save_checkpoint(
                str(folder), tag="state", save_latest=False, exclude_frozen_parameters=self._has_frozen
            )
        finally:
            set_crc32_options(checked)

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote, with the same world size and ZeRO stage; called by every rank."""
        path, _ = self.deepspeed.load_checkpoint(str(folder), tag="state", load_module_strict=not self._has_frozen)
        if path is None:
            raise UserError(f"{folder}: holds no optimiser state; delete the folder to continue with a fresh optimiser")

    def close(self) -> None:
        """Release hooks and buffers."""
        self.deepspeed.destroy()


@contextmanager
def _options_are_the_users(learner: LearnerConfig) -> Iterator[None]:
    """Say which field to change where ``learner.deepspeed`` is what DeepSpeed cannot be set up with."""
    try:
        yield
    except Exception as error:
        text = str(error)
        if any(sign in text for sign in _COMPILING):
            raise UserError(
                "learner.deepspeed: needs an operation of DeepSpeed that cannot be compiled on this machine "
                f"({text.splitlines()[0]}); install a C++ compiler and ninja, or use PyTorch's optimiser with "
                "optimizer: {type: AdamW, params: {torch_adam: true}}"
            ) from error
        # Not RuntimeError: a rank that died or memory that ran out is no mistake in the options.
        if learner.deepspeed and isinstance(error, ValueError | TypeError | AttributeError | AssertionError):
            raise UserError(f"learner.deepspeed: refused by DeepSpeed: {text}") from error
        raise


def recompute_layers(model: PreTrainedModel) -> None:
    """Let layers keep only their inputs for the backward pass.

    Transformers recomputes in training mode only, so the layers are told that they train; what is in them is not, and
    still depends on no mode.
    """
    try:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise UserError(
            f"learner.activation_checkpointing: {type(model).__name__} cannot ({error}); set false"
        ) from None
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.training = True


def _groups(parameters: list[nn.Parameter], weight_decay: float) -> list[JsonObject]:
    """Weight decay for matrices only: norms and biases are not decayed."""
    if weight_decay == 0:
        return [{"params": parameters, "weight_decay": 0.0}]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
