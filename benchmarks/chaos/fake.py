"""The driver's own part of surviving kills, in seconds: the real driver, journal and metrics over a fake engine.

Each life is a process of its own that SIGKILLs itself at a random operation, just before it or just after: a call of
the journal, the write of a checkpoint, a row of metrics. ``python -m benchmarks.chaos.fake --seed n --kills n``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from actors.observe.metrics import MetricsLog
from actors.observe.screen import Screen
from actors.plan.preflight import Inputs
from actors.reward.worker import ScoredCandidates
from actors.runtime.pool import Call
from actors.train.driver import Driver
from actors.train.sampling import SamplingTrack
from actors.train.track import RunParts
from benchmarks.chaos.compare import Left, journal_differences, left_by
from configs.load import load_config
from configs.schema import Config
from learners.group import RoundResult
from learners.manifest import WeightsManifest
from learners.metrics import RoundMetrics, StepMetrics
from learners.sampler_reference import Referenced
from rollout.anchors import load_anchors
from rollout.identity import identity_of
from rollout.journal import Journal
from rollout.plan import Chunk, finish_candidate
from rollout.prompts import PromptSet
from rollout.records import Candidate, Score
from rollout.staleness import rollout_version
from rollout.state import check_states
from rollout.store import Store

OVERRIDES = (
    "languages.codes=[en, es, sw]",
    "rollout.prompts_per_round=12",
    "rollout.chunk_prompts=2",
    "rollout.samples_per_prompt=3",
    "rollout.max_num_seqs=1",  # so that a round has several feeds
    "anchor.pairs_per_round=4",
    "prompts.heldout=null",
    "schedule.rounds=3",
)


class Fate:
    """Kills this process at an operation that was chosen beforehand; counts operations."""

    def __init__(self, at: int | None) -> None:
        self._at = at
        self.count = 0

    def around(self, work: Callable[[], Any]) -> Any:
        """Do an operation; die before it at an even moment of it, after it at an odd one."""
        self._pass()
        result = work()
        self._pass()
        return result

    def _pass(self) -> None:
        if self.count == self._at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1


def _number(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")


class FakePool:
    """One actor that answers at once, from the key and the weights alone."""

    size, restarts, queue, watch = 1, 0, (), None
    idle, in_flight, starting = True, {}, {}  # type: ignore[var-annotated]

    def __init__(self, name: str, team: FakeTeam) -> None:
        self.name = name
        self._team = team

    def submit(self, call: Call) -> None:
        """Do it, and tell who asked."""
        result = getattr(self, f"_{call.method}")(*call.arguments)
        for part in result if call.streams else (result,):
            call.done(0.0, 0.0, part)

    def _generate(self, chunks: list[Chunk]) -> Iterator[tuple[str, list[Candidate]]]:
        # An answer depends on all that is sampled with it: a feed that is composed otherwise after a kill is found out.
        together = _number([request.key for chunk in chunks for request in chunk.requests])
        for chunk in chunks:
            yield chunk.id, self._answers(chunk, together)

    def _answers(self, chunk: Chunk, together: int) -> list[Candidate]:
        version = self._team.version
        found = []
        for request in chunk.requests:
            number = _number(request.key, request.seed, self._team.weights(version), together)
            found.append(finish_candidate(request.key, f"answer {number}", (number % 997, 2), "stop", version))
        return found

    def _score(self, candidates: list[Candidate], _by_ids: bool) -> ScoredCandidates:
        judged = [replace(one, gate="language" if _number(one.key) % 7 == 0 else "ok") for one in candidates]
        scores = [Score(one.key, _number(one.text) % 1000 / 10) for one in judged if one.gate == "ok"]
        return ScoredCandidates(judged, scores, Counter())


class FatedJournal(Journal):
    """The real journal, at whose calls this process may die."""

    seconds = 0.0

    def __init__(self, file: Store, fate: Fate) -> None:
        self.file, self._fate = file, fate

    def ask(self, method: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """See ``Journal.ask``."""
        return self._fate.around(lambda: getattr(self.file, method)(*arguments, **named))


class FakeTeam:
    """What the driver asks of a team: the real journal, and a learner whose weights are a hash of what it was given."""

    failed_broadcasts = 0

    def __init__(self, config: Config, run: Path, fate: Fate) -> None:
        self._config, self._run, self._fate = config, run, fate
        self.store = FatedJournal(Store.open(run / "store.sqlite", *identity_of(config)), fate)
        self.version = rollout_version(config.schedule, self.states())
        self.rollouts, self.rewards = FakePool("rollout actor", self), FakePool("reward actor", self)

    def states(self) -> Any:
        """State of every round."""
        found = {number: state for number, (state, _) in self.store.file.round_states().items()}
        return check_states(found, self._config.schedule.rounds)

    def weights(self, version: int) -> str:
        """The weights of a version."""
        return "start" if version == 0 else self._checkpoint(version).read_text()

    def _checkpoint(self, round: int) -> Path:
        return self._run / f"round-{round:04d}"

    def reference(self, round: int) -> Future[Referenced]:
        """Two figures for each pair."""
        before = self.weights(round - 1)
        pairs = self.store.pairs(round)
        values = {one.id: tuple(_number(one.id, side, before) % 100 / 10 for side in (0, 1)) for one in pairs}
        return _done(Referenced(values))

    def train(self, round: int) -> Future[RoundResult]:
        """The next weights, from those before and the pairs; a checkpoint that is there is taken."""
        pairs = self.store.pairs(round)
        path = self._checkpoint(round)
        if not path.is_file():
            temporary = path.with_suffix(".new")
            temporary.write_text(f"{_number(self.weights(round - 1), pairs):x}")
            self._fate.around(lambda: temporary.replace(path))
        manifest = WeightsManifest(round, path.read_text(), (), (), (), (), ())
        values = {
            "loss": 1.0,
            "preference_loss": 1.0,
            "nll": 1.0,
            "reward_accuracy": 1.0,
            "reward_margin": 1.0,
            "pairs": float(len(pairs)),
        }
        step = StepMetrics(round, 1, round, values, {}, 1.0, 1e-4, 100, 0.0, 1, 1.0)
        metrics = RoundMetrics(round, len(pairs), 1.0, [step])
        return _done(RoundResult(round, metrics, checkpoint=path, manifest=manifest, merged=manifest, weights=[]))

    def publish(self, manifest: WeightsManifest) -> list[Any]:
        """The actors hold it now."""
        self.version = manifest.version
        return []


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


class _Silent:
    """Takes whatever it is told."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_arguments, **_named: None


class _Metrics(MetricsLog):
    """The real file, at whose writes this process may die."""

    def __init__(self, run: Path, fate: Fate) -> None:
        super().__init__(run)
        self._fate = fate

    def write(self, row: dict[str, Any]) -> None:
        self._fate.around(lambda: super(_Metrics, self).write(row))


def live(config: Config, inputs: Inputs, run: Path, at: int | None) -> int:
    """Run from whatever the folder holds until the end or the kill; returns how many operations it took."""
    run.mkdir(parents=True, exist_ok=True)
    fate = Fate(at)
    team: Any = FakeTeam(config, run, fate)
    quiet: Any = _Silent()
    parts = RunParts(config, team, Screen(quiet=True), quiet)
    Driver(parts, SamplingTrack(parts, inputs), _Metrics(run, fate), lambda: False).run()
    return fate.count


def life(config: Config, inputs: Inputs, run: Path, at: int | None) -> int:
    """``live`` in a process of its own; returns how it ended."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            live(config, inputs, run, at)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    """Kill as often as asked, in runs of up to four kills; print the figures. Exit status 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=10)
    given = parser.parse_args()
    draw = random.Random(f"fake {given.seed}")
    killed, runs, problems = 0, 0, []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for staleness in (0, 1):
            schedule = [f"schedule.max_staleness={staleness}", f"schedule.sync_every={staleness + 1}"]
            preset = ("configs/icr.yaml", "configs/lidr.yaml")[staleness]  # the latter translates
            config = load_config(Path(preset), [f"run.dir={name}", *OVERRIDES, *schedule])
            prompts = PromptSet.from_config(config, "train")
            inputs = Inputs(
                prompts, None, load_anchors(config), frozenset(), {}, lambda _: True, 0, {}, lambda *_: ((), True), 0
            )
            rounds = config.schedule.rounds
            straight = root / f"straight-{staleness}"
            operations = live(config, inputs, straight, None)
            target = given.kills * (staleness + 1) // 2
            while killed < target:
                run, known = root / f"run-{runs}", Left()
                runs += 1
                for _ in range(min(4, target - killed)):
                    code = life(config, inputs, run, draw.randrange(operations // 2))
                    if code == 0:
                        break  # it was finished before
                    killed += code == -signal.SIGKILL
                    if code != -signal.SIGKILL:
                        problems.append(f"run {runs}: ended with {code}")
                    left = left_by(run, rounds)
                    problems += known.within(left, f"were lost or changed in run {runs}")
                    known = left
                if (code := life(config, inputs, run, None)) != 0:
                    problems.append(f"run {runs}: ended with {code}")
                problems += [f"run {runs}: {what}" for what in _differences(straight, run, rounds)]
    print(json.dumps({"kills": killed, "runs": runs, "problems": problems}))
    return 1 if problems else 0


def _differences(straight: Path, run: Path, rounds: int) -> list[str]:
    found = journal_differences(straight, run, rounds)
    for number in range(1, rounds + 1):
        if (straight / f"round-{number:04d}").read_text() != (run / f"round-{number:04d}").read_text():
            found.append(f"other weights after round {number}")
    rows = [json.loads(line)["round"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    return found + ([] if rows == list(range(1, rounds + 1)) else [f"rows of rounds {rows}"])


if __name__ == "__main__":
    sys.exit(main())
