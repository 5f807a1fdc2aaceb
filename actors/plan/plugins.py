"""The user's own functions of a run, before it starts."""

from __future__ import annotations

from configs.plugins import load_plugin
from configs.schema import Config


def pinned(config: Config) -> Config:
    """The config with the digest of each function of the user's own: part of what makes two configs the same run.

    Raises:
        UserError: One cannot be imported here.
    """
    digests = {
        field: load_plugin(name, field, group).digest for field, (name, group) in sorted(config.plugin_names.items())
    }
    return config.model_copy(update={"run": config.run.model_copy(update={"plugins": digests})})
