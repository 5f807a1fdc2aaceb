"""vLLM's scheduler, with one request that may run while all others stand still: the one that proves new weights.

Paused with mode "wait", vLLM still runs requests that hold blocks of the key-value cache, so that these can end.
After a pause that cleared the cache no request holds any, and a probe that is taken for one is all that runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

if TYPE_CHECKING:
    from vllm.v1.request import Request

PROBE = "isogloss-probe-"  # how the ids of probes begin; requests of callers have vLLM's own


class ProvingScheduler(Scheduler):
    """For CPUs."""

    @staticmethod
    def _holds_kv_blocks(request: Request) -> bool:
        return _is_probe(request) or Scheduler._holds_kv_blocks(request)


class ProvingAsyncScheduler(AsyncScheduler):
    """For GPUs, where the next step is scheduled while one is computed."""

    @staticmethod
    def _holds_kv_blocks(request: Request) -> bool:
        return _is_probe(request) or AsyncScheduler._holds_kv_blocks(request)


def _is_probe(request: Request) -> bool:
    return bool(request.request_id.startswith(PROBE))
