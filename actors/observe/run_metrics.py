"""What happens in a run, as metrics: turns the driver's events into the values of ``actors/observe/telemetry.py``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from actors.engine.sync_report import SyncReport
from actors.observe.telemetry import Telemetry
from actors.reward.worker import ScoredCandidates
from actors.runtime.pool import Pool
from configs.json_types import JsonMapping
from evaluation.heldout import HeldoutResult
from rollout.records import Candidate

POOLS_EVERY_S = 1.0  # Ray collects every ten seconds; the driver asks five times a second
LEARNER = "learner"


class RunMetrics:
    """Keeps the exported metrics of a run up to date, from before its actors start until ``close``.

    Args:
        run: Name of the run.
        rounds: Rounds in all.
    """

    def __init__(self, run: str, rounds: int) -> None:
        self._out = Telemetry("run", run)
        self._pools_at = 0.0
        self._newest: dict[str, int] = {}  # weight version of the gauges that show one version
        self._sampling: tuple[float, Counter[str]] = (time.monotonic(), Counter())  # begin, tokens by language
        self._out.set("isogloss_rounds", rounds)
        self.stage("starting", 0)

    def close(self) -> None:
        """No more of it; to be called before Ray is left."""
        self._out.close()

    def begun(self, version: int) -> None:
        """The actors are up; ``version`` is what the learner continues from."""
        self._out.set("isogloss_weight_version", version)

    def stage(self, name: str, round_number: int) -> None:
        """The driver begins a stage of a round."""
        self._out.stage(name)
        if name == "sampling":
            self._sampling = time.monotonic(), Counter()
        self._out.set("isogloss_round", round_number)

    def sampled(self, candidates: Sequence[Candidate]) -> None:
        """A chunk came back from a rollout actor."""
        tokens: Counter[tuple[str, int]] = Counter()
        for candidate in candidates:
            tokens[candidate.key.language, _version(candidate)] += len(candidate.token_ids)
        answers = Counter((c.key.language, _version(c)) for c in candidates)
        for (language, version), count in answers.items():
            self._out.count("isogloss_tokens", tokens[language, version], language=language, version=version)
            self._out.count("isogloss_candidates", count, language=language, version=version)
        begun, so_far = self._sampling
        for (language, _), count in tokens.items():
            so_far[language] += count
        seconds = max(time.monotonic() - begun, 1e-3)
        for language, count in so_far.items():
            self._out.set("isogloss_tokens_per_second", count / seconds, language=language)

    def judged(self, judged: ScoredCandidates) -> None:
        """A chunk came back from a reward actor."""
        outcomes = Counter((c.key.language, c.gate, _version(c)) for c in judged.candidates)
        for (language, gate, version), count in outcomes.items():
            self._out.count("isogloss_gate_outcomes", count, language=language, gate=gate, version=version)

    def pools(self, pools: Sequence[Pool], version: int, learning: bool) -> None:
        """How busy the actors are; cheap to call often, since it does nothing for most of a second."""
        now = time.monotonic()
        if now - self._pools_at < POOLS_EVERY_S:
            return
        self._pools_at = now
        self._actor(LEARNER, learning)
        for pool in pools:
            role = pool.name.split()[0]
            busy = [worker.call is not None for worker in pool.workers]
            self._out.set("isogloss_queue_depth", len(pool.queue), pool=role, state="queued")
            self._out.set("isogloss_queue_depth", sum(busy), pool=role, state="running")
            self._out.set("isogloss_engine_version", version, pool=role)
            self._out.set("isogloss_actor_restarts", pool.restarts, pool=role)
            for index, is_busy in enumerate(busy):
                self._actor(f"{role}-{index}", is_busy)

    def _actor(self, name: str, busy: bool) -> None:
        for state, holds in (("busy", busy), ("idle", not busy)):
            self._out.set("isogloss_engine_state", holds, actor=name, state=state)

    def paired(self, counts: JsonMapping, sampled_with: int, staleness: int) -> None:
        """A round's pairs or groups are mined; ``counts`` are those of ``metrics.jsonl``."""
        self._out.set("isogloss_staleness", staleness)
        trained = counts["groups_by_language"] or counts["pairs_by_language"]
        for language, pairs in trained.items():
            self._out.count("isogloss_pairs", pairs, language=language, version=sampled_with)
        for language, reward in counts["reward_mean"].items():
            self._of_newest("isogloss_reward_mean", reward, sampled_with, language=language)
        for term, means in counts["reward_terms"].items():
            for language, mean in means.items():
                self._of_newest("isogloss_reward_term_mean", mean, sampled_with, term=term, language=language)

    def sliced(self, pairs_by_language: Mapping[str, int]) -> None:
        """Offline: a round's pairs are taken from the preference file; no weights sampled them."""
        for language, pairs in pairs_by_language.items():
            self._out.count("isogloss_pairs", pairs, language=language, version="file")

    def learned(self, figures: JsonMapping, version: int) -> None:
        """A round is trained; ``figures`` are the "learner" of ``metrics.jsonl``."""
        self._out.set("isogloss_weight_version", version)
        self._out.set("isogloss_loss", figures["first_loss"], step="first")
        self._out.set("isogloss_loss", figures["last_loss"], step="last")
        self._out.set("isogloss_grad_norm", figures["grad_norm_max"])
        self._out.set("isogloss_learner_tokens_per_second", figures["tokens_per_second"])
        for language, row in figures["languages"].items():
            for name in ("reward_margin", "reward_accuracy"):  # RLOO has neither
                if name in row:
                    self._out.set(f"isogloss_{name}", row[name], language=language)

    def mismatched(self, languages: Mapping[str, Mapping[str, float]]) -> None:
        """Log-probabilities of a round's answers, the sampler's against the learner's, were compared."""
        for language, row in languages.items():
            self._out.set("isogloss_sampling_mismatch", row["mean"], language=language)

    def synced(self, reports: Sequence[SyncReport], version: int) -> None:
        """New weights are in every actor, verified."""
        for report in reports:
            self._out.observe("isogloss_sync_seconds", report.seconds["total"], version=version)

    def evaluated(self, version: int, result: HeldoutResult) -> None:
        """The held-out prompts were answered with a version."""
        for language, row in result.languages.items():
            self._of_newest("isogloss_heldout_accuracy", row.accuracy_sampled, version, language=language)
            self._of_newest("isogloss_heldout_right_language", row.right_language, version, language=language)

    def offered(self, outcome: str) -> None:
        """The endpoint's gate decided on a version: promoted, canary or refused."""
        self._out.count("isogloss_serve_decisions", 1, outcome=outcome)

    def _of_newest(self, name: str, value: float | None, version: int, **labels: str) -> None:
        """Set a gauge of one version; those of the versions before end, or a maximum over them would never fall."""
        before = self._newest.get(name)
        if before is not None and before != version:
            self._out.forget(name, version=before)
        self._newest[name] = version
        self._out.set(name, value, version=version, **labels)


def _version(candidate: Candidate) -> int:
    """Label of who answered: a weight version, -1 for what is not the policy."""
    return -1 if candidate.weight_version is None else candidate.weight_version
