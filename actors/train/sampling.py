"""The track of a run that samples: generate and score, streaming, then pair."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from actors.engine.sync_report import SyncReport
from actors.observe.metrics_rows import round_counts
from actors.plan.preflight import Inputs
from actors.runtime.pool import drain
from actors.train.collect import RoundCollector
from actors.train.quota import QuotaKeeper
from actors.train.source_coordinator import SourceCoordinator, source_coordinator
from actors.train.track import RunParts, Track
from configs.errors import UserError
from configs.json_types import JsonMapping, JsonObject
from judges.progress import describe
from judges.records import Usage
from judges.tournament import comparison_counts
from rollout.assignment import Block
from rollout.groups import mine_groups
from rollout.pairs import MinedPairs, mine_pairs, replayed_rounds
from rollout.records import Candidate, Score
from rollout.refusals import nothing_to_train_on
from rollout.staleness import sample_version, staleness
from rollout.state import Action


class SamplingTrack(Track):
    """See ``Track``.

    Args:
        parts: Shared with the driver.
        inputs: Prompts and anchors, validated.
    """

    samples = True

    def __init__(self, parts: RunParts, inputs: Inputs) -> None:
        super().__init__(parts, inputs.heldout)
        self._inputs = inputs

    @property
    def _quota(self) -> QuotaKeeper:
        return QuotaKeeper(self._config, self._inputs.prompts, self._parts.team.store, self.mine, self._parts.screen)

    def begin(self) -> None:
        """Every journal of the run's config fits."""

    def advance(self, action: Action, tick: Callable[[], bool]) -> None:
        """See ``Track.advance``."""
        if action.kind == "pair":
            self._pair(action)
        else:
            self._generate_and_score(action, tick)

    def _generate_and_score(self, action: Action, tick: Callable[[], bool]) -> None:
        store_before = self._parts.team.store.seconds
        clock = self._parts.clocks[action.round]
        wanted = sample_version(self._config.schedule, action.round)
        assert self._parts.team.version == wanted, f"actors hold v{self._parts.team.version}, round wants v{wanted}"
        self._parts.exported.stage("sampling", action.round)
        usage: Usage | None = None
        with source_coordinator(self._config) as coordinator:
            assignment = self._quota.assignment(action.round)
            passed = 0
            while passed < len(assignment.passes):  # a resumed round takes its passes again, one by one
                found = self._collect(action.round, assignment.passes[passed], coordinator, tick)
                usage = found if usage is None or found is None else usage + found
                passed += 1
                if passed == len(assignment.passes):
                    assignment = self._quota.refilled(action.round, assignment) or assignment
        clock.stages["store"] = clock.stages.get("store", 0.0) + self._parts.team.store.seconds - store_before
        figures = self._judge_figures(action.round, usage) or {}
        self._parts.done(action, figures | self._quota.end(assignment))

    def _collect(
        self,
        round_number: int,
        blocks: Sequence[Block],
        coordinator: SourceCoordinator | None,
        tick: Callable[[], bool],
    ) -> Usage | None:
        """Sample and score some blocks of a round; what its judge was asked for them."""
        pools, clock = [self._parts.team.rollouts, self._parts.team.rewards], self._parts.clocks[round_number]
        with self._parts.screen.stage(f"round {round_number}: sampling and scoring") as progress:
            collector = RoundCollector(
                self._config,
                self._inputs,
                round_number,
                blocks,
                rollouts=pools[0],
                rewards=pools[1],
                coordinator=coordinator,
                store=self._parts.team.store,
                clock=clock,
                progress=progress,
                exported=self._parts.exported,
            )
            progress.total(collector.units)
            for pool in pools:
                pool.watch = clock.call
            collector.start()
            drain(pools, tick, beside=coordinator)
        return collector.usage

    def _judge_figures(self, round_number: int, usage: Usage | None) -> JsonObject | None:
        """What a round's judging came to; ``usage`` is of this process alone."""
        if not self._config.reward.judged:
            return None
        usage = usage or Usage()
        candidates, scores = (
            self._parts.team.store.candidates(round_number),
            self._parts.team.store.scores(round_number),
        )
        languages = comparison_counts(self._config, candidates, scores)
        met, inconsistent, failed = (
            sum(row[name] for row in languages.values()) for name in ("comparisons", "inconsistent", "failed")
        )
        self._parts.screen.say(
            f"round {round_number}: judge, {met} comparisons ({inconsistent} inconsistent, {failed} failed), "
            f"{describe(usage)}"
        )
        return {"judge": {**asdict(usage), "languages": languages}}

    def _pair(self, action: Action) -> None:
        clock = self._parts.clocks[action.round]
        with clock.stage("pair"), clock.lane(["driver"], "pair"):
            candidates = self._parts.team.store.candidates(action.round)
            scores = self._parts.team.store.scores(action.round)
            mined = self.mine(action.round, candidates, scores)
            counts = round_counts(candidates, scores, mined) | self._quota.counts(action.round, mined)
            if counts["pairs"] + counts["groups"] == 0:
                why = nothing_to_train_on(mined.counters, scores, self._config.pairs.min_margin)
                raise UserError(
                    f"round {action.round}: {counts['candidates']} candidates gave nothing to train on; {why} "
                    f"(gates: {json.dumps(counts['gates'])})"
                )
            sampled = sample_version(self._config.schedule, action.round)
            self._parts.exported.paired(counts, sampled, staleness(sampled, action.round - 1))
            if mined.groups:
                self._parts.team.store.put_groups(action.round, mined.groups)
            else:
                self._parts.team.store.put_pairs(action.round, mined.pairs)
            self._parts.done(action, {"counts": counts})

    def mine(self, round_number: int, candidates: list[Candidate], scores: list[Score]) -> MinedPairs:
        """The pairs, or sample groups, of a round."""
        inputs, assignment = self._inputs, self._quota.assignment(round_number)
        if self._config.learner.on_groups:
            return mine_groups(self._config, inputs.prompts, round_number, candidates, scores, assignment=assignment)
        replays = replayed_rounds(self._config.pairs, round_number) if self._config.pairs.replay.share else ()
        earlier = [pair for before in replays for pair in self._parts.team.store.pairs(before)]
        return mine_pairs(
            self._config, inputs.prompts, round_number, candidates, scores,
            anchors=inputs.anchors, untranslated=inputs.untranslated, earlier=earlier, assignment=assignment,
        )  # fmt: skip

    def row(self, round_number: int, data: JsonMapping, reports: list[SyncReport]) -> JsonObject:
        """See ``Track.row``."""
        sampled = sample_version(self._config.schedule, round_number)
        team, clock = self._parts.team, self._parts.clocks[round_number]
        return {
            "round": round_number,
            "weight_version": round_number,
            "sample_version": sampled,
            "staleness": staleness(sampled, round_number - 1),
            "counts": data["counts"],
            **({"judge": data["judge"]} if "judge" in data else {}),
            "learner": data["learner"],
            **({"sampling_mismatch": data["sampling_mismatch"]} if "sampling_mismatch" in data else {}),
            "sync": [report.to_json() for report in reports],
            "seconds": clock.summary(),
            "timeline": clock.timeline(),
            "restarts": {pool.name: pool.restarts for pool in (team.rollouts, team.rewards)},
            "failed_broadcasts": team.failed_broadcasts,
        }

    def show(self, row: JsonObject) -> None:
        """See ``Track.show``."""
        self._parts.screen.round_line(row)
