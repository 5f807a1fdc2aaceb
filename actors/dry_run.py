"""``isogloss train --dry-run --cluster FILE``: nodes, then memory of the GPUs, against a described cluster."""

from __future__ import annotations

from actors.gpu_memory import check_memory
from actors.placement import PlacementPlan
from actors.screen import console, print_memory, print_nodes
from configs.nodes import DescribedCluster
from configs.schema import Config


def check_described(config: Config, plan: PlacementPlan, cluster: DescribedCluster) -> None:
    """Show where everything goes and what it keeps on its GPUs.

    Raises:
        UserError: A process finds no node, or too little memory.
    """
    placed = print_nodes(plan, cluster.resources())
    source = cluster.model_config_of(config.model.policy)
    if source is None:
        console.print(
            f"Memory is not checked: {config.model.policy} is not on this machine; name its config.json under `models` "
            "of the cluster's description"
        )
        return
    from actors.model_size import model_size  # imports torch

    rows = check_memory(config, model_size(source), plan, placed, cluster.gpu_memory())
    if rows:
        print_memory(rows)
    elif plan.totals()["GPU"]:
        console.print("Memory is not checked: the description gives no gpu_memory_gb for the nodes with GPUs")
