"""AdamW on float32 copies of bfloat16 weights, for one rank: what ZeRO does, without its buffers.

DeepSpeed trains bfloat16 through ZeRO stage 1, which flattens weights and gradients into float32 buffers, looks for
overflows and copies back. Where there is nothing to partition that is most of a step's cost. Here gradients are
widened, applied and rounded a few tensors at a time, while they are still in the caches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from learners.weights import in_buckets

# Elements that are worked on at once: 16 MiB of float32 gradients on a CPU; on a GPU more, for fewer launches.
_BLOCK = 2**22
_GPU_BLOCK = 2**26


class MasterAdamW(Optimizer):
    """AdamW whose weights of record are float32; the model's own are those, rounded.

    Args:
        groups: Parameters with ``weight_decay``, as any optimiser takes them. Their ``.grad`` may be of any type.
        lr: Learning rate; schedulers change it in ``param_groups``.
        max_norm: Gradients are scaled down to this norm over all groups.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], lr: float, max_norm: float) -> None:
        super().__init__(list(groups), {"lr": lr, "weight_decay": 0.0})
        self._max_norm = max_norm
        self.norm = 0.0  # of the last step's gradients, before clipping
        self._pairs = [
            [(parameter, parameter.detach().float().clone()) for parameter in group["params"]]
            for group in self.param_groups
        ]
        inner = [
            {"params": [master for _, master in pairs], "weight_decay": group["weight_decay"]}
            for group, pairs in zip(self.param_groups, self._pairs, strict=True)
        ]
        self._adam = AdamW(inner, lr=lr, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Clip the gradients and apply them.

        Raises:
            FloatingPointError: Their norm is not finite; the weights are as before.
        """
        trained = [pair for pairs in self._pairs for pair in pairs if pair[0].grad is not None]
        self.norm = _norm([parameter.grad for parameter, _ in trained if parameter.grad is not None])
        if not math.isfinite(self.norm):
            raise FloatingPointError("gradient norm is not finite")
        for inner, outer in zip(self._adam.param_groups, self.param_groups, strict=True):
            inner["lr"] = outer["lr"]
        scale = min(1.0, self._max_norm / (self.norm + 1e-6))  # as clip_grad_norm_
        most = _BLOCK if all(master.is_cpu for _, master in trained) else _GPU_BLOCK
        for block in in_buckets(trained, lambda pair: pair[1].numel(), most):
            for parameter, master in block:
                assert parameter.grad is not None
                master.grad = parameter.grad.to(torch.float32, copy=True)
                if scale < 1.0:
                    master.grad.mul_(scale)
            self._adam.step()
            for parameter, master in block:
                parameter.copy_(master)
                master.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The float32 weights and AdamW's state."""
        masters = [[master for _, master in pairs] for pairs in self._pairs]
        return {"masters": masters, "adam": self._adam.state_dict(), "rates": [one["lr"] for one in self.param_groups]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what ``state_dict`` gave, of the same parameters in the same order."""
        with torch.no_grad():
            for pairs, kept in zip(self._pairs, state_dict["masters"], strict=True):
                for (parameter, master), value in zip(pairs, kept, strict=True):
                    master.copy_(value)
                    parameter.copy_(master)
        self._adam.load_state_dict(state_dict["adam"])
        for group, rate in zip(self.param_groups, state_dict["rates"], strict=True):
            group["lr"] = rate


def _norm(gradients: Sequence[Tensor]) -> float:
    """Of all together, summed in float32."""
    if not gradients:
        return 0.0
    norms = [torch.linalg.vector_norm(one, dtype=torch.float32) for one in gradients]
    return float(torch.linalg.vector_norm(torch.stack(norms)))
