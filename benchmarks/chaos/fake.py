"""The driver's own part of surviving kills, in seconds: the real driver, journal and metrics over a fake engine.

Each life is a process of its own that SIGKILLs itself at an operation, just before it or just after: a call of the
journal, the write of a checkpoint, a row of metrics. ``--kills n`` of them are drawn at random. One run a schedule is
killed before and after every kind of write of its second round, one after the other; with ``--every`` each operation of
a run is met by a run of its own (some minutes). ``python -m benchmarks.chaos.fake --seed n --kills n [--every]``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from rollout.state import STATES, check_states
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


# What changes something on disk; the others only read.
WRITES = ("begin_round", "put_", "set_round_state", "mark_consumed", "checkpoint", "row")


class Fate:
    """Kills this process at a moment that was chosen beforehand: a number, or a name; keeps the moments' names."""

    def __init__(self, at: int | str | None) -> None:
        self._at = at
        self.moments: list[str] = []

    def around(self, name: str, work: Callable[[], Any]) -> Any:
        """Do an operation, between two moments at each of which this process may die."""
        self._pass(f"before {name}")
        result = work()
        self._pass(f"after {name}")
        return result

    def _pass(self, moment: str) -> None:
        if self._at in (len(self.moments), moment):
            os.kill(os.getpid(), signal.SIGKILL)
        self.moments.append(moment)


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
        given = (*arguments, *named.values())
        told = [str(one) for one in given if isinstance(one, int) or one in ("answer", "translate", *STATES)]
        name = " ".join([method, *told[:2]])
        return self._fate.around(name, lambda: getattr(self.file, method)(*arguments, **named))


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
            self._fate.around(f"checkpoint {round}", lambda: temporary.replace(path))
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
        self._fate.around(f"row {row['round']}", lambda: super(_Metrics, self).write(row))


def live(config: Config, inputs: Inputs, run: Path, at: int | str | None) -> list[str]:
    """Run from whatever the folder holds until the end or the kill; returns the moments that it went through."""
    run.mkdir(parents=True, exist_ok=True)
    fate = Fate(at)
    team: Any = FakeTeam(config, run, fate)
    quiet: Any = _Silent()
    parts = RunParts(config, team, Screen(quiet=True), quiet)
    Driver(parts, SamplingTrack(parts, inputs), _Metrics(run, fate), lambda: False).run()
    return fate.moments


def life(config: Config, inputs: Inputs, run: Path, at: int | str | None) -> int:
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


class Trial:
    """Runs of one schedule, killed and compared with one that nothing disturbs."""

    def __init__(self, root: Path, staleness: int) -> None:
        schedule = [f"schedule.max_staleness={staleness}", f"schedule.sync_every={staleness + 1}"]
        preset = ("configs/icr.yaml", "configs/lidr.yaml")[staleness]  # the latter translates
        self._config = load_config(Path(preset), [f"run.dir={root}", *OVERRIDES, *schedule])
        prompts = PromptSet.from_config(self._config, "train")
        anchors = load_anchors(self._config)
        self._inputs = Inputs(prompts, None, anchors, frozenset(), {}, lambda _: True, 0, {}, lambda *_: ((), True), 0)
        self._root = root / f"staleness-{staleness}"
        self._straight = self._root / "straight"
        self._runs = 0
        self.problems: list[str] = []
        self.moments = live(self._config, self._inputs, self._straight, None)

    def kinds(self, round: int) -> list[str]:
        """Before and after the first of every kind of write of a round, in the order of an undisturbed run."""
        own = [one for one in self.moments if one.split()[2:3] == [str(round)] and one.split()[1].startswith(WRITES)]
        return list(dict.fromkeys(own))

    def kill(self, moments: Iterable[int | str]) -> int:
        """One run: a life for each of the moments, as long as it is not finished, and one to the end; counts kills."""
        self._runs += 1
        run, killed, known = self._root / f"run-{self._runs}", 0, Left()
        for moment in moments:
            code = life(self._config, self._inputs, run, moment)
            if code == 0:
                break  # it was finished before
            killed += code == -signal.SIGKILL
            if code != -signal.SIGKILL:
                self.problems.append(f"{run.name}, {moment}: ended with {code}")
            left = left_by(run, self._config.schedule.rounds)
            self.problems += known.within(left, f"were lost or changed in {run.name}, {moment}")
            known = left
        if (code := life(self._config, self._inputs, run, None)) != 0:
            self.problems.append(f"{run.name}: ended with {code}")
        differences = _differences(self._straight, run, self._config.schedule.rounds)
        self.problems += [f"{run.name}: {what}" for what in differences]
        shutil.rmtree(run)
        return killed


def main() -> int:
    """Kill as often as asked, in runs of up to four kills; print the figures. Exit status 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--every", action="store_true")
    given = parser.parse_args()
    draw = random.Random(f"fake {given.seed}")
    killed, by_kind, every, problems = 0, {}, 0, []
    with tempfile.TemporaryDirectory() as name:
        for staleness in (0, 1):
            trial = Trial(Path(name), staleness)
            target = given.kills * (staleness + 1) // 2
            while killed < target:
                least = min(4, target - killed)
                killed += trial.kill(draw.randrange(len(trial.moments) // 2) for _ in range(least))
            kinds = trial.kinds(2)
            by_kind[staleness] = (trial.kill(kinds), len(kinds))
            if given.every:
                every += sum(trial.kill([number]) for number in range(len(trial.moments)))
            problems += trial.problems
    print(json.dumps({"kills": killed, "kinds": by_kind, "every": every, "problems": problems}))
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
