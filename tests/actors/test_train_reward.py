"""``isogloss train-reward``: trained for real on a tiny model, loaded as a run loads it, stopped, refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from actors.evals import train_reward as command
from actors.evals.train_reward import RewardRequest, run_train_reward
from actors.reward.reward_model import RewardModel
from actors.runtime.signals import StopFlag
from configs.errors import Stopped, UserError
from configs.reward_training import RewardTrainingConfig
from learners.reward_model.pairs import split_by_prompt
from learners.reward_model.training import bradley_terry
from rollout.dataset import write_dataset
from rollout.preferences import Preference
from rollout.records import text_of_turns
from tests.kits.tiny import build_tiny_model

GOOD, BAD = "A Ana le gusta más el azul.", "Ann likes red."
FAST = (
    "training.learning_rate=0.003",
    "training.pairs_per_step=8",
    "training.pairs_per_micro_batch=4",
    "training.epochs=2",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"), std=0.05)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Forty prompts in two languages; the good answer is known by its words."""
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"id": f"{n}", "language": code, "prompt": f"What does person {n} like?", "chosen": GOOD, "rejected": BAD}
        for code in ("en", "es")
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def request(model: Path, pairs: Path, out: Path, *overrides: str) -> RewardRequest:
    return RewardRequest(str(model), [str(pairs)], out, (*FAST, *overrides), quiet=True)


def test_the_loss_is_bradley_terrys() -> None:
    scores = torch.tensor([2.0, -1.0, 0.5, 1.0])  # chosen, chosen, rejected, rejected
    expected = -(torch.log(torch.sigmoid(torch.tensor(1.5))) + torch.log(torch.sigmoid(torch.tensor(-2.0)))) / 2
    assert bradley_terry(scores) == pytest.approx(float(expected))


def test_a_trained_model_is_right_on_held_out_prompts_and_loads_as_a_reward(
    model: Path, pairs: Path, tmp_path: Path
) -> None:
    page = run_train_reward(request(model, pairs, tmp_path / "out"))
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["finished"]
    assert record["pairs"] == {"en": 36, "es": 36}
    assert {code: one["pairs"] for code, one in record["heldout"].items()} == {"all": 8, "en": 4, "es": 4}
    assert record["heldout"]["es"]["accuracy"] == 1.0
    assert record["losses"][-1] < record["losses"][0] < 1.0
    assert "| es | 4 | 100.0 |" in page
    assert not (tmp_path / "out" / ".training").exists()
    scorer = RewardModel(tmp_path / "out", "float32", 512, torch.device("cpu"))
    (good, bad), _ = scorer.score([("What does person 99 like?", GOOD), ("What does person 99 like?", BAD)])
    assert good is not None
    assert bad is not None
    assert good > bad
    # Again: nothing to do; with another setting: refused.
    assert run_train_reward(request(model, pairs, tmp_path / "out")) == page
    with pytest.raises(UserError, match="from another model, other pairs or another `training`"):
        run_train_reward(request(model, pairs, tmp_path / "out", "training.seed=1"))


def test_stopped_and_continued_it_has_the_weights_of_an_undisturbed_training(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_train_reward(request(model, pairs, tmp_path / "whole", "training.saves=0"))

    class AfterThree(StopFlag):
        asked = 0

        def __call__(self) -> bool:
            self.asked_by, self.asked = "a test", self.asked + 1
            return self.asked >= 3

    with monkeypatch.context() as patched:
        patched.setattr(command, "StopFlag", AfterThree)
        with pytest.raises(Stopped, match="isogloss train-reward .* --data .*pairs.jsonl --out"):
            run_train_reward(request(model, pairs, tmp_path / "parts", "training.saves=0"))
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    run_train_reward(request(model, pairs, tmp_path / "parts", "training.saves=0"))
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_pairs_of_build_data_are_read_from_its_folder(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "journal").mkdir(parents=True)
    rows = [
        {
            "id": f"es/{n}",
            "language": "es",
            "prompt": [{"role": "user", "content": f"What {n}?"}],
            "chosen": [{"role": "assistant", "content": GOOD}],
            "rejected": [{"role": "assistant", "content": BAD}],
        }
        for n in range(12)
    ]
    write_dataset(rows, folder)
    found, left_out, _ = command.read_pairs([str(folder)], (), "en")
    assert (len(found), left_out.total) == (12, 0)
    assert (found[0].language, text_of_turns(found[0].prompt)) == ("es", "What 0?")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("training.languages=[en, fr]",), "no pairs in 'fr'"),
        (("training.max_length=8",), "no pair is left to train on:\n  80  longer than 8 tokens"),
        (("training.epoch=2",), "training.epoch: unknown field; did you mean training.epochs"),
        (("training.pairs_per_micro_batch=3",), "does not divide"),
    ],
)
def test_what_cannot_be_trained_is_named(
    overrides: tuple[str, ...], message: str, model: Path, pairs: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        run_train_reward(request(model, pairs, tmp_path / "out", *overrides))
    assert not (tmp_path / "out").exists()


def test_model_folders_that_cannot_be_a_reward_model_are_named(model: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config.json in it"):
        run_train_reward(request(tmp_path, pairs, tmp_path / "out"))
    other = build_tiny_model(tmp_path / "small", vocab=320)
    larger = build_tiny_model(tmp_path / "large", vocab=512)
    (larger / "tokenizer.json").replace(other / "tokenizer.json")
    with pytest.raises(UserError, match="belong"):
        run_train_reward(request(other, pairs, tmp_path / "out"))
    config = json.loads((model / "config.json").read_text())
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "config.json").write_text(json.dumps(config | {"model_type": "whisper", "architectures": ["Whisper"]}))
    with pytest.raises(UserError, match="cannot be loaded as a sequence classifier"):
        run_train_reward(request(odd, pairs, tmp_path / "out"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files but no reward model"):
        run_train_reward(request(model, pairs, tmp_path / "full"))


def test_no_prompt_is_on_both_sides_and_the_split_does_not_hang_on_the_order() -> None:
    rows = [
        Preference(f"{n}", code, f"prompt {n // 2}", f"good {n}", f"bad {n}", f"x:{n}")
        for code in ("en", "sw")
        for n in range(40)
    ]
    training = RewardTrainingConfig(heldout_share=0.25)
    split = split_by_prompt(rows, training)
    aside = {(row.language, row.prompt) for row in split.heldout}
    assert len(aside) == 10
    assert not aside & {(row.language, row.prompt) for row in split.train}
    again = split_by_prompt(rows[::-1], training)
    assert {row.where for row in again.heldout} == {row.where for row in split.heldout}
    assert not split_by_prompt(rows, RewardTrainingConfig(heldout_share=0)).heldout
    with pytest.raises(UserError, match="language 'fr' has pairs of one prompt only"):
        split_by_prompt([*rows, Preference("a", "fr", "one", "x", "y", "z:1")], training)
