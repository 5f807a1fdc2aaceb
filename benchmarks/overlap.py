"""The driver with stages that only sleep: overlap against the pipeline's bound, and many rollout actors.

    python -m benchmarks.overlap [--part pipeline|scale] [--short] [--out runs/bench]

Driver, pools, mining and journal are a run's own, and so is Ray between them; actors sleep instead of computing, and
give back candidates as real ones do. What is lost against the bound is thus what the machinery costs.

``pipeline``: rounds with ``max_staleness`` 0 and 1 against the time that the stages take by arithmetic. ``scale``: one
to 64 rollout actors that each have as much to do; eight share a process, which makes no difference to the driver.
``--short`` tries both on a small scale. Writes ``overlap.json`` and ``overlap.md``.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from actors.runtime.env import apply_driver_env

apply_driver_env()

import ray  # noqa: E402  # after the environment

from actors.observe.metrics import MetricsLog  # noqa: E402
from actors.observe.run_metrics import RunMetrics  # noqa: E402
from actors.observe.screen import Screen  # noqa: E402
from actors.plan.preflight import Inputs, check_inputs  # noqa: E402
from actors.reward.worker import ScoredCandidates  # noqa: E402
from actors.runtime.calls import call  # noqa: E402
from actors.runtime.cluster import start_cluster  # noqa: E402
from actors.runtime.pool import Pool  # noqa: E402
from actors.train.driver import Driver  # noqa: E402
from actors.train.sampling import SamplingTrack  # noqa: E402
from actors.train.store import open_journal  # noqa: E402
from actors.train.team import Team  # noqa: E402
from actors.train.track import RunParts  # noqa: E402
from benchmarks.workload import report  # noqa: E402
from configs.load import load_config  # noqa: E402
from configs.running import ClusterConfig  # noqa: E402
from configs.schema import Config  # noqa: E402
from learners.group import RoundResult  # noqa: E402
from learners.manifest import WeightsManifest  # noqa: E402
from learners.metrics import RoundMetrics, StepMetrics  # noqa: E402
from learners.sampler_reference import Referenced  # noqa: E402
from rollout.identity import identity_of  # noqa: E402
from rollout.plan import Chunk  # noqa: E402
from rollout.records import Candidate, Score  # noqa: E402
from rollout.state import Action, RoundState, check_states  # noqa: E402
from rollout.token_ids import TokenIds  # noqa: E402

_SHARED = 8  # simulated actors of one process
_WORDS = ("the", "cat", "and", "dog", "count", "seven", "pears", "for", "nine", "friends", "near", "house")


@dataclass(frozen=True)
class Sleeps:
    """Seconds of each call; ``generate`` and ``score`` of a chunk, the others of a round."""

    generate: float
    score: float
    reference: float = 0.0
    train: float = 0.0
    publish: float = 0.0


class Sleeper:
    """Takes work as a rollout or reward actor does, and sleeps over it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def ready(self) -> None:
        """Answers once the process is there."""

    def generate(self, chunks: list[Chunk]) -> Iterator[tuple[float, float, tuple[str, list[Candidate]]]]:
        """A candidate of some words for every request, a chunk at a time."""
        for chunk in chunks:
            begin = time.time()
            found = []
            for request in chunk.requests:
                draw = random.Random(request.seed)
                ids = TokenIds(draw.randrange(2, 2000) for _ in range(48))
                found.append(Candidate(request.key, " ".join(draw.choices(_WORDS, k=24)), ids, "stop", 0))
            self._rest(begin)
            yield begin, time.time(), (chunk.id, found)

    def score(self, candidates: list[Candidate], by_ids: bool) -> tuple[float, float, ScoredCandidates]:
        """A score for each."""
        begin = time.time()
        judged = [replace(one, gate="ok", detected_language=one.key.language) for one in candidates]
        scores = [Score(one.key, sum(one.token_ids) % 97 / 97) for one in candidates]
        self._rest(begin)
        return begin, time.time(), ScoredCandidates(judged, scores, Counter())

    def _rest(self, begin: float) -> None:
        time.sleep(max(0.0, self._seconds - (time.time() - begin)))


SLEEPER: Any = ray.remote(num_cpus=0, max_concurrency=_SHARED)(Sleeper)  # type: ignore[call-overload]  # an actor's option


class SleepTeam:
    """What the driver asks of a ``Team``: pools of sleepers, a real journal, a learner that sleeps."""

    def __init__(self, config: Config, folder: Path, sleeps: Sleeps, rollouts: int, rewards: int) -> None:
        self.config, self._sleeps = config, sleeps
        self.version, self.failed_broadcasts = 0, 0
        self.store = open_journal(folder / "store.sqlite", identity_of(config), 120)
        self.rollouts = self._pool("rollout actor", rollouts, sleeps.generate)
        self.rewards = self._pool("reward actor", rewards, sleeps.score)
        call([*self.rollouts.start(), *self.rewards.start()], 300, "sleepers to start")
        self._learner = ThreadPoolExecutor(1)

    def _pool(self, name: str, size: int, seconds: float) -> Pool:
        hosts = [SLEEPER.remote(seconds) for _ in range(math.ceil(size / _SHARED))]
        return Pool(name, lambda index: hosts[index // _SHARED], size, 600.0, 0)

    def states(self) -> dict[int, RoundState]:
        """As ``Team.states``."""
        found = {number: state for number, (state, _) in self.store.round_states().items()}
        return check_states(found, self.config.schedule.rounds)

    def reference(self, round: int) -> Future[Referenced]:
        """Zeros for every example."""
        examples = self.store.examples(round)

        def work() -> Referenced:
            time.sleep(self._sleeps.reference)
            return Referenced({one.id: (0.0, 0.0) for one in examples})

        return self._learner.submit(work)

    def train(self, round: int) -> Future[RoundResult]:
        """A round without weights."""
        examples = self.store.examples(round)

        def work() -> RoundResult:
            time.sleep(self._sleeps.train)
            values = dict.fromkeys(("loss", "preference_loss", "reward_accuracy", "reward_margin"), 0.5)
            values["pairs"] = len(examples)
            step = StepMetrics(round, 0, round, values, {}, 1.0, 1e-5, 1, 0.0, 1, self._sleeps.train)
            metrics = RoundMetrics(round, len(examples), self._sleeps.train, [step])
            manifest = WeightsManifest(round, "", (), (), (), (), ())
            return RoundResult(round, metrics, Path(), manifest, manifest, [])

        return self._learner.submit(work)

    def publish(self, manifest: WeightsManifest) -> list[Any]:
        """Nothing to take."""
        time.sleep(self._sleeps.publish)
        self.version = manifest.version
        return []

    def close(self) -> None:
        """Close the journal."""
        self._learner.shutdown()
        self.store.close()


def config_of(folder: Path, chunks: int, rollouts: int, rounds: int = 1, staleness: int = 0) -> Config:
    """The embedded world with N answer chunks a round (a multiple of its five languages), of 32 requests."""
    return load_config(
        Path("configs/demo.yaml"),
        [
            f"run.dir={folder}",
            "prompts.heldout=null",
            f"rollout.actors={rollouts}",
            "evaluation.languages=[]",
            f"rollout.prompts_per_round={4 * chunks // 5}",
            "rollout.chunk_prompts=4",
            "rollout.samples_per_prompt=8",
            f"schedule.rounds={rounds}",
            f"schedule.max_staleness={staleness}",
            "anchor.pairs_per_round=0",
        ],
    )


@contextmanager
def team_of(config: Config, folder: Path, sleeps: Sleeps, rollouts: int, rewards: int) -> Iterator[SleepTeam]:
    """A started team in a Ray of its own."""
    with start_cluster(ClusterConfig(num_cpus=2), folder):
        team = SleepTeam(config, folder, sleeps, rollouts, rewards)
        with closing(team):
            yield team


def sampling_bound(sleeps: Sleeps, chunks: int, rollouts: int, rewards: int) -> float:
    """Seconds of sampling and scoring, streaming: the slower stage never waits, but for the other's first or last."""
    generating = math.ceil(chunks / rollouts) * sleeps.generate
    scoring = math.ceil(chunks / rewards) * sleeps.score
    return max(generating + sleeps.score, sleeps.generate + scoring)


def rounds_bound(sleeps: Sleeps, sampling: float, rounds: int, staleness: int) -> float:
    """Seconds of whole rounds: one after the other, or the next one's sampling beside learning."""
    learning = sleeps.reference + sleeps.train
    if staleness == 0:
        return rounds * (sampling + learning + sleeps.publish)
    return sampling + (rounds - 1) * max(sampling, learning) + learning + rounds * sleeps.publish


def pipeline(short: bool) -> tuple[list[str], dict[str, float]]:
    """Three rounds (short: two) with and without overlap, against their bounds."""
    sleeps = Sleeps(generate=1.5, score=0.4, reference=2.0, train=6.0, publish=0.2)
    chunks, rollouts, rewards, rounds = 10, 2, 1, 2 if short else 3
    sampling = sampling_bound(sleeps, chunks, rollouts, rewards)
    lines, ratios = ["| max_staleness | bound, s | measured, s | share of the bound |", "|---|---|---|---|"], {}
    for staleness in (0, 1):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            config = config_of(folder, chunks, rollouts, rounds, staleness)
            inputs = check_inputs(config, ask_judge=False)
            with team_of(config, folder, sleeps, rollouts, rewards) as team, _exported(config) as exported:
                driver = Driver(*_parts(config, inputs, team, exported), MetricsLog(folder), lambda: False)
                begun = time.perf_counter()
                driver.run()
                seconds = time.perf_counter() - begun
                assert set(team.states().values()) == {"done"}, team.states()
        bound = rounds_bound(sleeps, sampling, rounds, staleness)
        ratios[f"staleness_{staleness}"] = bound / seconds
        lines.append(f"| {staleness} | {bound:.1f} | {seconds:.1f} | {bound / seconds:.3f} |")
    return lines, ratios


def _parts(config: Config, inputs: Inputs, team: SleepTeam, exported: RunMetrics) -> tuple[RunParts, SamplingTrack]:
    parts = RunParts(config, cast(Team, team), Screen(True), exported)
    return parts, SamplingTrack(parts, inputs)


@contextmanager
def _exported(config: Config) -> Iterator[RunMetrics]:
    with closing(RunMetrics(config.run.name, config.schedule.rounds)) as exported:
        yield exported


def scale(short: bool) -> tuple[list[str], dict[str, float]]:
    """Five chunks of 3 s for each of N rollout actors."""
    sleeps = Sleeps(generate=3.0, score=0.02)
    lines = [
        "| rollout actors | chunks | candidates/s | bound, s | measured, s | efficiency | driver's CPU, cores |",
        "|---|---|---|---|---|---|---|",
    ]
    ratios: dict[str, float] = {}
    for actors in (1, 4) if short else (1, 8, 64):
        chunks, rewards = 5 * actors, 4
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            config = config_of(folder, chunks, actors)
            inputs = check_inputs(config, ask_judge=False)
            with team_of(config, folder, sleeps, actors, rewards) as team, _exported(config) as exported:
                seconds, cores = _sampled(_parts(config, inputs, team, exported)[1])
                rows = len(team.store.candidates(1))
        assert rows == chunks * 32, f"{rows} candidates in the journal"
        bound = sampling_bound(sleeps, chunks, actors, rewards)
        ratios[f"actors_{actors}"], ratios[f"driver_cores_{actors}"] = bound / seconds, cores
        lines.append(
            f"| {actors} | {chunks} | {rows / seconds:,.0f} | {bound:.1f} | {seconds:.2f} | {bound / seconds:.3f} | "
            f"{cores:.2f} |"
        )
    return lines, ratios


def _sampled(track: SamplingTrack) -> tuple[float, float]:
    """Seconds of a round's sampling and scoring, and cores that the driver used meanwhile."""
    begun, used = time.perf_counter(), time.process_time()
    track.advance(Action("generate", 1, "scored"), lambda: False)
    seconds = time.perf_counter() - begun
    return seconds, (time.process_time() - used) / seconds


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["pipeline", "scale"], action="append")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--short", action="store_true")
    told = parser.parse_args()
    parts = {"pipeline": pipeline, "scale": scale}
    table: list[str] = []
    ratios: dict[str, float] = {}
    for name in told.part or [*parts]:
        lines, found = parts[name](told.short)
        table += ["", *lines] if table else lines
        ratios |= found
        report("overlap", {"ratios": ratios}, table, told.out)


if __name__ == "__main__":
    main()
