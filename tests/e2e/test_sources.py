"""A data set from servers and a command; a round with functions of one's own, from a folder outside the repository."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from configs.load import load_config
from rollout.preferences import load_preferences
from tests.actors.test_source_coordinator import ECHO, generator
from tests.kits.run import ISOGLOSS, journal, train

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.mark.nightly
def test_a_data_set_is_built_stopped_and_continued(tmp_path: Path) -> None:
    """A server gives direct answers; English ones are translated by a command. At the first start the server fails."""
    down = [False]

    def says(body: dict[str, object]) -> str | int:
        return 400 if down[0] and len(stub.asked) > 6 else f"Answer {len(stub.asked)}"

    with generator() as stub:
        stub.says = says
        server = {"base_url": stub.url, "model": "strong-1", "max_retries": 0}
        values = {
            "extends": "icr.yaml",
            "endpoints": {"strong": server, "weak": {**server, "model": "weak-1"}},
            "candidates": {
                "sources": [
                    {"kind": "endpoint", "name": "direct", "endpoint": "strong"},
                    {"kind": "endpoint", "name": "english", "endpoint": "weak", "languages": ["en"], "scored": False},
                    {"kind": "translation", "name": "translated", "of": "english", "by": "command",
                     "command": [sys.executable, "-c", ECHO + "r['to'] + ' ' + r['text']}))"]},
                ]
            },
            "languages": {"codes": ["en", "es", "sw"], "shares": {"en": 0},
                          "quota": {"pairs_per_round": {"es": 6, "sw": 4}, "assignment": "disjoint", "refill": 1}},
            "reward": {"kind": "verifier", "cpus_per_actor": 0.5},
            "pairs": {"miner": "by_source", "chosen": ["direct"], "rejected": ["translated"]},
            "gates": {"language": False},
            "anchor": {"pairs_per_round": 0},
            "rollout": {"chunk_prompts": 4},
        }  # fmt: skip
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        command = [str(ISOGLOSS), "build-data", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "data")]
        down[0] = True
        broken = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert broken.returncode == 2, broken.stdout + broken.stderr
        assert "got no answer, more than min_answered 0.9 allows" in broken.stderr
        assert "answers 400" in broken.stderr
        kept = len([body for body in stub.asked if "Say hello." not in json.dumps(body)][:4])
        down[0] = False
        before = len(stub.asked)
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(stub.asked) - before == 2 + 20 - kept, "two trials, then what ten prompts lacked of two answers each"
    import pyarrow.parquet as pq

    rows = pq.read_table(tmp_path / "data" / "train.parquet").to_pylist()
    assert sorted(row["language"] for row in rows) == ["es"] * 6 + ["sw"] * 4
    assert len({row["prompt_id"] for row in rows}) == 10
    for row in rows:
        assert (row["chosen_source"], row["chosen_model"]) == ("direct", "strong-1")
        assert (row["rejected_source"], row["rejected_origin"]) == ("translated", "en")
        assert row["rejected"][0]["content"].startswith(f"{row['language']} Answer")
        assert row["chosen_weight_version"] is None
    card = (tmp_path / "data" / "README.md").read_text(encoding="utf-8")
    assert "| direct | endpoint | strong-1 | 1 |  | True |" in card
    assert "| es | 6 | 6 | 6 |" in card
    offline = load_config(Path("configs/offline.yaml"), [f"offline.path={tmp_path / 'data' / 'train.parquet'}"])
    assert len(load_preferences(offline)) == 10, "what it writes can be trained on"


def test_a_round_with_a_server_and_with_ones_own_source_miner_reward_and_objective(tmp_path: Path) -> None:
    """As a user would: in a folder with four files of their own, and isogloss untouched."""
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("own_reward", "own_miner", "own_source", "own_objective"):
        shutil.copy(Path("examples") / f"{name}.py", mine)
    with generator() as stub:
        settings = (
            f"endpoints={{strong: {{base_url: '{stub.url}', model: strong-1}}}}",
            "candidates.sources=[{kind: policy, samples: 3}, {kind: endpoint, name: direct, endpoint: strong}, "
            "{kind: custom, name: parrot, function: own_source:parrot, options: {words: 3}}]",
            "reward.kind=custom",
            "reward.function=own_reward:score",
            "pairs.miner=own_miner:nearest",
            "pairs.options={least: 1}",
            "languages.quota={pairs_per_round: 8, refill: 2}",
            "gates.language=false",
            "schedule.rounds=1",
            "prompts.heldout=null",
            "rollout.chunk_prompts=4",
            "anchor.pairs_per_round=2",
            "learner.pairs_per_step=4",
            "learner.epochs=1",
            "learner.objective=own_objective:squared",
            "learner.objective_options={margin: 4}",
        )
        done = train(tmp_path, "mixed", *settings, cwd=mine)
        assert done.returncode == 0, done.stdout + done.stderr
    with journal(tmp_path, "mixed") as store:
        candidates, pairs = store.candidates(1), store.pairs(1)
        scores = {score.key: score.reward for score in store.scores(1)}
    foreign = [one for one in candidates if one.key.source == "direct"]
    assert foreign
    assert {(one.weight_version, one.model) for one in foreign} == {(None, "strong-1")}
    assert all(one.token_ids for one in foreign)
    assert {one.key for one in foreign if one.gate == "ok"} <= scores.keys(), "they are scored like the policy's own"
    own = [one for one in candidates if one.key.source == "parrot"]
    assert {(one.weight_version, one.model) for one in own} == {(None, "own_source:parrot")}
    assert {len(one.text.split()) for one in own} <= {1, 2, 3}
    texts = {one.key: one.text for one in candidates}
    assert all(scores[key] == -len(texts[key].split()) for key in scores), "without a bonus for digits: the shortest"
    mined = [pair for pair in pairs if pair.source == "mined"]
    assert mined
    assert all(pair.chosen_score - pair.rejected_score >= 1 for pair in mined)
    kept = yaml.safe_load((tmp_path / "mixed" / "config.yaml").read_text(encoding="utf-8"))["run"]["plugins"]
    assert set(kept) == {"candidates.sources.2.function", "pairs.miner", "reward.function", "learner.objective"}
    (row,) = [json.loads(line) for line in (tmp_path / "mixed" / "metrics.jsonl").read_text().splitlines()]
    # Before the first step policy and reference agree: beta times the square of the margin.
    assert row["learner"]["first_preference_loss"] == pytest.approx(0.1 * 4**2, rel=1e-4)
    assert row["learner"]["steps"] > 0
    for code in ("es", "sw"):
        quota = row["counts"]["quota"][code]
        assert quota["got"] == sum(pair.language == code and pair.source == "mined" for pair in pairs)
        assert quota["got"] == 4 or quota["passes"] == 3
