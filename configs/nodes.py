"""A cluster as described in a file, for ``isogloss train --dry-run --cluster FILE``: its nodes and what they have."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from configs.base import MAX_PARTS, Section
from configs.errors import UserError
from configs.explain import explained, joined
from configs.files import shown_path
from configs.model_config import CONFIG_FILE, is_model_folder
from configs.yaml12 import read_yaml

_EXAMPLES = "see deploy/clusters/ for examples"


class NodeGroup(Section):
    """Equal nodes."""

    name: str = Field("node", min_length=1, description="What messages call them; a number is put behind it.")
    count: int = Field(1, ge=1, le=MAX_PARTS, description="How many.")
    cpus: float = Field(..., ge=0, description="CPUs that Ray lends on each.")
    gpus: float = Field(0.0, ge=0, description="GPUs that Ray lends on each.")
    gpu_memory_gb: float | None = Field(None, gt=0, description="GiB of each GPU; without it memory is not checked.")


class StoredModel(Section):
    """A model on the cluster's storage that is not on this machine."""

    path: Path = Field(..., description="As `model.policy` names it.")
    config: Path = Field(..., description="Its config.json, relative to the description's file.")


class DescribedCluster(Section):
    """All nodes of a cluster."""

    nodes: list[NodeGroup] = Field(..., min_length=1)
    models: list[StoredModel] = Field(default_factory=list)

    @model_validator(mode="after")
    def _not_too_many(self) -> DescribedCluster:
        total = sum(group.count for group in self.nodes)
        if total > MAX_PARTS:
            raise ValueError(f"nodes: {total} in all, more than {MAX_PARTS}; lower their counts")
        return self

    def _each(self) -> dict[str, NodeGroup]:
        """What every node is like, by its name."""
        return {f"{group.name}-{index}": group for group in self.nodes for index in range(group.count)}

    def resources(self) -> dict[str, dict[str, float]]:
        """CPU and GPU of every node, by name."""
        return {name: {"CPU": group.cpus, "GPU": group.gpus} for name, group in self._each().items()}

    def gpu_memory(self) -> dict[str, float | None]:
        """GiB of the GPUs of every node, by its name; None where the description does not say."""
        return {name: group.gpu_memory_gb for name, group in self._each().items()}

    def model_config_of(self, policy: Path) -> Path | None:
        """The ``config.json`` of a model: of the folder if it is here, else as described; None if neither."""
        if is_model_folder(policy):
            return policy / CONFIG_FILE
        return next((model.config for model in self.models if model.path == policy), None)


def load_cluster(path: Path) -> DescribedCluster:
    """Read a description.

    Raises:
        UserError: Names the file and line, or the field.
    """
    values = read_yaml(path, "cluster description", _EXAMPLES)
    if not isinstance(values, dict):
        raise UserError(f"{shown_path(path)}: expected `nodes:` at the top level; {_EXAMPLES}")
    try:
        cluster = DescribedCluster.model_validate(values)
    except ValidationError as error:
        lines = explained(error, DescribedCluster)
        raise UserError(f"{shown_path(path)}: {joined(lines)}; {_EXAMPLES}") from None
    names = [group.name for group in cluster.nodes]
    if len(set(names)) < len(names):
        raise UserError(f"{path}: nodes: two groups have the same name; give each its own")
    models = [model.model_copy(update={"config": path.parent / model.config}) for model in cluster.models]
    for model in models:
        if not model.config.is_file():
            raise UserError(f"{path}: models: {model.config} does not exist; name the config.json of {model.path}")
    return cluster.model_copy(update={"models": models})
