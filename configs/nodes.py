"""A cluster as described in a file, for ``isogloss train --dry-run --cluster FILE``: its nodes and what they have."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from configs.base import Section
from configs.errors import UserError


class NodeGroup(Section):
    """Equal nodes."""

    name: str = Field("node", min_length=1, description="What messages call them; a number is put behind it.")
    count: int = Field(1, ge=1, description="How many.")
    cpus: float = Field(..., ge=0, description="CPUs that Ray lends on each.")
    gpus: float = Field(0.0, ge=0, description="GPUs that Ray lends on each.")


class DescribedCluster(Section):
    """All nodes of a cluster."""

    nodes: list[NodeGroup] = Field(..., min_length=1)

    def resources(self) -> dict[str, dict[str, float]]:
        """CPU and GPU of every node, by name."""
        return {
            f"{group.name}-{index}": {"CPU": group.cpus, "GPU": group.gpus}
            for group in self.nodes
            for index in range(group.count)
        }


def load_cluster(path: Path) -> DescribedCluster:
    """Read a description.

    Raises:
        UserError: Names the file and line, or the field.
    """
    try:
        cluster = DescribedCluster.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); see deploy/clusters/ for examples") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path}: {field}: {first['msg']}; see deploy/clusters/ for examples") from None
    names = [group.name for group in cluster.nodes]
    if len(set(names)) < len(names):
        raise UserError(f"{path}: nodes: two groups have the same name; give each its own")
    return cluster
