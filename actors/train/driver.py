"""The order of a run: asks the journal what comes next, does it, writes the new state to the journal.

    sampling track:  generate + score (streaming) > pair            for the first round that is not paired
    learner track:   reference log-probabilities > train > publish  for the first round that is not done

The two overlap where ``schedule.max_staleness`` allows it. Decisions depend on journal and config, not on timing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import Any

from actors.engine.verify import SyncReport
from actors.observe.metrics import START, MetricsLog, StageClock
from actors.observe.metrics_rows import learner_figures, round_counts
from actors.observe.run_metrics import LEARNER, RunMetrics
from actors.observe.screen import Screen
from actors.plan.preflight import Inputs
from actors.runtime.pool import StopRequested, drain
from actors.train.collect import RoundCollector
from actors.train.heldout import evaluate, shown_figures
from actors.train.offered import Offered
from actors.train.quota import QuotaKeeper
from actors.train.source_coordinator import SourceCoordinator, source_coordinator
from actors.train.team import Team
from configs.errors import UserError
from configs.json_types import JsonObject
from configs.schema import Config
from evaluation.heldout import HeldoutResult
from judges.progress import describe
from judges.records import Usage
from judges.tournament import comparison_counts
from learners.group import RoundResult
from learners.sampler_reference import Mismatch
from learners.weights import WeightsManifest
from rollout.assignment import Block
from rollout.groups import mine_groups
from rollout.next import next_actions
from rollout.pairs import MinedPairs, mine_pairs, replayed_rounds
from rollout.prompts import PromptSet
from rollout.records import Candidate, Score
from rollout.staleness import publishes, sample_version, staleness
from rollout.state import Action, reached

POLL_S = 0.02


def _track(action: Action) -> str:
    if action.kind in ("generate", "pair"):
        return "sample"
    return "publish" if action.kind == "publish" else "learn"


class Driver:
    """Runs rounds until the journal says that all are done.

    Args:
        config: The run.
        inputs: Prompts and anchors, validated; None for a driver that samples nothing (``actors.train.offline``).
        team: The remote parts, started.
        screen: Where progress is shown.
        metrics: Where a round's row goes.
        should_stop: Asked several times a second; True ends the run at a resumable point.
        exported: What Ray exports for dashboards; told of everything.
        offer: Told of each published version (its manifest, all evaluations), for an endpoint to serve it; returns
            the decision as text.
    """

    def __init__(
        self,
        config: Config,
        inputs: Inputs | None,
        team: Team,
        screen: Screen,
        metrics: MetricsLog,
        *,
        should_stop: Callable[[], bool],
        exported: RunMetrics,
        offer: Callable[[int, WeightsManifest | None, dict[int, JsonObject]], Offered | None] | None = None,
    ) -> None:
        self._config = config
        self._given = inputs
        self._team = team
        self._screen = screen
        self._metrics = metrics
        self._stop_asked = should_stop
        self._exported = exported
        self._offer_version = offer
        self._clocks: dict[int, StageClock] = {}
        self._results: dict[int, RoundResult] = {}
        self._learning: tuple[Action, Future[Any], float] | None = None

    def run(self) -> None:
        """All rounds, with the evaluations around them.

        Raises:
            StopRequested: A stop was asked for; everything finished is in the journal.
        """
        trained = [round for round, state in self._team.states().items() if reached(state, "trained")]
        self._exported.begun(max(trained, default=0))
        self._evaluate(0)
        while actions := self._actions():
            self._start_learning(actions)
            by_track = {_track(action): action for action in actions}
            if "sample" in by_track:
                self._sample(by_track["sample"])
            elif self._learning is not None:
                self._exported.stage("learning", self._learning[0].round)
                self._wait(self._learning[1])
            else:
                self._publish(by_track["publish"])
            self._finish_learning()
        self._evaluate(self._config.schedule.rounds)
        self._offer(self._team.version)
        self._exported.stage("finished", self._config.schedule.rounds)

    @property
    def _inputs(self) -> Inputs:
        assert self._given is not None
        return self._given

    @property
    def _heldout(self) -> PromptSet | None:
        return self._inputs.heldout

    @property
    def _quota(self) -> QuotaKeeper:
        return QuotaKeeper(self._config, self._inputs.prompts, self._team.store, self._mine, self._screen)

    def _actions(self) -> list[Action]:
        return next_actions(self._config.schedule, self._team.states())

    def _start_learning(self, actions: list[Action]) -> None:
        action = next((a for a in actions if _track(a) == "learn"), None)
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

    def _clock(self, round: int) -> StageClock:
        return self._clocks.setdefault(round, StageClock())

    def _done(self, action: Action, data: JsonObject | None = None) -> None:
        self._team.store.set_round_state(action.round, action.then, data)

    def _wait(self, future: Future[Any]) -> None:
        while not future.done():
            if self._should_stop():
                raise StopRequested
            time.sleep(POLL_S)

    # --- sampling track -------------------------------------------------------------------------------------------

    def _sample(self, action: Action) -> None:
        if action.kind == "pair":
            self._pair(action)
        else:
            self._generate_and_score(action)

    def _generate_and_score(self, action: Action) -> None:
        store_before = self._team.store.seconds
        clock = self._clock(action.round)
        wanted = sample_version(self._config.schedule, action.round)
        assert self._team.version == wanted, f"actors hold v{self._team.version}, round wants v{wanted}"
        self._exported.stage("sampling", action.round)
        usage: Usage | None = None
        with source_coordinator(self._config) as coordinator:
            assignment = self._quota.assignment(action.round)
            passed = 0
            while passed < len(assignment.passes):  # a resumed round takes its passes again, one by one
                found = self._collect(action.round, assignment.passes[passed], coordinator)
                usage = found if usage is None or found is None else usage + found
                passed += 1
                if passed == len(assignment.passes):
                    assignment = self._quota.refilled(action.round, assignment) or assignment
        clock.stages["store"] = clock.stages.get("store", 0.0) + self._team.store.seconds - store_before
        figures = self._judge_figures(action.round, usage) or {}
        self._done(action, figures | self._quota.end(assignment))

    def _collect(self, round: int, blocks: Sequence[Block], coordinator: SourceCoordinator | None) -> Usage | None:
        """Sample and score some blocks of a round; what its judge was asked for them."""
        pools, clock = [self._team.rollouts, self._team.rewards], self._clock(round)
        with self._screen.stage(f"round {round}: sampling and scoring") as progress:
            collector = RoundCollector(
                self._config,
                self._inputs,
                round,
                blocks,
                rollouts=pools[0],
                rewards=pools[1],
                coordinator=coordinator,
                store=self._team.store,
                clock=clock,
                progress=progress,
                exported=self._exported,
            )
            progress.total(collector.units)
            for pool in pools:
                pool.watch = clock.call
            collector.start()
            drain(pools, self._tick, beside=coordinator)
        return collector.usage

    def _judge_figures(self, round: int, usage: Usage | None) -> JsonObject | None:
        """What a round's judging came to; ``usage`` is of this process alone."""
        if not self._config.reward.judged:
            return None
        usage = usage or Usage()
        candidates, scores = self._team.store.candidates(round), self._team.store.scores(round)
        languages = comparison_counts(self._config, candidates, scores)
        met, inconsistent, failed = (
            sum(row[name] for row in languages.values()) for name in ("comparisons", "inconsistent", "failed")
        )
        self._screen.say(
            f"round {round}: judge, {met} comparisons ({inconsistent} inconsistent, {failed} failed), {describe(usage)}"
        )
        return {"judge": {**asdict(usage), "languages": languages}}

    def _pair(self, action: Action) -> None:
        clock = self._clock(action.round)
        with clock.stage("pair"), clock.lane(["driver"], "pair"):
            candidates = self._team.store.candidates(action.round)
            scores = self._team.store.scores(action.round)
            mined = self._mine(action.round, candidates, scores)
            counts = round_counts(candidates, scores, mined) | self._quota.counts(action.round, mined)
            if counts["pairs"] + counts["groups"] == 0:
                raise UserError(
                    f"round {action.round}: {counts['candidates']} candidates gave nothing to train on (refused: "
                    f"{json.dumps(counts['refused'])}; gates: {json.dumps(counts['gates'])}); more samples or a higher "
                    "temperature give more different answers, gates.* says what is refused"
                )
            sampled = sample_version(self._config.schedule, action.round)
            self._exported.paired(counts, sampled, staleness(sampled, action.round - 1))
            if mined.groups:
                self._team.store.put_groups(action.round, mined.groups)
            else:
                self._team.store.put_pairs(action.round, mined.pairs)
            self._team.store.set_round_state(action.round, action.then, {"counts": counts})

    def _mine(self, round: int, candidates: list[Candidate], scores: list[Score]) -> MinedPairs:
        inputs, assignment = self._inputs, self._quota.assignment(round)
        if self._config.learner.on_groups:
            return mine_groups(self._config, inputs.prompts, round, candidates, scores, assignment=assignment)
        replays = replayed_rounds(self._config.pairs, round) if self._config.pairs.replay.share else ()
        earlier = [pair for before in replays for pair in self._team.store.pairs(before)]
        return mine_pairs(
            self._config, inputs.prompts, round, candidates, scores,
            anchors=inputs.anchors, untranslated=inputs.untranslated, earlier=earlier, assignment=assignment,
        )  # fmt: skip

    # --- learner track --------------------------------------------------------------------------------------------

    def _learned(self, action: Action, future: Future[Any], begin: float) -> None:
        result, clock = future.result(), self._clock(action.round)
        if action.kind == "reference":
            clock.add("reference", begin, time.time(), worker=True)
            clock.call(LEARNER, "reference", begin, time.time())
            self._team.store.put_reference_logprobs(action.round, result.values)
            self._done(action, self._mismatch(action.round, result.mismatch))
            return
        end = time.time()
        clock.add("train", begin, end, worker=False)
        clock.call(LEARNER, "train", begin, end)
        # Only the optimiser steps count as work: what the call took beyond them is hand-over and checkpoint.
        clock.busy(end - result.metrics.seconds, end)
        self._team.store.mark_consumed(action.round, action.round)
        figures = learner_figures(result.metrics)
        self._exported.learned(figures, action.round)
        self._team.store.set_round_state(action.round, action.then, {"learner": figures})
        self._keep(result)

    def _mismatch(self, round: int, found: Mismatch | None) -> JsonObject | None:
        """What a round's journal keeps of sampling against training; None where nothing was compared."""
        if found is None:
            return None
        loss = "" if found.loss is None else f", first loss {found.loss:.1e} from ln 2"
        whose = "the sampler's" if found.used else "the learner's, as that is too much"
        self._screen.say(
            f"round {round}: sampler against learner {found.mean:.1e} nats a token ({found.most:.1e} at most{loss}); "
            f"the references are {whose}"
        )
        self._exported.mismatched(found.languages)
        return {"sampling_mismatch": found.to_json()}

    def _trained(self, round: int) -> RoundResult:
        """The result of a round that is trained; after a restart it comes from the checkpoint."""
        if round not in self._results:
            future = self._team.train(round)
            self._wait(future)
            self._keep(future.result())
        return self._results[round]

    def _keep(self, result: RoundResult) -> None:
        # Without the references: each keeps a round's weights in the object store, and the learner group holds those
        # that are handed out.
        self._results[result.round] = replace(result, weights=[])

    def _publish(self, action: Action) -> None:
        round, clock = action.round, self._clock(action.round)
        reports: list[SyncReport] = []
        if publishes(self._config.schedule, round):
            self._exported.stage("publishing", round)
            self._screen.note(f"round {round}: weights v{round} to every actor")
            pools = (self._team.rollouts, self._team.rewards)
            actors = [f"{pool.name} {index}" for pool in pools for index in range(pool.size)]
            with clock.stage("sync", worker=True), clock.lane(actors, "sync"):
                result = self._trained(round)
                reports = self._team.publish(result.manifest)
            self._exported.synced(reports, round)
        # Before the round counts as done: a driver that is killed in between does both again, and loses neither.
        self._write_row(round, reports)
        publishes_now = publishes(self._config.schedule, round)
        if publishes_now:
            self._evaluate_between(round)
        self._done(action)
        if publishes_now:
            self._offer(round)

    def _offer(self, version: int) -> None:
        if self._offer_version is None or version == 0:
            return
        result = self._results.get(version)
        manifest = None if result is None else result.merged  # what the checkpoint's folder holds
        offered = self._offer_version(version, manifest, self._team.store.evaluations())
        if offered is not None:
            self._exported.offered(offered.outcome)
            self._screen.say(offered.line)

    def _write_row(self, round: int, reports: list[SyncReport]) -> None:
        data = self._team.store.round_data(round)
        sampled = sample_version(self._config.schedule, round)
        row = {
            "round": round,
            "weight_version": round,
            "sample_version": sampled,
            "staleness": staleness(sampled, round - 1),
            "counts": data["counts"],
            **({"judge": data["judge"]} if "judge" in data else {}),
            "learner": data["learner"],
            **({"sampling_mismatch": data["sampling_mismatch"]} if "sampling_mismatch" in data else {}),
            "sync": [report.to_json() for report in reports],
            "seconds": self._clock(round).summary(),
            "timeline": self._clock(round).timeline(),
            "restarts": {pool.name: pool.restarts for pool in (self._team.rollouts, self._team.rewards)},
            "failed_broadcasts": self._team.failed_broadcasts,
        }
        if round == 1 and (start := self._team.store.evaluations().get(0)):
            row[START] = shown_figures(HeldoutResult.from_json(start))
        self._metrics.write(row)
        self._screen.round_line(row)

    # --- evaluation -----------------------------------------------------------------------------------------------

    def _evaluate_between(self, round: int) -> None:
        """What ``evaluation.every`` asks for after a round that is not the last one."""
        every = self._config.evaluation.every
        if every and round % every == 0 and round < self._config.schedule.rounds:
            self._evaluate(round)

    def _evaluate(self, version: int) -> None:
        """Held-out accuracy of the weights that the rollout actors hold, once a version."""
        heldout = self._heldout
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
