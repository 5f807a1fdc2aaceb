"""A reward of the user's own: what it is called with, what it may return, and its trial before a run."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from actors.plan.plugins import pinned
from actors.reward.custom import LoadedReward, custom_scores, try_rewards
from actors.reward.worker import RewardWorker
from configs.errors import UserError
from configs.measures import CustomMeasure
from configs.schema import Config
from rollout.identity import config_digest
from tests.kits.plugins import own_module
from tests.kits.rollout import candidate, make_config, make_prompts

SOURCE = """
import math, time

def by_words(prompts, candidates, *, weight=1.0):
    assert all(p.id == c.key.prompt_id and p.language == c.key.language for p, c in zip(prompts, candidates))
    return [None if "?" in c.text else weight * len(c.text.split()) for c in candidates]

def too_few(prompts, candidates):
    return [1.0]

def not_a_number(prompts, candidates):
    return [1.0, math.nan, 1.0][: len(candidates)]

def text(prompts, candidates):
    return ["good"] * len(candidates)

def nothing(prompts, candidates):
    return None

def raises(prompts, candidates):
    return [c.no_such_field for c in candidates]

def hangs(prompts, candidates):
    time.sleep(60)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with own_module(tmp_path, SOURCE, monkeypatch) as name:
        yield name


def custom(mine: str, name: str, **fields: object) -> Config:
    return make_config(reward={"kind": "custom", "function": f"{mine}:{name}", **fields}, gates={"language": False})


def test_worker_scores_what_passed_the_gates(mine: str, tmp_path: Path) -> None:
    config = pinned(custom(mine, "by_words", options={"weight": 2.0}))
    assert config.run.plugins.keys() == {"reward.function"}
    prompts = make_prompts(tmp_path, config)
    subject = RewardWorker(config.model_dump(mode="json"), prompts, tmp_path, None, 0)
    texts = ["una dos tres", "una dos", "¿una?", "", "una dos tres"]
    judged = subject.score([candidate(sample=i, text=text) for i, text in enumerate(texts)])
    assert [(score.key.sample, score.reward) for score in judged.scores] == [(0, 6.0), (1, 4.0)]
    assert judged.skipped == {("es", "none"): 1, ("es", "gated"): 2}


def test_source_is_part_of_the_runs_identity(mine: str, tmp_path: Path) -> None:
    before = pinned(custom(mine, "by_words"))
    with (tmp_path / f"{mine}.py").open("a", encoding="utf-8") as file:
        file.write("\n# another version\n")
    after = pinned(custom(mine, "by_words"))
    assert config_digest(before) != config_digest(after)
    with pytest.raises(UserError, match=r"reward\.function: .*:by_words has another source here"):
        RewardWorker(before.model_dump(mode="json"), make_prompts(tmp_path, before), tmp_path, None, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "too_few",
            r"too_few: returned 1 values for 2 candidates \(2 candidates from r0001/\w+/p0/0 to r0001/\w+/p0/1\)",
        ),
        ("not_a_number", r"not_a_number: returned float nan for r0001/\w+/p0/1; return a finite number, or None"),
        ("text", r"text: returned str 'good' for r0001/\w+/p0/0; return a finite number"),
        ("nothing", r"nothing: returned NoneType None for 2 candidates"),
        ("raises", r"raises: failed for 2 candidates .* with AttributeError: .*no_such_field.*\.py:21\)"),
        ("hangs", r"hangs: gave no answer within 0\.2 s for 2 candidates"),
        ("absent", r"has no 'absent'"),
    ],
)
def test_trial_refuses_what_would_fail_in_the_run(mine: str, tmp_path: Path, name: str, expected: str) -> None:
    config = custom(mine, name, timeout_s=0.2)
    prompts = make_prompts(tmp_path, config)
    with pytest.raises(UserError, match=rf"^reward\.function: .*{expected}"):
        try_rewards(config, prompts)
    try_rewards(custom(mine, "by_words"), prompts)
    with pytest.raises(UserError, match=r"by_words cannot be called with .* options of reward\.options \(wait\)"):
        try_rewards(custom(mine, "by_words", options={"wait": 3}), prompts)


def test_numbers_of_other_libraries_are_numbers(mine: str, tmp_path: Path) -> None:
    Path("arrays_reward.py").write_text(
        "import numpy as np\n\ndef score(prompts, candidates):\n"
        "    return np.arange(len(candidates), dtype=np.float32)\n"
    )
    prompts = make_prompts(tmp_path, make_config())
    reward = LoadedReward.load("reward", CustomMeasure(function="arrays_reward:score"))
    scores, skipped = custom_scores(reward, prompts, [candidate(sample=i, text="uno") for i in range(3)], 5)
    assert [score.reward for score in scores] == list(np.arange(3.0))
    assert all(math.isfinite(score.reward) and type(score.reward) is float for score in scores)
    assert not skipped
    assert custom_scores(reward, prompts, [], 5) == ([], {}), "a chunk in which all were refused"


def test_a_function_that_a_worker_cannot_import_is_named(mine: str, tmp_path: Path) -> None:
    """As on a node to which the user's folder was not copied."""
    config = pinned(custom(mine, "by_words"))
    prompts = make_prompts(tmp_path, config)
    (tmp_path / f"{mine}.py").unlink()
    sys.modules.pop(mine)
    expected = r"^reward\.function: .*:by_words cannot be imported: ModuleNotFoundError.* on every node"
    with pytest.raises(UserError, match=expected):
        RewardWorker(config.model_dump(mode="json"), prompts, tmp_path, None, 0)
