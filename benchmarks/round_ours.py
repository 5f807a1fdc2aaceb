"""One whole round here for ``benchmarks.round``: the real driver, journal, engines and learner, over a cheap reward."""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from actors.runtime.env import apply_driver_env

apply_driver_env()

from actors.observe.metrics import MetricsLog, covered  # noqa: E402  # after the environment
from actors.observe.screen import Screen  # noqa: E402
from actors.plan.plugins import pinned  # noqa: E402
from actors.plan.preflight import Inputs, check_inputs  # noqa: E402
from actors.runtime.signals import StopFlag  # noqa: E402
from actors.train.driver import Driver  # noqa: E402
from actors.train.run_folder import dated, open_run_folder  # noqa: E402
from actors.train.sampling import SamplingTrack  # noqa: E402
from actors.train.team import Team, start_team  # noqa: E402
from actors.train.track import RunParts  # noqa: E402
from benchmarks.workload import Size, config_of, size_of  # noqa: E402
from configs.schema import Config  # noqa: E402
from rollout.pairs import MinedPairs  # noqa: E402
from rollout.records import Candidate, Pair, Score  # noqa: E402


class _EveryPrompt(SamplingTrack):
    """As a run's, but every prompt gives a pair, as in TRL: the first of two equal answers is chosen."""

    def mine(self, round: int, candidates: list[Candidate], scores: list[Score]) -> MinedPairs:
        worths = {score.key: score.reward for score in scores}
        samples: dict[tuple[str, str], list[Candidate]] = {}
        for one in candidates:
            samples.setdefault((one.key.language, one.key.prompt_id), []).append(one)
        pairs = []
        for (language, name), (first, second) in sorted(samples.items()):
            chosen, rejected = sorted((first, second), key=lambda one: -worths[one.key])
            pairs.append(
                Pair(
                    f"r{round:04d}/{language}/{name}", round, name, language, "mined",
                    self._inputs.prompts.get(name, language).text, chosen.text, rejected.text,
                    worths[chosen.key], worths[rejected.key], 0, chosen.key, rejected.key,
                )
            )  # fmt: skip
        return MinedPairs(tuple(pairs), {})


def measure(size: Size, dtype: str, keep: Path, overrides: list[str], *, gpu: bool) -> dict[str, Any]:
    """Figures of a round; its pairs and the trained model stay in ``keep``."""
    keep.mkdir(parents=True, exist_ok=True)
    config = pinned(dated(config_of(size, keep, dtype, overrides, gpu=gpu)))
    inputs = check_inputs(config)
    folder = open_run_folder(config, resume=False)
    with start_team(config, inputs.prompts, folder, StopFlag()) as team:
        return _round(config, inputs, team, folder.path)


def _round(config: Config, inputs: Inputs, team: Team, run: Path) -> dict[str, Any]:
    started = team._learner_started  # all are up before time begins, as TRL's model is loaded
    assert started is not None
    started.result()
    parts = RunParts(config, team, Screen(quiet=True), team.exported)
    driver = Driver(parts, _EveryPrompt(parts, inputs), MetricsLog(run), StopFlag())
    begun = time.perf_counter()
    driver.run()
    seconds = time.perf_counter() - begun
    (row,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    pairs = team.store.pairs(1)
    (run / "pairs.json").write_text(json.dumps([[one.prompt, one.chosen, one.rejected] for one in pairs]))
    return {
        "seconds": seconds,
        "stages": stage_seconds(row["timeline"]),
        "tokens": row["counts"]["completion_tokens"],
        "pairs": len(pairs),
        "first_loss": row["learner"]["first_preference_loss"],
        "model": str(run / "checkpoints" / "round-0001"),
        "run": str(run),
    }


def stage_seconds(timeline: dict[str, dict[str, list[float]]]) -> dict[str, float]:
    """Seconds in which some worker was at each stage.

    Args:
        timeline: By worker and stage, beginnings and ends in turn, as ``metrics.jsonl`` has them.
    """
    spans: dict[str, list[tuple[float, float]]] = {}
    for stages in timeline.values():
        for stage, moments in stages.items():
            spans.setdefault(stage, []).extend(zip(moments[::2], moments[1::2], strict=True))
    return {stage: covered(each, 0.0, math.inf) for stage, each in spans.items()}


def main() -> None:
    """``python -m benchmarks.round_ours SIZE MODEL DTYPE cpu|gpu FOLDER [OVERRIDES]``: figures as one line of JSON."""
    name, model, dtype, device, folder, *overrides = sys.argv[1:]
    where = Path(tempfile.mkdtemp(dir=folder))
    print(json.dumps(measure(size_of(name, Path(model)), dtype, where, overrides, gpu=device == "gpu")))


if __name__ == "__main__":
    main()
