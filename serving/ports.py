"""A replica's channel for Serve's other deployments, on the node's own address instead of every interface."""

from __future__ import annotations

import logging
from typing import Any

import ray

logger = logging.getLogger(__name__)

_EVERYWHERE = "[::]:"
_FUNCTION = "add_port_to_grpc_server"  # of Serve's replica module


def bind_to_node() -> None:
    """Have this process's Serve replica bind its gRPC server to the address by which others know the node.

    Serve binds it to all interfaces when the replica's constructor is done, and has no setting for it. On a cluster of
    one machine the node's address is loopback.
    """
    from ray.serve._private import replica

    add: Any = getattr(replica, _FUNCTION, None)
    if add is None:
        logger.warning("this Ray Serve opens its replicas' gRPC server in another way; it may listen on all interfaces")
        return

    def add_at_node(server: Any, address: str) -> Any:
        if address.startswith(_EVERYWHERE):
            node = ray.util.get_node_ip_address()
            address = (f"[{node}]" if ":" in node else node) + ":" + address.removeprefix(_EVERYWHERE)
        return add(server, address)

    setattr(replica, _FUNCTION, add_at_node)
