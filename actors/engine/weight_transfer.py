"""vLLM weight-transfer backend that takes a dictionary of tensors, or joins the learner's broadcast of them.

vLLM's built-in backends need a GPU. This one goes through the same lifecycle
(``init_weight_transfer_engine / start / update / finish_weight_update``) and works on CPUs and GPUs (tensors move to
the device in the model's weight loaders); broadcasts over NCCL are untested.

The module is named as vLLM's ``worker_extension_cls``, so that it is imported, and the backend registered, in
whatever process holds the worker.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
from vllm.utils.nccl import unpinned_nccl_env
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

from actors.engine.request_seeds import seed_by_request
from learners.broadcast import receive
from learners.manifest import WeightsManifest
from learners.rendezvous import Rendezvous

BACKEND = "isogloss"


@dataclass
class Init(WeightTransferInitInfo):
    """Nothing to agree on beforehand: every broadcast forms its own group."""


@dataclass
class Update(WeightTransferUpdateInfo):
    """One update: tensors that are here, or where to get them.

    Attributes:
        tensors: Hugging Face parameter name -> tensor on the CPU (may share read-only memory).
        broadcast: What is sent, and where, with the seat of the engine's first process.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    broadcast: tuple[WeightsManifest, Rendezvous] | None = None


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


class Transfer(WeightTransferEngine[Init, Update]):
    """Loads tensors as they come, through vLLM's layerwise reload.

    ``model.load_weights`` alone would corrupt a live CPU engine: its linear layers hold packed weights only.
    """

    failure = ""  # what went wrong since the update began

    init_info_cls = Init
    update_info_cls = Update

    def init_transfer_engine(self, init_info: Init) -> None:
        """No connection to set up."""

    def start_weight_update(self) -> None:
        """Put every layer back into the form in which it takes checkpoint weights."""
        self.failure = ""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, object]) -> None:
        """As the base class, but wait for the accelerator only where there is one, and keep what goes wrong.

        A load that fails half way closes the reload: what the model computes is undefined then, but the next
        update, which brings all weights, finds every layer ready to take them. The error is not raised but kept in
        ``failure``: of a split engine whose processes all raise, vLLM takes one answer, and the next call gets the
        other in place of its own. Ask for it when the update is finished.
        """
        if self.failure:
            return
        try:
            self.receive_weights(self.parse_update_info(update_info))
        except Exception as error:
            finalize_layerwise_reload(self.model, self.model_config)
            self.failure = f"{type(error).__name__}: {error}"
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: Update) -> None:
        """Load all tensors of the update.

        Raises:
            BroadcastFailed: Not all of a broadcast arrived here, or at another process, intact.
        """
        model: Any = self.model  # every vLLM model has load_weights, but no class says so

        def load(tensors: dict[str, torch.Tensor]) -> None:
            model.load_weights(iter(tensors.items()))

        if update_info.broadcast is None:
            load(update_info.tensors)
            return
        manifest, rendezvous = update_info.broadcast
        seat = rendezvous.seat(rendezvous.rank + self.parallel_config.rank)
        with unpinned_nccl_env():  # what vLLM sets of NCCL for itself, the learner has not set
            receive(seat, manifest, self.device, load)

    def finish_weight_update(self) -> None:
        """Pack the layers again, the tied output layer included; nothing where the weights were not taken."""
        if self.failure:
            return
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            repack_tied_heads(self.model)

    def shutdown(self) -> None:
        """Nothing to release."""


class Extension:
    """What vLLM's worker gets besides: importing its module registers the backend."""

    weight_transfer_engine: Any  # Transfer, by vLLM's worker
    model_runner: Any  # by vLLM's worker

    def seed_by_request(self) -> None:
        """Draw each request's tokens by its own seed (CPU)."""
        seed_by_request(self.model_runner, apply_top_k_top_p)

    def weights_failure(self) -> str:
        """Why this process could not take the update's weights; empty if it could."""
        failure: str = self.weight_transfer_engine.failure
        return failure


WeightTransferEngineFactory.register_engine(BACKEND, Transfer)
