"""What an engine is told of the device that it runs on, for rollouts and for serving alike."""

from __future__ import annotations

from configs.json_types import JsonObject

# The smallest that vLLM's CPU attention takes (default 128). Only whole blocks of a prompt are shared by its
# samples, so with 128 a short prompt would be prefilled once a sample: 10.4k against 8.8k tokens/s.
_CPU_BLOCK_TOKENS = 32

# vLLM does not start unless this part of the GPU is free (default 0.92), even where the cache's size is given, as
# here always: other engines, reward models and ranks may hold the rest. `actors.plan.gpu_memory` counts what fits.
_LEAST_FREE = 0.01


def device_settings(gpu: bool) -> JsonObject:
    """Arguments of vLLM's engine.

    Args:
        gpu: Whether it runs on GPUs.
    """
    return {"gpu_memory_utilization": _LEAST_FREE} if gpu else {"block_size": _CPU_BLOCK_TOKENS}
