"""The reward worker against log-probabilities computed directly with Transformers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from actors.reward import log_ratios as scoring_module
from actors.reward import worker as reward_module
from actors.reward.worker import RewardWorker
from actors.runtime.health import IllegalTransition, State, SyncError
from configs.errors import UserError
from learners.errors import BroadcastFailed
from learners.rendezvous import Rendezvous
from rollout.prompts import PromptSet
from rollout.records import Candidate, CandidateKey
from rollout.rewards import FLUENCY
from rollout.token_ids import TokenIds
from tests.kits.actors import PROMPTS, perturbed, publish, sending, small_config
from tests.kits.tiny import build_tiny_model

ANSWERS = {
    "en": ["Ann likes the colour blue best of all.", "She likes the red house by the river very much."],
    "es": ["A Ana le gusta más el color azul del cielo.", "Le gusta mucho la casa roja junto al río."],
}
# The wording of the cross-lingual prompt, spelled out: the test must not share the code's template.
INSTRUCTIONS = {
    "crosslingual": {
        "en": "{en}",
        "es": "Answer only in Spanish, unless the instruction itself asks for another language.\n\n{en}",
    },
    "native": {"en": "{en}", "es": "{es}"},
}


def candidate(language: str, prompt: int, sample: int, text: str, **changes: Any) -> Candidate:
    key = CandidateKey(1, f"p{prompt}", language, "policy", language, sample)
    return dataclasses.replace(Candidate(key, text, TokenIds(), "stop", 0), **changes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("reward")
    return build_tiny_model(root / "policy", seed=1), build_tiny_model(root / "reference", seed=2, tied=False)


def worker(root: Path, folders: tuple[Path, Path], **sections: dict[str, Any]) -> RewardWorker:
    policy, reference = folders
    config = small_config(root, policy, reference, **sections)
    return RewardWorker(config.model_dump(mode="json"), PromptSet.from_config(config), *folders, version=0)


@torch.no_grad()
def direct(folder: Path | PreTrainedModel, tokenizer_of: Path, prompt: str, answer: str) -> float:
    """Summed log-probability of the answer and the end of its turn, one sequence at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder) if isinstance(folder, Path) else folder
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    start = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = start + tokenizer(answer + "<end>", add_special_tokens=False)["input_ids"]
    logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return float(sum(logprobs[i - 1, ids[i]] for i in range(len(start), len(ids))))


@pytest.mark.parametrize("side", ["crosslingual", "native"])
def test_implicit_reward_is_the_log_ratio(tmp_path: Path, folders: tuple[Path, Path], side: str) -> None:
    floor = {"fluency_floor": 0.5} if side == "crosslingual" else {}
    subject = worker(tmp_path, folders, reward={"prompt": side, "tokens_per_micro_batch": 256}, pairs=floor)
    given = [
        candidate(language, prompt, sample, text)
        for language, texts in ANSWERS.items()
        for prompt in range(3)
        for sample, text in enumerate(texts)
    ]
    judged = subject.score(given)
    assert [c.key for c in judged.candidates] == [c.key for c in given]
    assert [s.key for s in judged.scores] == [c.key for c in given], "all pass the gates"
    for score, item in zip(judged.scores, given, strict=True):
        index = int(item.key.prompt_id[1:])
        native = {code: texts[index] for code, texts in PROMPTS.items()}
        prompt = INSTRUCTIONS[side][item.key.language].format(**native)
        policy, reference = (direct(folder, folders[0], prompt, item.text) for folder in folders)
        assert score.parts["policy_logprob"] == pytest.approx(policy, abs=1e-4)
        assert score.parts["reference_logprob"] == pytest.approx(reference, abs=1e-4)
        assert score.reward == pytest.approx(policy - reference, abs=1e-4)
        assert score.parts["length_chars"] == len(item.text)
        if floor:
            own = direct(folders[0], folders[0], native[item.key.language], item.text)
            tokens = score.parts["length_tokens"] + 1
            assert score.parts[FLUENCY] == pytest.approx(own / tokens, abs=1e-4)
        else:
            assert FLUENCY not in score.parts


def test_answers_are_scored_by_the_tokens_that_were_sampled(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = worker(tmp_path, folders, reward={"prompt": "native", "tokens_per_micro_batch": 256})
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    letters = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "likes blue"]
    end = tokenizer.eos_token_id
    assert len(letters) > len(tokenizer("likes blue", add_special_tokens=False)["input_ids"]), "nothing was merged"
    ended = dataclasses.replace(candidate("en", 0, 0, "likes blue"), token_ids=TokenIds([*letters, end]))
    cut = dataclasses.replace(
        candidate("en", 0, 1, "likes blue"), token_ids=TokenIds(letters), finish_reason="length", text="likes blue…"
    )
    monkeypatch.setattr(reward_module, "apply_gates", lambda gates, candidates, *rest: list(candidates))
    scores = subject.score([ended, cut]).scores
    model = AutoModelForCausalLM.from_pretrained(folders[0])
    start: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPTS["en"][0]}], add_generation_prompt=True, return_dict=False
    )
    for score, ids in zip(scores, ([*letters, end], letters), strict=True):
        logprobs = model(torch.tensor([start + ids])).logits[0].double().log_softmax(-1)
        expected = float(sum(logprobs[len(start) + n - 1, token] for n, token in enumerate(ids)))
        assert score.parts["policy_logprob"] == pytest.approx(expected, abs=1e-4)
        assert score.parts["length_tokens"] == len(letters)
    (by_text,) = subject.score([ended], by_ids=False).scores
    expected = direct(folders[0], folders[0], PROMPTS["en"][0], "likes blue")
    assert by_text.parts["policy_logprob"] == pytest.approx(expected, abs=1e-4)
    assert abs(by_text.parts["policy_logprob"] - scores[0].parts["policy_logprob"]) > 0.1


@pytest.mark.parametrize("normalise", ["sum", "token"])
@pytest.mark.parametrize("subtract", ["none", "native", "unconditional"])
def test_likelihood_is_one_models_log_probability(
    tmp_path: Path, folders: tuple[Path, Path], subtract: str, normalise: str
) -> None:
    fields = {"kind": "likelihood", "policy": "reference", "subtract": subtract, "normalise": normalise}
    subject = worker(tmp_path, folders, reward={**fields, "tokens_per_micro_batch": 256})
    given = [candidate("es", prompt, sample, text) for prompt in range(2) for sample, text in enumerate(ANSWERS["es"])]
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    for score, item in zip(subject.score(given).scores, given, strict=True):
        native = {code: texts[int(item.key.prompt_id[1:])] for code, texts in PROMPTS.items()}
        asked = direct(folders[1], folders[0], INSTRUCTIONS["crosslingual"]["es"].format(**native), item.text)
        baseline = {"none": "", "native": native["es"], "unconditional": "Answer only in Spanish."}[subtract]
        expected = asked - (direct(folders[1], folders[0], baseline, item.text) if baseline else 0.0)
        tokens = len(tokenizer(item.text, add_special_tokens=False)["input_ids"]) + 1
        assert score.reward == pytest.approx(expected / (tokens if normalise == "token" else 1), abs=1e-4)
        assert score.parts["policy_logprob"] == pytest.approx(asked, abs=1e-4)


def test_likelihood_as_a_term_beside_others(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    terms = {
        "fluent": {"kind": "likelihood", "policy": "initial", "prompt": "native", "weight": 0.5},
        "fresh": {"kind": "repetition"},
    }
    subject = worker(tmp_path, folders, reward={"kind": "terms", "terms": terms})
    given = [candidate("es", 0, sample, text) for sample, text in enumerate(ANSWERS["es"])]
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    for score, item in zip(subject.score(given).scores, given, strict=True):
        tokens = len(tokenizer(item.text, add_special_tokens=False)["input_ids"]) + 1
        expected = direct(folders[0], folders[0], PROMPTS["es"][0], item.text) / tokens
        assert score.parts["term.fluent"] == pytest.approx(expected, abs=1e-4)
        assert score.reward == pytest.approx(0.5 * expected + score.parts["term.fresh"], abs=1e-4)


def test_likelihood_needs_no_reference(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    config = small_config(tmp_path, *folders, reward={"kind": "likelihood", "policy": "initial"})
    config = config.model_copy(update={"model": config.model.model_copy(update={"reference": None})})
    prompts = PromptSet.from_config(config)
    subject = RewardWorker(config.model_dump(mode="json"), prompts, folders[0], None, version=0)
    (score,) = subject.score([candidate("en", 0, 0, ANSWERS["en"][0])]).scores
    assert score.reward == pytest.approx(direct(folders[0], folders[0], PROMPTS["en"][0], ANSWERS["en"][0]), abs=1e-4)


def test_gated_candidates_get_no_score(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    subject = worker(tmp_path, folders)
    english, spanish = ANSWERS["en"], ANSWERS["es"]
    given = [
        candidate("es", 0, 0, spanish[0]),
        candidate("es", 0, 1, english[1]),
        candidate("es", 0, 2, spanish[1], finish_reason="length"),
        candidate("es", 0, 3, ""),
        candidate("es", 0, 4, spanish[0]),
    ]
    judged = subject.score(given)
    assert [c.gate for c in judged.candidates] == ["ok", "language", "truncated", "empty", "duplicate"]
    assert [s.key.sample for s in judged.scores] == [0]
    assert judged.skipped["es", "gated"] == 4


def test_other_rewards_load_no_model(tmp_path: Path, folders: tuple[Path, Path], monkeypatch) -> None:
    monkeypatch.setattr(scoring_module, "load_model", lambda *_: pytest.fail("a model was loaded"))
    verifier = worker(tmp_path, folders, reward={"kind": "verifier"}, gates={"language_min_chars": 50})
    judged = verifier.score([candidate("en", 0, 0, "x"), candidate("en", 0, 1, "y")])
    assert [s.reward for s in judged.scores] == [1.0, 0.0]
    lidr = worker(tmp_path, folders, reward={"kind": "cross_language"}, candidates={"source": "self_translation"})
    assert lidr.score([candidate("en", 0, 0, ANSWERS["en"][0])]).scores == []


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays are passed where references would be."""
    monkeypatch.setattr(ray, "get", lambda arrays: arrays)


@pytest.mark.usefixtures("no_ray")
def test_sync_moves_the_policy_and_previous_round(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    subject = worker(
        tmp_path, folders, reward={"prompt": "native", "reference": "previous_round"}, learner={"keep_checkpoints": 3}
    )
    models = [perturbed(folders[0], seed=seed) for seed in (5, 6)]
    text, prompt = ANSWERS["en"][0], PROMPTS["en"][0]
    sources: list[Path | PreTrainedModel] = [folders[1], folders[0], *models]
    expected = [direct(one, folders[0], prompt, text) for one in sources]
    for version in (0, 1, 2):
        if version:
            manifest, arrays = publish(models[version - 1], version)
            for _ in range(2):  # a repeated sync must not shift the reference again
                assert subject.sync(manifest, [arrays]).probe_error < 1e-4
        (score,) = subject.score([candidate("en", 0, 0, text)]).scores
        assert score.parts["reference_logprob"] == pytest.approx(expected[version], abs=1e-4)
        assert score.parts["policy_logprob"] == pytest.approx(expected[version + 1], abs=1e-4)
    assert subject.version() == 2


@pytest.mark.usefixtures("no_ray")
def test_broadcast_moves_the_policy_and_previous_round_once(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    subject = worker(
        tmp_path, folders, reward={"prompt": "native", "reference": "previous_round"}, learner={"keep_checkpoints": 3}
    )
    model = perturbed(folders[0], seed=5)
    manifest, arrays = publish(model, 1)
    wrong = {**arrays, "model.norm.weight": arrays["model.norm.weight"] + 1}
    with sending(manifest, wrong) as (host, sent):
        with pytest.raises(SyncError, match="weights of version 1 were not taken: .* came with checksum"):
            subject.receive(manifest, host.rendezvous.seat(1))
        assert isinstance(sent.exception(20), BroadcastFailed)
    assert subject.health.state is State.STALE
    with sending(manifest, arrays) as (host, sent):
        assert subject.receive(manifest, host.rendezvous.seat(1)).probe_error < 1e-4
        assert sent.result(20) is None
    text, prompt = ANSWERS["en"][0], PROMPTS["en"][0]
    (score,) = subject.score([candidate("en", 0, 0, text)]).scores
    assert score.parts["reference_logprob"] == pytest.approx(direct(folders[0], folders[0], prompt, text), abs=1e-4)
    assert score.parts["policy_logprob"] == pytest.approx(direct(model, folders[0], prompt, text), abs=1e-4)
    with pytest.raises(SyncError, match="reward: takes no weights of version 1"):
        subject.receive(manifest, Rendezvous("127.0.0.1", 1, 2, "gloo", 1.0, 1))


@pytest.mark.usefixtures("no_ray")
def test_unproven_weights_leave_the_actor_stale(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    subject = worker(tmp_path, folders, reward={"prompt": "native"})
    manifest, arrays = publish(perturbed(folders[0], seed=5), 1)
    for wrong in (
        dataclasses.replace(manifest, checksum="f" * 16),
        dataclasses.replace(manifest, probe_logprob=tuple(x + 0.01 for x in manifest.probe_logprob)),
    ):
        with pytest.raises(SyncError):
            subject.sync(wrong, [arrays])
        assert subject.health.state is State.STALE
        with pytest.raises(IllegalTransition):
            subject.score([])
    subject.sync(manifest, [arrays])
    assert subject.score([]).scores == []


@pytest.mark.usefixtures("no_ray")
def test_initial_policy_stays(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    subject = worker(tmp_path, folders, reward={"prompt": "native", "policy": "initial"})
    before = subject.score([candidate("en", 0, 0, ANSWERS["en"][0])]).scores
    subject.sync(*publish(perturbed(folders[0], seed=5), 1))
    assert subject.version() == 1
    assert subject.score([candidate("en", 0, 0, ANSWERS["en"][0])]).scores == before


def test_reference_of_another_vocabulary(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    other = build_tiny_model(tmp_path / "other", vocab=576)
    with pytest.raises(UserError, match=r"model\.reference.*vocabulary of 576"):
        worker(tmp_path, (folders[0], other))
