"""Low-rank adapters (arXiv 2106.09685): put into a model, set aside, merged, written and read.

peft makes the layers; a model keeps its own class, so that packing and the log-probability head see what they always
see. Names of adapter tensors are those of peft's files, names of merged weights those of the model without adapters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from configs.errors import UserError
from configs.schema import LoraConfig
from learners.checkpoint_layout import ADAPTER_FILE, ADAPTER_FOLDER
from rollout.model_folder import weight_files

if TYPE_CHECKING:  # engines import this module, and Transformers' models cost each of them seconds
    from transformers import PreTrainedModel

_PREFIX = "base_model.model."
_BASE = ".base_layer."


@dataclass(frozen=True, slots=True)
class AdaptedLayer:
    """The two trained matrices of a layer; A is ``[rank, in]``, B is ``[out, rank]``."""

    a: nn.Parameter
    b: nn.Parameter
    scale: float


def inject(model: PreTrainedModel, lora: LoraConfig, seed: int) -> dict[str, AdaptedLayer]:
    """Put adapters into a model in place and freeze everything else; at first B is 0, so the model is as it was.

    Args:
        model: The starting policy, on its device.
        lora: Rank, scale and layers.
        seed: Fixes the random A, which must be the same on all ranks.

    Returns:
        Name of each adapted layer, as in the model without adapters -> its matrices, in the model's order.

    Raises:
        UserError: No layer has such a name, or one that has is not an inner linear layer.
    """
    from peft import inject_adapter_in_model
    from peft.tuners.lora import Linear, LoraLayer

    targets = lora.target_modules
    # peft's answer to anything but a linear layer that is named may be an adapter of another kind, so ask first.
    if targets != "all-linear":
        _refuse_unless_linear(model, targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(_peft_config(lora, targets), model)
    found: dict[str, AdaptedLayer] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            if not isinstance(layer, Linear) or layer.fan_in_fan_out:
                raise UserError(f"learner.lora.target_modules: {name} is not a plain linear layer; name others")
            (adapter,) = layer.lora_A
            a: Any = layer.lora_A[adapter]
            b: Any = layer.lora_B[adapter]
            found[name] = AdaptedLayer(a.weight, b.weight, layer.scaling[adapter])
    return found


def _refuse_unless_linear(model: PreTrainedModel, targets: list[str]) -> None:
    output = model.get_output_embeddings()
    for target in targets:
        named = [(name, m) for name, m in model.named_modules() if name == target or name.endswith(f".{target}")]
        if not named:
            raise UserError(f"learner.lora.target_modules: no layer of {type(model).__name__} is called '{target}'")
        wrong = next((name for name, module in named if not isinstance(module, nn.Linear) or module is output), None)
        if wrong is not None:
            raise UserError(
                f"learner.lora.target_modules: {wrong} is not an inner linear layer; only those can have an adapter"
            )


def _peft_config(lora: LoraConfig, targets: str | list[str]):  # type: ignore[no-untyped-def]  # peft loads slowly
    from peft import LoraConfig as PeftConfig

    alpha = int(lora.alpha) if lora.alpha.is_integer() else lora.alpha
    return PeftConfig(
        r=lora.rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # a fraction works as well
        target_modules=targets,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )


def set_aside(model: nn.Module) -> AbstractContextManager[None]:
    """The model as it was before its adapters, for forward passes within.

    Their scale is 0 meanwhile instead of the layers being skipped: under ZeRO-3 every pass must gather the same weights
    in the same order.
    """
    from peft.helpers import rescale_adapter_scale

    aside: AbstractContextManager[None] = rescale_adapter_scale(model, 0.0)
    return aside


def merged(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """A new tensor ``W + scale * B A``, computed in float32 and of the type of ``W``."""
    return (weight.detach().float() + scale * (b.detach().float() @ a.detach().float())).to(weight.dtype)


def base_name(name: str) -> str:
    """Name of a parameter or buffer in the model without adapters."""
    return name.replace(_BASE, ".")


def is_adapter(name: str) -> bool:
    """Whether a parameter of a model with adapters belongs to one of them."""
    return ".lora_A." in name or ".lora_B." in name


def tensor_names(layer: str) -> tuple[str, str]:
    """Names of a layer's A and B in peft's files."""
    return f"{_PREFIX}{layer}.lora_A.weight", f"{_PREFIX}{layer}.lora_B.weight"


def layers_of(names: tuple[str, ...]) -> list[str]:
    """Adapted layers, given the names of an adapter's tensors; inverse of ``tensor_names``."""
    end = ".lora_A.weight"
    return [name.removeprefix(_PREFIX).removesuffix(end) for name in names if name.endswith(end)]


def adapter_shapes(
    names: tuple[str, ...], base: Mapping[str, tuple[int, ...]], rank: int
) -> dict[str, tuple[int, ...]]:
    """Shapes that an adapter's tensors must have for a base model; layers that the base lacks are left out.

    Args:
        names: Names of the tensors.
        base: Name -> shape of the base model's weights.
        rank: Of the adapter.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers_of(names):
        if f"{layer}.weight" in base:
            out_features, in_features = base[f"{layer}.weight"]
            a, b = tensor_names(layer)
            shapes |= {a: (rank, in_features), b: (out_features, rank)}
    return shapes


def merge_into(base: Path, tensors: Mapping[str, Tensor], lora: LoraConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """Merged weights of the adapted layers, by name, with the base read from its folder.

    Args:
        base: Hugging Face folder of the starting policy.
        tensors: An adapter's tensors.
        lora: Its settings.
        dtype: What the base is trained in; the result has it too.
    """
    wanted = set(layers_of(tuple(tensors)))
    result: dict[str, Tensor] = {}
    for file in weight_files(base):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  # not a dictionary
                layer = name.removesuffix(".weight")
                if layer in wanted and name != layer:
                    a, b = (tensors[key] for key in tensor_names(layer))
                    result[name] = merged(weights.get_tensor(name).to(dtype), a, b, lora.alpha / lora.rank)
    return result


def write_adapter(folder: Path, tensors: Mapping[str, Tensor], lora: LoraConfig, base: Path) -> None:
    """Write ``adapter_config.json`` and the tensors, as ``peft.PeftModel.from_pretrained`` and vLLM take them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = _peft_config(lora, sorted(layers_of(tuple(tensors))))
    config.base_model_name_or_path = str(base)
    config.save_pretrained(str(folder))
    file = folder / "adapter_config.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    written["target_modules"].sort()  # peft holds a set, whose order changes from process to process
    file.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(dict(tensors), folder / ADAPTER_FILE, metadata={"format": "pt"})


@torch.no_grad()
def load_adapter(layers: Mapping[str, AdaptedLayer], folder: Path) -> None:
    """Put a checkpoint's adapter into the layers that ``inject`` made.

    Raises:
        UserError: There is none, or it is of other layers or of another rank.
    """
    file = folder / ADAPTER_FOLDER / ADAPTER_FILE
    if not file.is_file():
        raise UserError(f"{file}: not there; a run with learner.lora continues from checkpoints that hold its adapter")
    tensors = load_file(file)
    places = {
        name: parameter
        for layer, adapted in layers.items()
        for name, parameter in zip(tensor_names(layer), (adapted.a, adapted.b), strict=True)
    }
    shapes = {name: parameter.shape for name, parameter in places.items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
        raise UserError(f"{file}: is of other layers or of another rank than learner.lora says")
    for name, parameter in places.items():
        parameter.copy_(tensors[name])
