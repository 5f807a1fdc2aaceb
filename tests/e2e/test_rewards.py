"""A round with a judge as reward: the command, with everything real but the judge. A reward model: test_submit.py."""

from __future__ import annotations

import json
import math
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from tests.kits.judge import Says, Shown, judge_server, longer
from tests.kits.run import journal, train

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.timeout(900)]

TINY = (
    "schedule.rounds=1",
    "prompts.heldout=null",
    "rollout.prompts_per_round=4",
    "rollout.chunk_prompts=2",
    "anchor.pairs_per_round=2",
    "learner.pairs_per_step=4",
    "learner.epochs=1",
)


def test_round_under_a_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is down for a while in the middle; nobody has to do anything about it."""

    def shaky(shown: Shown) -> Says:
        return Says("out of memory", status=500) if 2 < shown.number <= 12 else longer(shown)

    monkeypatch.setenv("TEST_JUDGE_KEY", "not-to-be-written-down")
    with judge_server(shaky) as stub, judge_server(longer) as other:
        settings = (
            "prompts.heldout=worlds/default/prompts/heldout/{lang}.jsonl",
            "prompts.heldout_limit=2",
            "evaluation.samples_per_prompt=1",
            f"evaluation.judge={{model: another, base_url: '{other.url}'}}",
            "judge.model=stub",
            f"judge.base_url={stub.url}",
            "judge.comparisons_per_candidate=2",
            "judge.api_key_env=TEST_JUDGE_KEY",
            "learner.reference_logprobs=auto",
        )
        done = train(tmp_path, "judged", *TINY, "reward.kind=judge", *settings)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "round 1: judge, " in done.stdout
        assert "Greedy answers judged against those of the start" in done.stdout
        asked = len(stub.shown)
        assert set(stub.authorization) == {"Bearer not-to-be-written-down"}
    run = tmp_path / "judged"
    found = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    rates = [row["end"]["win_rate"] for row in found["languages"].values()]
    assert [rate["items"] + rate["failed"] for rate in rates] == [2, 2, 2]
    assert found["non_english_mean"]["win_rate"]["items"] == 4
    with sqlite3.connect(tmp_path / ".cache" / "judge.sqlite") as db:  # where `isogloss eval` keeps its verdicts
        assert db.execute("SELECT count(*) FROM verdicts").fetchone() == (len(other.shown) - 1,)
    assert "Judged against the start" in (run / "report.html").read_text(encoding="utf-8")
    written = [path for path in run.rglob("*") if path.is_file() and b"not-to-be-written-down" in path.read_bytes()]
    assert written == []
    with journal(tmp_path, "judged") as store:
        scores, candidates, pairs = store.scores(1), store.candidates(1), store.pairs(1)
    assert {s.parts["failed"] for s in scores} == {0.0}
    sampled = {c.key: c for c in candidates}
    assert all(len(c.logprobs or b"") == 4 * len(c.token_ids) for c in candidates)
    for pair in (pair for pair in pairs if pair.source == "mined"):
        assert pair.chosen_key is not None
        found = np.frombuffer(sampled[pair.chosen_key].logprobs or b"", "<f4").astype(float)
        assert pair.reference_chosen == found.sum(), "the sampler's own, journaled"
        assert (found <= 0).all()
    (row,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    mismatch = row["sampling_mismatch"]
    assert (mismatch["used"], set(mismatch["languages"])) == (True, {"es", "sw"})
    assert mismatch["most"] < 1e-4, "float32: the learner's, token by token"
    assert mismatch["loss"] < 1e-4
    assert row["learner"]["first_preference_loss"] == pytest.approx(math.log(2), abs=1e-4)
    counts = row["judge"]["languages"]
    assert set(counts) == {"es", "sw"}
    assert sum(by["comparisons"] for by in counts.values()) == sum(s.parts["comparisons"] for s in scores) / 2 > 0
    assert sum(by["failed"] for by in counts.values()) == 0
    with sqlite3.connect(run / "judge.sqlite") as db:
        (kept,) = db.execute("SELECT count(*) FROM verdicts").fetchone()
    assert row["judge"]["requests"] == asked - 1 == kept + 10, "but for the question before the start"
    mined = [pair for pair in pairs if pair.source == "mined"]
    assert mined
    assert all(len(pair.chosen) >= len(pair.rejected) for pair in mined)
