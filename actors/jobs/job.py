"""What is different inside a Ray job: the cluster is there already, and the working directory does not last.

Ray unpacks the uploaded working directory into its session's folder and deletes it when no job needs it: a run folder
in there would be lost. Pure: reads only the environment that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from configs.errors import UserError
from configs.schema import Config

IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray's job supervisor sets it for every entrypoint
HOME = "ISOGLOSS_HOME"
SUBMITTED_FROM = "ISOGLOSS_SUBMITTED_FROM"


def inside_job(env: Mapping[str, str]) -> bool:
    """Whether this process was started by Ray's job server."""
    return IN_JOB in env


def durable_base(env: Mapping[str, str]) -> Path:
    """Folder that a relative ``run.dir`` of a job starts from; the same for every submission, so that runs resume.

    ``$ISOGLOSS_HOME`` where the cluster sets it (a mounted volume), else the folder that ``isogloss submit`` was
    called in where the driver's node has it too, else ``isogloss`` in the home directory of the driver's node.
    """
    if home := env.get(HOME):
        return Path(home).absolute()
    submitted_from = env.get(SUBMITTED_FROM)
    if submitted_from and Path(submitted_from).is_dir():
        return Path(submitted_from)
    return Path.home() / "isogloss"


def adapt_to_job(config: Config, env: Mapping[str, str], cwd: Path) -> Config:
    """The config as it holds where this process runs; unchanged outside of a job.

    Inside of one, a run joins the job's cluster unless ``cluster.address`` names another, and ``run.dir`` is absolute.

    Args:
        config: As loaded.
        env: Environment variables.
        cwd: Working directory; in a job the unpacked upload.

    Raises:
        UserError: ``run.dir`` lies in the upload, which Ray deletes.
    """
    if not inside_job(env):
        return config
    folder = config.run.dir if config.run.dir.is_absolute() else durable_base(env) / config.run.dir
    if folder.resolve().is_relative_to(cwd.resolve()):
        raise UserError(
            f"run.dir: {folder} lies in the job's working directory, which Ray deletes; name a folder on storage "
            f"that all nodes share, or set {HOME} to one"
        )
    run = config.run.model_copy(update={"dir": folder})
    cluster = config.cluster.model_copy(update={"address": config.cluster.address or "auto"})
    return config.model_copy(update={"run": run, "cluster": cluster})
