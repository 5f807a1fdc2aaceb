"""A whole LIDR run, two ranks training while the next round is sampled; and what it listens on meanwhile."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kits.run import arguments, journal, summary
from tests.kits.sockets import family, is_loopback, listening

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

OVERRIDES = (
    "languages.shares={en: 1.0}",
    "evaluation.languages=[fr]",
    "schedule.rounds=3",
    "schedule.max_staleness=1",
    "schedule.sync_every=2",
    "learner.workers=2",
    "cluster.weight_transfer=broadcast",
)


@dataclass(frozen=True)
class Run:
    """A finished run, and all sockets that its processes listened on from the first to the last."""

    folder: Path
    sockets: set[tuple[str, int, str]]


@pytest.fixture(scope="module")
def lidr(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("lidr")
    command = arguments(folder, "lidr", *OVERRIDES, config="lidr")
    output = folder / "output"
    seen: set[tuple[str, int, str]] = set()
    with output.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as run:
        while run.poll() is None:
            seen |= listening(family(run.pid))
            try:
                run.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
    assert run.returncode == 0, output.read_text()
    return Run(folder, seen)


def test_a_whole_run_listens_on_the_loopback_alone(lidr: Run) -> None:
    assert len(lidr.sockets) > 5
    assert {one for one in lidr.sockets if not is_loopback(one[0])} == set()


def test_lidr_runs_with_both_directions_and_semi_online(lidr: Run) -> None:
    with journal(lidr.folder, "lidr") as store:
        mined = [pair for pair in store.pairs(1) if pair.source == "mined"]
    assert {pair.language for pair in mined} == {"en", "es", "sw"}
    assert {p.chosen_key.source for p in mined if p.chosen_key and p.language != "en"} == {"translation"}
    assert {p.rejected_key.source for p in mined if p.rejected_key and p.language == "en"} == {"translation"}
    rows = [json.loads(line) for line in (lidr.folder / "lidr" / "metrics.jsonl").read_text().splitlines()]
    assert set(rows[0]["counts"]["translation_outcomes"]) == {"en-es", "en-sw", "es-en", "sw-en"}
    found = summary(lidr.folder, "lidr")  # French is evaluated and nothing else
    assert list(found["languages"]) == ["en", "es", "sw", "fr"]
    assert found["unseen_mean"]["end"] == found["languages"]["fr"]["end"]["accuracy_sampled"]
    assert set(rows[0]["heldout_start"]) == {"en", "es", "sw", "fr"}
    # Version 1 is never published, version 3 only to be evaluated.
    assert [(row["sample_version"], row["staleness"]) for row in rows] == [(0, 0), (0, 1), (2, 0)]
    assert [row["failed_broadcasts"] for row in rows] == [0, 0, 0]
