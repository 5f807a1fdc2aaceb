"""The endpoint for ``serve deploy`` and KubeRay's RayService, which start proxy and application themselves."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from configs.errors import UserError
from serving.access import read_keys
from serving.app import application_name, bind, start_desk
from serving.command import plan


class BuildArguments(BaseModel):
    """``args`` of the application in Serve's config file."""

    model_config = ConfigDict(extra="forbid")

    target: Path = Field(description="Run folder, or Hugging Face model folder; the same path on every node.")
    overrides: list[str] = Field(default_factory=list, description="`field=value` of the serve section.")
    state: Path | None = Field(None, description="For a model folder: where serving.json is kept.")


def application(args: BuildArguments) -> serve.Application:
    """Build the application; its desk is detached, so that it outlives this builder.

    Serve's config file decides on host and port, mostly 0.0.0.0 here. API keys are therefore required.

    Raises:
        UserError: The target is neither a run nor a model, or there are no API keys.
    """
    config, cluster, settings, folder = plan(args.target, args.overrides, args.state)
    keys = read_keys(config, os.environ)
    if not keys:
        raise UserError(
            "serve.api_keys_env: an endpoint under Serve's own config can be reached from other machines, so callers "
            "need API keys; add api_keys_env=ISOGLOSS_API_KEYS, or api_keys_file=..., to overrides"
        )
    name = application_name(settings)
    start_desk(folder, config, name, cluster.sync_timeout_s, "as Serve's config says", lifetime="detached")
    return bind(config, settings, keys, name, cluster.sync_timeout_s)
