"""``isogloss serve``, ``promote`` and ``rollback``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from actors.machine.checks import slow_arithmetic
from configs.errors import Stopped, UserError
from configs.files import shown_path
from configs.json_types import JsonObject
from configs.load import apply_override, load_run_config, validated
from configs.model_config import AUTO, check_dtype, is_model_folder, longest_context, named_dtype, read_model_config
from configs.running import ClusterConfig
from configs.schema import Config
from configs.serving import ServeConfig
from learners.checkpoint_layout import all_checkpoints, read_manifest
from learners.manifest import WeightsManifest
from rollout.model_folder import check_engine_files, verify_checkpoint
from rollout.policy import run_policy
from rollout.run_layout import checkpoint_folder, round_of
from serving.facts import EndpointStatus
from serving.fit import check_length
from serving.folder import STATUS, STATUS_FRESH_S, ServingFolder, ServingState
from serving.gate import GateDecision

if TYPE_CHECKING:
    from serving.engine import EngineSettings

_DTYPE = "model.dtype="  # the one field that is not of the endpoint
_LENGTH = 2048  # of a model whose config names no number of positions


def run_serve(target: Path, overrides: Sequence[str], state: Path | None) -> None:
    """Serve a run's current policy, or a model folder, until ctrl-C or SIGTERM.

    Args:
        target: Run folder, or Hugging Face model folder.
        overrides: ``field=value`` of the serve section, ``cluster.field=value`` or ``model.dtype=value``.
        state: For a model folder: where ``serving.json`` is kept.
    """
    from actors.runtime.cluster import start_cluster
    from actors.runtime.signals import LOOK_S, StopFlag, StopRequested, stop_on_signals
    from serving.app import serving

    config, cluster, settings, folder = plan(target, overrides, state)
    if (note := slow_arithmetic(settings.dtype, config.gpus_per_replica > 0, cluster.address)) is not None:
        print(note, flush=True)
    flag = StopFlag()
    try:
        with stop_on_signals(flag), start_cluster(cluster, folder.path, should_stop=flag) as started:
            started.watch.advise("start the same command again; what is served is kept")
            started.watch.excuse(lambda: flag.asked_by)
            need, have = config.min_replicas * config.cpus_per_replica, started.resources.get("CPU", 0.0)
            if need > have:
                raise UserError(
                    f"serve.min_replicas: {config.min_replicas} x {config.cpus_per_replica:g} CPUs are needed, the "
                    f"cluster has {have:g}; lower it or serve.cpus_per_replica, or raise cluster.num_cpus"
                )
            timeouts = cluster.start_timeout_s, cluster.sync_timeout_s
            with serving(folder, config, settings, *timeouts, should_stop=flag) as endpoint:
                current = endpoint.status()["wanted"]["current"]
                print(f"serving {settings.name} v{current['version']} at {endpoint.url}   (ctrl-C ends it)", flush=True)
                while not flag():
                    time.sleep(LOOK_S)
    except StopRequested:
        raise Stopped(f"stopped by {flag.asked_by} before anything was served") from None


def plan(
    target: Path, overrides: Sequence[str], state: Path | None
) -> tuple[ServeConfig, ClusterConfig, EngineSettings, ServingFolder]:
    """What to serve and how: the settings of a run or a model folder, overridden.

    Args:
        target: Run folder, or Hugging Face model folder.
        overrides: As for ``run_serve``.
        state: For a model folder: where ``serving.json`` is kept.

    Raises:
        UserError: The target is neither, or an override is wrong.
    """
    from serving.follow import engine_settings

    if (target / "config.yaml").is_file():
        run = load_run(target, overrides)
        folder = ServingFolder(target)
        settings = engine_settings(run)
        check_length(run.model.policy, run.serve, settings)
        if folder.read() is None:
            newest = max(map(round_of, all_checkpoints(target)), default=0)
            if newest == 0:
                run_policy(target, run.model.policy)  # refuses where rounds were trained and all of them are gone
            promote_version(target, newest, "the newest when serving began")
        return run.serve, run.cluster, settings, folder
    if not is_model_folder(target):
        raise UserError(f"{target}: neither a run folder (config.yaml) nor a model folder (config.json)")
    asked: JsonObject = {"dtype": AUTO}
    values: JsonObject = {"serve": {}, "cluster": {}, "model": asked}
    for override in overrides:
        apply_override(values, _endpoint_override(override))
    dtype = asked["dtype"]
    check_dtype(dtype, f"model.dtype: {dtype!r} is")
    serve = validated(values["serve"], ServeConfig, "overrides", within="serve")
    cluster = validated(values["cluster"], ClusterConfig, "overrides", within="cluster")
    check_engine_files(target)
    name = serve.model_name or target.resolve().name
    folder = ServingFolder(state or Path("runs") / f"serving-{name}")
    settings = _model_settings(target, name, serve, dtype)
    check_length(target, serve, settings)
    from serving.describe import describe  # brings torch

    manifest = describe(target, 0)
    known = folder.read()
    if known is None or not _keeps(folder, manifest):
        # Version 0 is this folder's weights; what was served under that number before is another model, or damaged.
        folder.reset()
        folder.promote(target, manifest, GateDecision(True, f"model folder {target}"), "serve")
    return serve, cluster, settings, folder


def _keeps(folder: ServingFolder, manifest: WeightsManifest) -> bool:
    try:
        return folder.manifest(manifest.version) == manifest
    except UserError:
        return False


def _model_settings(folder: Path, name: str, serve: ServeConfig, dtype: str) -> EngineSettings:
    from serving.engine import EngineSettings

    length = serve.max_length or longest_context(folder) or _LENGTH
    return EngineSettings(name, named_dtype(read_model_config(folder)) if dtype == AUTO else dtype, length, 0)


def load_run(run: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a run folder, overridden as ``run_serve`` has it.

    Raises:
        UserError: It is no run folder, or an override is wrong.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run}: no config.yaml in it; name a run folder such as runs/demo")
    return load_run_config(run, [_endpoint_override(override) for override in overrides])


def _endpoint_override(override: str) -> str:
    """An override of what a command that serves may override, by its whole name; ``field=value`` is of ``serve``."""
    name, equals, _ = override.partition("=")
    whole = override if "." in name else f"serve.{override}"
    if not equals or not whole.startswith(("serve.", "cluster.", _DTYPE)):
        raise UserError(
            f"override '{shown_path(override)}': expected serve.field=value, cluster.field=value or {_DTYPE}value"
        )
    return whole


def promote_version(run: Path, version: int, reason: str, canary: bool = False) -> ServingState:
    """Serve a version of a run, whatever the gate says of it; recorded as asked for by a person.

    Raises:
        UserError: Its checkpoint is not there any more, or damaged; or the run's folder cannot be written.
    """
    config = load_run(run)
    folder = ServingFolder(run)
    kept = folder.version_folder(version)
    model = config.model.policy if version == 0 else checkpoint_folder(run, version)
    if kept.is_dir():
        manifest = folder.manifest(version)
        model = kept
    elif is_model_folder(model):
        verify_checkpoint(model, weights_only=True)
        manifest = _described(model, version)
    else:
        rounds = ", ".join(path.name.removeprefix("round-") for path in all_checkpoints(run)) or "none"
        raise UserError(
            f"{run}: the checkpoint of v{version} is not there (there are: {rounds}); raise learner.keep_checkpoints "
            "to keep more"
        )
    return folder.promote(model, manifest, GateDecision(True, reason), "person", canary)


def _described(model: Path, version: int) -> WeightsManifest:
    """As ``serving.describe.described``; torch is imported only where the model has to be loaded."""
    known = read_manifest(model, version)
    if known is not None:
        return known
    from serving.describe import describe

    return describe(model, version)


def run_promote(run: Path, version: int, canary: bool, timeout: float) -> None:
    """``isogloss promote``: change what is served, and wait for a running endpoint to do it."""
    state = promote_version(run, version, "isogloss promote", canary)
    print(_outcome(run, state, timeout))


def run_rollback(run: Path, timeout: float) -> None:
    """``isogloss rollback``: back to the version before, or away with the canary."""
    load_run(run)
    state = ServingFolder(run).rollback("person")
    print(_outcome(run, state, timeout))


def _fresh_status(run: Path) -> EndpointStatus | None:
    """What a running endpoint last wrote; None where none runs, or where the file is not what an endpoint writes."""
    try:
        status: EndpointStatus = json.loads((run / STATUS).read_text(encoding="utf-8"))
        written, _, wanted = float(status["time"]), status["url"], status["wanted"]["generation"]
        ServingState.from_json(status["wanted"])
        for row in status["replicas"].values():
            row["target"], row.get("version")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return status if isinstance(wanted, int) and time.time() - written <= STATUS_FRESH_S else None


def _outcome(run: Path, state: ServingState, timeout: float) -> str:
    shown = f"v{state.current.version}" + (f", canary v{state.canary.version}" if state.canary else "")
    deadline = time.monotonic() + timeout
    while True:
        status = _fresh_status(run)
        if status is None:
            return f"{run}: {shown}; no endpoint is running, the next one begins with it"
        newer = status["wanted"]["generation"] > state.generation
        rows = status["replicas"].values()
        if newer and ServingState.from_json(status["wanted"]).current != state.current:
            raise UserError(f"{run}: {shown} was given up by the endpoint; promotions.jsonl says why")
        arrived = all(row.get("version") == row["target"] for row in rows)
        if status["wanted"]["generation"] >= state.generation and rows and arrived:
            place = f"at {status['url']}" if status["url"] else "of a Serve application"
            return f"{run}: {shown} is served by {len(rows)} replica(s) {place}"
        if time.monotonic() > deadline:
            found = status["replicas"] or "no replica is up"
            raise UserError(f"{run}: {shown} has not reached every replica within {timeout:g} s: {found}")
        time.sleep(0.2)
