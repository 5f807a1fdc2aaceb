"""vLLM weight-transfer backend that takes a dictionary of arrays in the engine's own process.

vLLM's built-in backends need a GPU. This one goes through the same lifecycle
(``init_weight_transfer_engine / start / update / finish_weight_update``), works on CPU and is written for CUDA as
well (tensors move to the device in the model's weight loaders), where it is untested.

The module is named as vLLM's ``worker_extension_cls``, so that it is imported, and the backend registered, in
whatever process holds the worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

BACKEND = "isogloss_arrays"


@dataclass
class ArraysInit(WeightTransferInitInfo):
    """Nothing to agree on beforehand."""


@dataclass
class ArraysUpdate(WeightTransferUpdateInfo):
    """One update: Hugging Face parameter name -> tensor on the CPU (may share read-only memory)."""

    tensors: dict[str, torch.Tensor]


def repack_tied_heads(model: nn.Module) -> int:
    """Refresh the private copy that a tied output layer keeps of its embedding on CPU.

    The copy is packed for oneDNN once, after the first load. A layerwise reload refreshes layers whose weights
    it loads, and a tied head has none of its own: without this, hidden states are new and logits are old.

    Args:
        model: A vLLM model whose reload has been finalised.

    Returns:
        How many heads were refreshed.
    """
    embeddings = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead)
    }
    tied = [m for m in model.modules() if isinstance(m, ParallelLMHead) and id(m.weight) in embeddings]
    for head in tied:
        method: QuantizeMethodBase = head.quant_method
        method.process_weights_after_loading(head)
    return len(tied)


class ArraysEngine(WeightTransferEngine[ArraysInit, ArraysUpdate]):
    """Loads tensors that are already in this process, through vLLM's layerwise reload.

    ``model.load_weights`` alone would corrupt a live CPU engine: its linear layers hold packed weights only.
    """

    init_info_cls = ArraysInit
    update_info_cls = ArraysUpdate

    def init_transfer_engine(self, init_info: ArraysInit) -> None:
        """No connection to set up."""

    def start_weight_update(self) -> None:
        """Put every layer back into the form in which it takes checkpoint weights."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, object]) -> None:
        """As the base class, but wait for the accelerator only where there is one.

        A load that fails half way closes the reload: what the model computes is undefined then, but the next
        update, which brings all weights, finds every layer ready to take them.
        """
        try:
            self.receive_weights(self.parse_update_info(update_info))
        except BaseException:
            finalize_layerwise_reload(self.model, self.model_config)
            raise
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: ArraysUpdate) -> None:
        """Load all tensors of the update."""
        model: Any = self.model  # every vLLM model has load_weights, but no class says so
        model.load_weights(iter(update_info.tensors.items()))

    def finish_weight_update(self) -> None:
        """Pack the layers again, the tied output layer included."""
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            repack_tied_heads(self.model)

    def shutdown(self) -> None:
        """Nothing to release."""


class RegisterBackend:
    """Worker extension without methods: importing its module registers the backend."""


WeightTransferEngineFactory.register_engine(BACKEND, ArraysEngine)
