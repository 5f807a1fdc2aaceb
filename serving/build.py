"""The endpoint for ``serve deploy`` and KubeRay's RayService, which start proxy and application themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from ray import serve
from ray.serve.exceptions import RayServeException

from actors.jobs.job import HOME
from configs.errors import UserError
from configs.explain import explained, joined
from configs.json_types import Json, JsonObject
from serving.access import read_keys
from serving.app import bind, own_coordinator
from serving.command import plan


class CannotBuild(RayServeException):
    """What is wrong, in words: Serve shows errors of this kind as they are, and any other with its traceback."""


class BuildArguments(BaseModel):
    """``args`` of the application in Serve's config file."""

    model_config = ConfigDict(extra="forbid")

    target: Path = Field(description="Run folder, or Hugging Face model folder; the same path on every node.")
    overrides: list[str] = Field(default_factory=list, description="As for `isogloss serve`.")
    state: Path | None = Field(
        None, description="For a model folder: where serving.json is kept; by default under $ISOGLOSS_HOME."
    )

    @field_validator("overrides", mode="before")
    @classmethod
    def _as_one_text(cls, value: Json) -> Json:
        return value.split() if isinstance(value, str) else value  # `serve run serving.build:application overrides=...`


def application(args: JsonObject) -> serve.Application:
    """Build the application. Serve calls this in a process of its own, anew whenever ``args`` changed.

    Serve's config file decides on host and port, mostly 0.0.0.0 here. API keys are therefore required.

    Args:
        args: As ``BuildArguments``. Not annotated with it: Serve reads annotations as they stand, here as a string.

    Raises:
        CannotBuild: The arguments are wrong, the target is neither a run nor a model, or there are no API keys.
    """
    try:
        return _application(BuildArguments.model_validate(args), os.environ)
    except ValidationError as error:
        raise CannotBuild(f"args: {joined(explained(error, BuildArguments))}") from None
    except UserError as error:
        raise CannotBuild(str(error)) from None


def _application(args: BuildArguments, environment: Mapping[str, str]) -> serve.Application:
    config, cluster, settings, folder = plan(args.target, args.overrides, _state(args, environment))
    keys = read_keys(config, environment)
    if not keys:
        raise UserError(
            "serve.api_keys_env: an endpoint under Serve's own config can be reached from other machines, so callers "
            "need API keys; add api_keys_env=ISOGLOSS_API_KEYS, or api_keys_file=..., to overrides"
        )
    timeout = cluster.sync_timeout_s
    return bind(config, settings, keys, own_coordinator(folder, config, timeout), timeout)


def _state(args: BuildArguments, environment: Mapping[str, str]) -> Path | None:
    """Where a model folder's state is kept: Serve's processes start in folders that do not last."""
    for field, path in (("target", args.target), ("state", args.state)):
        if path is not None and not path.is_absolute():
            raise UserError(f"args.{field}: {path} is relative, but Serve's processes start in folders of their own; "
                            "name the absolute path, the same on every node")  # fmt: skip
    if args.state is not None or (args.target / "config.yaml").is_file():
        return args.state
    home = environment.get(HOME)
    if not home:
        raise UserError(
            f"args.state: where shall the serving state of the model folder {args.target} be kept? Name an absolute "
            f"path on storage that all nodes share, or set {HOME}"
        )
    return Path(home) / "runs" / f"serving-{args.target.name}"
