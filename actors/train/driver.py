"""The order of a run: asks the journal what comes next, does it, writes the new state to the journal.

    sampling track:  generate + score (streaming) > pair            for the first round that is not paired
    learner track:   reference log-probabilities > train > publish  for the first round that is not done

The two overlap where ``schedule.max_staleness`` allows it. Decisions depend on journal and config, not on timing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from actors.engine.sync_report import SyncReport
from actors.observe.metrics import START, MetricsLog
from actors.observe.metrics_rows import learner_figures
from actors.observe.run_metrics import LEARNER
from actors.runtime.signals import StopRequested
from actors.train.heldout import evaluate, shown_figures
from actors.train.offered import Offered
from actors.train.track import RunParts, Track
from configs.json_types import JsonObject
from evaluation.heldout import HeldoutResult
from learners.group import RoundResult
from learners.manifest import WeightsManifest
from learners.sampler_reference import Mismatch
from rollout.next import next_actions
from rollout.staleness import publishes
from rollout.state import Action, reached

POLL_S = 0.02


def _side(action: Action) -> str:
    if action.kind in ("generate", "pair"):
        return "sample"
    return "publish" if action.kind == "publish" else "learn"


class Driver:
    """Runs rounds until the journal says that all are done.

    Args:
        parts: Shared with the track.
        track: Makes the pairs.
        metrics: Where a round's row goes.
        should_stop: Asked several times a second; True ends the run at a resumable point.
        offer: Told of each published version (its manifest, all evaluations), for an endpoint to serve it; returns
            the decision as text.
    """

    def __init__(
        self,
        parts: RunParts,
        track: Track,
        metrics: MetricsLog,
        should_stop: Callable[[], bool],
        offer: Callable[[int, WeightsManifest | None, dict[int, JsonObject]], Offered | None] | None = None,
    ) -> None:
        self._parts, self._track = parts, track
        self._config, self._team, self._screen, self._exported = parts.config, parts.team, parts.screen, parts.exported
        self._metrics = metrics
        self._stop_asked = should_stop
        self._offer_version = offer
        self._results: dict[int, RoundResult] = {}
        self._learning: tuple[Action, Future[Any], float] | None = None

    def run(self) -> None:
        """All rounds, with the evaluations around them.

        Raises:
            UserError: The journal does not fit what the run is given now.
            StopRequested: A stop was asked for; everything finished is in the journal.
        """
        self._track.begin()
        trained = [round_number for round_number, state in self._team.states().items() if reached(state, "trained")]
        self._exported.begun(max(trained, default=0))
        self._evaluate(0)
        while actions := self._actions():
            self._start_learning(actions)
            by_track = {_side(action): action for action in actions}
            if "sample" in by_track:
                self._track.advance(by_track["sample"], self._tick)
            elif self._learning is not None:
                self._exported.stage("learning", self._learning[0].round)
                self._wait(self._learning[1])
            else:
                self._publish(by_track["publish"])
            self._finish_learning()
        self._evaluate(self._config.schedule.rounds)
        self._offer(self._team.version)
        self._exported.stage("finished", self._config.schedule.rounds)

    def _actions(self) -> list[Action]:
        return next_actions(self._config.schedule, self._team.states())

    def _start_learning(self, actions: list[Action]) -> None:
        action = next((a for a in actions if _side(a) == "learn"), None)
        if action is not None and self._learning is None:
            start = self._team.reference if action.kind == "reference" else self._team.train
            what = "reference log-probabilities" if action.kind == "reference" else "training"
            self._screen.note(f"round {action.round}: {what}")
            self._learning = action, start(action.round), time.time()

    def _finish_learning(self) -> None:
        if self._learning is not None and self._learning[1].done():
            self._learned(*self._learning)
            self._learning = None

    def _tick(self) -> bool:
        """Keep the learner busy while the sampling track works; returns whether to stop."""
        if self._learning is not None and self._learning[1].done():
            self._finish_learning()
            self._start_learning(self._actions())
        return self._should_stop()

    def _should_stop(self) -> bool:
        pools = [self._team.rollouts, self._team.rewards]
        self._exported.pools(pools, self._team.version, learning=self._learning is not None)
        return self._stop_asked()

    def _wait(self, future: Future[Any]) -> None:
        while not future.done():
            if self._should_stop():
                raise StopRequested
            time.sleep(POLL_S)

    # --- learner track --------------------------------------------------------------------------------------------

    def _learned(self, action: Action, future: Future[Any], begin: float) -> None:
        result, clock = future.result(), self._parts.clocks[action.round]
        if action.kind == "reference":
            clock.add("reference", begin, time.time(), worker=True)
            clock.call(LEARNER, "reference", begin, time.time())
            self._team.store.put_reference_logprobs(action.round, result.values)
            self._parts.done(action, self._mismatch(action.round, result.mismatch))
            return
        end = time.time()
        clock.add("train", begin, end, worker=False)
        clock.call(LEARNER, "train", begin, end)
        # Only the optimiser steps count as work: what the call took beyond them is hand-over and checkpoint.
        clock.busy(end - result.metrics.seconds, end)
        self._team.store.mark_consumed(action.round, action.round)
        figures = learner_figures(result.metrics)
        self._exported.learned(figures, action.round)
        self._parts.done(action, {"learner": figures})
        self._keep(result)

    def _mismatch(self, round_number: int, found: Mismatch | None) -> JsonObject | None:
        """What a round's journal keeps of sampling against training; None where nothing was compared."""
        if found is None:
            return None
        loss = "" if found.loss is None else f", first loss {found.loss:.1e} from ln 2"
        whose = "the sampler's" if found.used else "the learner's, as that is too much"
        self._screen.say(
            f"round {round_number}: sampler against learner {found.mean:.1e} nats a token ({found.most:.1e} at most"
            f"{loss}); the references are {whose}"
        )
        self._exported.mismatched(found.languages)
        return {"sampling_mismatch": found.to_json()}

    def _trained(self, round_number: int) -> RoundResult:
        """The result of a round that is trained; after a restart it comes from the checkpoint."""
        if round_number not in self._results:
            future = self._team.train(round_number)
            self._wait(future)
            self._keep(future.result())
        return self._results[round_number]

    def _keep(self, result: RoundResult) -> None:
        # Without the references: each keeps a round's weights in the object store, and the learner group holds those
        # that are handed out.
        self._results[result.round] = replace(result, weights=[])

    def _publish(self, action: Action) -> None:
        round_number, clock = action.round, self._parts.clocks[action.round]
        reports: list[SyncReport] = []
        if self._track.samples and publishes(self._config.schedule, round_number):
            self._exported.stage("publishing", round_number)
            self._screen.note(f"round {round_number}: weights v{round_number} to every actor")
            pools = (self._team.rollouts, self._team.rewards)
            actors = [f"{pool.name} {index}" for pool in pools for index in range(pool.size)]
            with clock.stage("sync", worker=True), clock.lane(actors, "sync"):
                result = self._trained(round_number)
                reports = self._team.publish(result.manifest)
            self._exported.synced(reports, round_number)
        # Before the round counts as done: a driver that is killed in between does both again, and loses neither.
        self._write_row(round_number, reports)
        publishes_now = publishes(self._config.schedule, round_number)
        if publishes_now:
            self._evaluate_between(round_number)
        self._parts.done(action)
        if publishes_now:
            self._offer(round_number)

    def _offer(self, version: int) -> None:
        if self._offer_version is None or version == 0:
            return
        result = self._results.get(version)
        manifest = None if result is None else result.merged  # what the checkpoint's folder holds
        offered = self._offer_version(version, manifest, self._team.store.evaluations())
        if offered is not None:
            self._exported.offered(offered.outcome)
            self._screen.say(offered.line)

    def _write_row(self, round_number: int, reports: list[SyncReport]) -> None:
        row = self._track.row(round_number, self._team.store.round_data(round_number), reports)
        if round_number == 1 and (start := self._team.store.evaluations().get(0)):
            row[START] = shown_figures(HeldoutResult.from_json(start))
        self._metrics.write(row)
        self._track.show(row)

    # --- evaluation -----------------------------------------------------------------------------------------------

    def _evaluate_between(self, round_number: int) -> None:
        """What ``evaluation.every`` asks for after a round that is not the last one."""
        every = self._config.evaluation.every
        if every and round_number % every == 0 and round_number < self._config.schedule.rounds:
            self._evaluate(round_number)

    def _evaluate(self, version: int) -> None:
        """Held-out accuracy of the weights that the rollout actors hold, once a version."""
        heldout = self._track.heldout
        if heldout is None:
            return
        if known := self._team.store.evaluations().get(version):
            before = HeldoutResult.from_json(known)
            self._exported.evaluated(version, before)
            self._metrics.add(version, {"heldout": shown_figures(before)})
            return
        if self._team.version != version:  # e.g. the last round did not publish (sync_every > 1)
            result = self._trained(version)
            self._team.publish(result.manifest)
        self._exported.stage("evaluating", version)
        for pool in (self._team.rollouts, self._team.rewards):
            pool.watch = None  # an evaluation is no part of a round
        with self._screen.stage(f"evaluating v{version}") as progress:
            found: HeldoutResult = evaluate(
                self._config,
                heldout,
                version,
                self._team.rollouts,
                self._should_stop,
                progress=progress,
                store=self._team.store,
            )
        self._exported.evaluated(version, found)
        self._team.store.put_evaluation(version, found.to_json())
        self._metrics.add(version, {"heldout": shown_figures(found)})
        self._screen.evaluation_line(version, found, self._config.languages.others)
