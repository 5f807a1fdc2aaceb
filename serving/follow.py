"""The endpoint of a run that trains: each version that passes the gate is served, by replicas of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from actors.runtime.signals import never
from actors.train.offered import Offered
from actors.train.run_folder import RunFolder
from configs.json_types import JsonObject
from configs.schema import Config
from evaluation.heldout import HeldoutResult
from learners.encode import ChatEncoder
from learners.manifest import WeightsManifest
from serving.app import Endpoint, serving
from serving.describe import described
from serving.engine import EngineSettings
from serving.fit import check_length
from serving.folder import Served, ServingFolder
from serving.gate import GateDecision, decide

Offer = Callable[[int, WeightsManifest | None, dict[int, JsonObject]], Offered | None]


def engine_settings(config: Config) -> EngineSettings:
    """What the engines of a run's endpoint are made of.

    Its checkpoints have the chat template that the config makes; the policy that it starts from, version 0, has not.
    """
    model = config.model
    own = model.chat_template is not None or bool(model.chat_template_kwargs) or model.add_bos
    template = ChatEncoder.of(model, model.policy).template.text if own else None
    name, length = config.serve.model_name or config.run.name, config.serve.max_length or model.max_length
    return EngineSettings(name, model.dtype, length, config.run.seed, template)


class Follower:
    """Offers a run's versions to its endpoint.

    Args:
        config: The run.
        folder: Its folder.
    """

    def __init__(self, config: Config, folder: RunFolder) -> None:
        self._config = config
        self._run = folder
        self._serving = ServingFolder(folder.path)
        self._decided = self._serving.decided()

    def prepare(self) -> ServingFolder:
        """See that there is something to serve: what was served before, or the policy that the run starts from."""
        if self._serving.read() is None:
            model = self._run.checkpoint(0, self._config.model.policy)
            decision = GateDecision(True, "the policy that the run starts from")
            self._serving.promote(model, described(model, 0), decision, "run")
            self._decided.add(0)
        return self._serving

    def offer(
        self, version: int, manifest: WeightsManifest | None, evaluations: dict[int, JsonObject]
    ) -> Offered | None:
        """Judge a version, and promote it if it passes.

        Args:
            version: Weight version; its checkpoint is complete.
            manifest: Of the checkpoint's weights, as the learner saw them; None after a restart, then the checkpoint's
                own is read.
            evaluations: Held-out results by version, as the journal has them.

        Returns:
            The outcome; None if the version was decided before or cannot be judged yet.
        """
        gate = self._config.serve.gate
        if version in self._decided or (gate.needs_evaluation and version not in evaluations):
            return None
        model = self._run.checkpoint(version, self._config.model.policy)
        known = manifest if manifest is not None and manifest.version == version else described(model, version)
        state = self._serving.read()
        before = None if state is None else evaluations.get(state.current.version)
        decision = decide(
            gate,
            self._config.languages.dominant,
            None if before is None else HeldoutResult.from_json(before),
            HeldoutResult.from_json(evaluations[version]) if version in evaluations else None,
            self._config.evaluation.bootstrap_samples,
            seed=self._config.run.seed,
        )
        self._decided.add(version)
        if not decision.passed:
            self._serving.refuse(Served(version, known.checksum), decision, "run")
            return Offered("refused", f"serving: v{version} refused, {decision.reason}")
        canary = self._config.serve.canary_share > 0
        self._serving.promote(model, known, decision, "run", canary)
        done = "is the canary" if canary else "promoted"
        return Offered("canary" if canary else "promoted", f"serving: v{version} {done}, {decision.reason}")


@contextlib.contextmanager
def follow(
    config: Config, folder: RunFolder, should_stop: Callable[[], bool] = never
) -> Iterator[tuple[Endpoint, Offer]]:
    """Serve a run's current policy beside its training, on the cluster that this process is connected to.

    Args:
        config: The run.
        folder: Its folder.
        should_stop: Ends the wait for the endpoint (``StopRequested``) where it becomes true.

    Yields:
        The endpoint, and what to call with each version.
    """
    follower = Follower(config, folder)
    serving_folder = follower.prepare()
    cluster, settings = config.cluster, engine_settings(config)
    check_length(config.model.policy, config.serve, settings)
    timeouts = cluster.start_timeout_s, cluster.sync_timeout_s
    with serving(serving_folder, config.serve, settings, *timeouts, should_stop=should_stop) as endpoint:
        yield endpoint, follower.offer
