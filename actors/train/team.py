"""Everything remote that a run has: cluster, journal, rollout and reward actors, learner group."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ray import ObjectRef
from ray.actor import ActorHandle

from actors.engine.rollout import create_rollout_actor
from actors.engine.sync_report import SyncReport
from actors.observe.run_metrics import RunMetrics
from actors.plan.colocate import usable_cores
from actors.plan.fit import check_each_fits
from actors.plan.placement import PlacementGroups, PlacementPlan, check_capacity, local_cpus, reserve
from actors.plan.shared_storage import check_shared
from actors.reward.worker import create_reward_actor
from actors.runtime.calls import call, result_of
from actors.runtime.cluster import start_cluster
from actors.runtime.env import learner_env
from actors.runtime.pool import Pool
from actors.runtime.signals import StopFlag, never, stop_on_signals
from actors.train.publish import broadcast, publish_via_object_store
from actors.train.run_folder import RunFolder
from actors.train.store import open_journal
from configs.schema import Config
from learners.errors import BroadcastFailed
from learners.group import LearnerGroup, RoundResult
from learners.manifest import WeightsManifest
from learners.sampler_reference import Referenced
from rollout.identity import identity_of
from rollout.model_folder import verify_checkpoint
from rollout.prompts import PromptSet
from rollout.staleness import rollout_version
from rollout.state import RoundState, check_states

T = TypeVar("T")

logger = logging.getLogger(__name__)

_THREAD_S = 30.0  # until the learner's thread has noticed that its group is closed, which takes a second


class Team:
    """The parts of a run and the few things that concern several of them.

    Args:
        config: The run.
        prompts: The train prompts, which reward actors need for their reward prompts; None offline, where there are
            neither rollout nor reward actors.
        folder: The run's folder.
        exported: What Ray exports of the run.
        say: Told in one line when a process dies, is replaced, or waits for a place.
        learns: Whether there is a learner; without one only those actors are started that the candidates need.
        should_stop: Ends every wait for an actor or the learner (``StopRequested``) where it becomes true.
    """

    def __init__(
        self,
        config: Config,
        prompts: PromptSet | None,
        folder: RunFolder,
        exported: RunMetrics,
        say: Callable[[str], None] = logger.warning,
        *,
        learns: bool = True,
        should_stop: Callable[[], bool] = never,
    ) -> None:
        self._learns, self._should_stop = learns, should_stop
        self.config = config
        self.folder = folder
        self.exported = exported
        self._prompts = prompts
        self._groups = PlacementGroups()
        self._verified: set[Path] = set()  # model folders whose weights are as saved
        self.failed_broadcasts = 0
        self._whose = "sampling"  # turn it is
        self.store = open_journal(folder.store, identity_of(config), config.cluster.start_timeout_s, should_stop)
        self.version: int = rollout_version(config.schedule, self.states())
        cluster, plan = config.cluster, PlacementPlan.from_config(config, learns)
        self.rollouts: Pool = Pool(
            "rollout actor",
            self._create_rollout,
            plan.rollout.count,
            cluster.call_timeout_s,
            cluster.max_actor_restarts,
            start_timeout_s=cluster.start_timeout_s,
            say=say,
            lacks_place=lambda: self._groups.lacking("rollout"),
        )
        self.rewards: Pool = Pool(
            "reward actor",
            self._create_reward,
            plan.reward.count,
            cluster.call_timeout_s,
            cluster.max_actor_restarts,
            start_timeout_s=cluster.start_timeout_s,
            say=say,
            lacks_place=lambda: self._groups.lacking("reward"),
        )
        self._learner: LearnerGroup = LearnerGroup(
            config, folder.path, config.model.policy, env=_learner_env(config), say=say
        )
        # The group's calls block and are not thread-safe: one thread makes them all, in order.
        self._learner_thread: ThreadPoolExecutor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="learner")
        self._learner_started: Future[None] | None = None
        self._asked: list[Future[Any]] = []  # of the learner's thread, and not known to be done

    def start(self) -> None:
        """Reserve places and start rollout and reward actors; the learner group starts while they do their first work.

        Not beside them: all import for seconds, and would share the cores that the first token waits for.
        """
        timeout = self.config.cluster.start_timeout_s
        self._groups = reserve(PlacementPlan.from_config(self.config, self._learns), timeout, self._should_stop)
        ready = [*self.rollouts.start(), *self.rewards.start()]
        call(ready, timeout, "rollout and reward actors to start", self._should_stop)
        if self._learns:
            self._learner_started = self._on_learner(self._learner.start, timeout)

    def states(self) -> dict[int, RoundState]:
        """State of every round of the run."""
        found = {number: state for number, (state, _) in self.store.round_states().items()}
        return check_states(found, self.config.schedule.rounds)

    def reference(self, round_number: int) -> Future[Referenced]:
        """Start computing the reference log-probabilities of a round's pairs or sample groups."""
        return self._learn(self._learner.reference, round_number)

    def train(self, round_number: int) -> Future[RoundResult]:
        """Start training a round; one that has its checkpoint already is only published again."""
        return self._learn(self._learner.train, round_number)

    def _learn(self, method: Callable[..., T], round_number: int) -> Future[T]:
        examples = self.store.examples(round_number)
        started = self._learner_started
        self._turn("learner")

        def work() -> T:
            if started is not None:
                started.result()  # its error, if it could not start
            return method(round_number, examples, self.config.cluster.train_timeout_s)

        return self._on_learner(work)

    def _on_learner(self, work: Callable[..., T], *arguments: object) -> Future[T]:
        future = self._learner_thread.submit(work, *arguments)
        self._asked = [*(one for one in self._asked if not one.done()), future]
        return future

    def _turn(self, whose: str) -> None:
        """Hand the GPUs over between stages that share them (``cluster.colocate``); CPUs need no word."""
        pools = (self.rollouts, self.rewards)
        shares = (self.config.rollout.gpus_per_actor, self.config.reward.gpus_per_actor)
        if whose == self._whose or not self.config.colocated or self.config.learner.gpus_per_worker == 0:
            return
        self._whose = whose
        told = []
        for pool, gpus in zip(pools, shares, strict=True):
            if gpus > 0:
                pool.await_starts(self._should_stop)  # one that is new begins with what it needs
                told += [handle.turn.remote(whose == "sampling") for handle in pool.handles]
        what = f"the GPUs to be left to {whose} (cluster.sync_timeout_s)"
        call(told, self.config.cluster.sync_timeout_s, what, self._should_stop)

    def publish(self, manifest: WeightsManifest) -> list[SyncReport]:
        """The last trained weights into every rollout and reward actor, verified by each; returns their reports.

        An actor that died or hangs is replaced by one that begins with them, and reports nothing.
        """
        self._turn("sampling")
        self.version = manifest.version
        reports, rest = self._broadcast(manifest)
        timeout = self.config.cluster.sync_timeout_s
        weights: list[ObjectRef] = []
        if not reports:
            # The rank that published them owns the object: the group re-reads the checkpoint if it died meanwhile.
            weights = result_of(self._on_learner(self._learner.weights, timeout), self._should_stop)
        return reports + publish_via_object_store(rest, manifest, weights, timeout, self._should_stop)

    def _broadcast(self, manifest: WeightsManifest) -> tuple[list[SyncReport], list[Pool]]:
        """Reports of the actors that got a broadcast, none if there was none, and those that still need to hear."""
        pools = [self.rollouts, self.rewards]
        takers = pools if self.config.reward.follows_policy else pools[:1]
        if self.config.cluster.weight_transfer != "broadcast":
            return [], pools
        for pool in takers:
            pool.await_starts(self._should_stop)
        try:
            reports = broadcast(
                self.config,
                [handle for pool in takers for handle in pool.handles],
                manifest,
                lambda rendezvous: self._on_learner(self._learner.broadcast, rendezvous),
                self._should_stop,
            )
        except BroadcastFailed as failure:
            self.failed_broadcasts += 1
            logger.warning("weights v%d go through the object store: %s", manifest.version, failure)
            return [], pools
        return reports, pools[len(takers) :]

    def close(self) -> None:
        """End what can be ended in order; Ray takes the rest with it."""
        # A call that is still under way is given up: the last checkpoint is whole and the journal has the pairs.
        self._learner_thread.shutdown(wait=False, cancel_futures=True)
        with contextlib.ExitStack() as stack:  # from the last to the first, each whether or not one before it failed
            stack.callback(self._groups.remove)
            stack.callback(self.store.close)
            # What is asked of Ray after it was left would start it again.
            stack.callback(lambda: wait([one for one in self._asked if not one.cancelled()], _THREAD_S))
            stack.callback(self._learner.close)

    def _model(self, version: int) -> Path:
        folder = self.folder.checkpoint(version, self.config.model.policy).resolve()
        if folder not in self._verified:
            verify_checkpoint(folder, weights_only=True)
            self._verified.add(folder)
        return folder

    def _create_rollout(self, index: int) -> ActorHandle:
        group = self._groups.groups["rollout"]
        return create_rollout_actor(self.config, self._model(self.version), self.version, index, group)

    def _create_reward(self, index: int) -> ActorHandle:
        reward, back = self.config.reward, self.config.schedule.sync_every
        policy = self.version if reward.follows_policy else 0
        previous = reward.moving_reference and policy > 0
        start = self.config.model.reference if reward.needs_reference else None
        reference = self._model(policy - back) if previous else start and start.absolute()
        group = self._groups.groups["reward"]
        assert self._prompts is not None
        return create_reward_actor(
            self.config, self._prompts, self._model(policy), reference, self.version, index=index, group=group
        )


def _learner_env(config: Config) -> dict[str, str]:
    learner = config.learner
    return learner_env(learner.gpus_per_worker > 0, config.cluster.address is None, learner.threads or 1)


@contextmanager
def start_team(
    config: Config,
    prompts: PromptSet | None,
    folder: RunFolder,
    flag: StopFlag,
    say: Callable[[str], None] = logger.warning,
    *,
    learns: bool = True,
) -> Iterator[Team]:
    """Start Ray and the team; leave no process behind, whatever happens.

    Args:
        config: The run.
        prompts: The train prompts; None offline.
        folder: The run's folder.
        flag: Set by ctrl-C or SIGTERM from now on; ends every wait in here.
        say: Told in one line when a process dies, is replaced, or waits for a place.
        learns: Whether there is a learner.

    Raises:
        UserError: The cluster has fewer CPUs or GPUs than the plan needs, in all or on any node, or its nodes do not
            share the storage; nothing was started then.
        StopRequested: The flag was set before the team was up.
    """
    plan = PlacementPlan.from_config(config, learns)
    section = config.cluster
    if (cpus := local_cpus(config, plan, usable_cores(None))) is not None:
        section = section.model_copy(update={"num_cpus": cpus})
    with stop_on_signals(flag), start_cluster(section, folder.path, should_stop=flag) as cluster:
        cluster.watch.advise(f"{folder.path} keeps all that was done; continue with --resume")
        cluster.watch.excuse(lambda: flag.asked_by)
        check_capacity(plan, cluster.resources)
        check_each_fits(plan, cluster.nodes)
        reference = config.model.reference if config.reads_reference else None
        models = {"model.policy": config.model.policy, "model.reference": reference}
        check_shared(folder.path, models, config.cluster.start_timeout_s, flag)
        with contextlib.closing(RunMetrics(config.run.name, config.schedule.rounds)) as exported:
            try:
                team = Team(config, prompts, folder, exported, say, learns=learns, should_stop=flag)
                with contextlib.closing(team):
                    team.start()
                    try:
                        yield team
                    except Exception:
                        cluster.watch.confirm()  # before it is tried to end in order what is gone
                        raise
                    cluster.watch.finished(f"{folder.path} is finished; only Ray did not end in order")
            except Exception:
                cluster.watch.confirm()
                raise
