"""Where the learner's ranks meet: a store that listens on their node's address alone.

Ray Train lets PyTorch open it, which listens on every interface, without a key, for as long as the group lives.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.train.torch.config import TorchConfig, _set_torch_distributed_env_vars, _TorchBackend

_opened: list[Any] = []  # rank 0's store, open as long as its process


@dataclass
class NodeTorchConfig(TorchConfig):
    """Ray Train's process group over a store that rank 0 binds to its node's address."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What forms the group."""
        return _NodeBackend


class _NodeBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:  # a NodeTorchConfig
        backend, timeout_s, size = backend_config.backend, backend_config.timeout_s, len(worker_group)
        address, port = worker_group.execute_single(0, open_store, timeout_s)
        worker_group.execute(_set_torch_distributed_env_vars)
        start = worker_group.execute_single_async
        ray.get(
            [
                start(rank, _join, address, port, rank, size, backend=backend, timeout_s=timeout_s)
                for rank in range(size)
            ]
        )


def open_store(timeout_s: int) -> tuple[str, int]:
    """Open the store in this process; gives its address and port."""
    import torch.distributed

    dist: Any = torch.distributed
    address = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.create_server((address, 0), family=family, backlog=1024)
    port = int(listening.getsockname()[1])
    # PyTorch gets a socket that is bound already, and closes it.
    store = dist.TCPStore(
        address, port, None, True, timedelta(seconds=timeout_s), wait_for_workers=False,
        master_listen_fd=listening.detach(),
    )  # fmt: skip
    _opened.append(store)
    return address, port


def _join(address: str, port: int, rank: int, size: int, *, backend: str, timeout_s: int) -> None:
    import torch.distributed

    dist: Any = torch.distributed
    timeout = timedelta(seconds=timeout_s)
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}  # DeepSpeed wants them named
    if backend == "nccl":
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    store = _opened[-1] if rank == 0 else dist.TCPStore(address, port, None, False, timeout, wait_for_workers=False)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
