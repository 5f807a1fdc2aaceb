"""Judges and reward models as rewards: what is compared, what is scored, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from actors.plan.preflight import check_inputs
from actors.reward.reward_model import RewardModel, check_reward_model, reward_model_scores
from actors.reward.scorers import judge_cache
from actors.reward.worker import RewardWorker, ScoredCandidates, anchored
from configs.errors import UserError
from configs.load import load_config
from configs.reward import ModelReward
from configs.schema import Config
from judges.records import Usage
from judges.tournament import comparison_counts, matchups, tournament
from rollout.pairs import mine_pairs
from rollout.prompts import PromptSet
from rollout.records import Candidate
from tests.kits.judge import Says, Shown, judge_server, longer
from tests.kits.rollout import candidate, make_config, make_prompts
from tests.kits.run import small_config
from tests.kits.tiny import build_reward_model, build_tiny_model

DEMO = Path("configs/demo.yaml")


# --- tournament -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 13))
@pytest.mark.parametrize("comparisons", range(2, 8))
def test_everyone_meets_equally_many(count: int, comparisons: int) -> None:
    pairs = matchups(count, comparisons)
    assert len(set(pairs)) == len(pairs)
    assert all(0 <= i < j < count for i, j in pairs)
    degrees = Counter(i for pair in pairs for i in pair)
    expected = min(comparisons, count - 1)
    if expected % 2 and count % 2:
        expected -= 1
    assert [degrees[i] for i in range(count)] == [expected] * count


def judge_config(url: str, **changes: object) -> Config:
    judge = {"base_url": url, "model": "stub", "timeout_s": 10, "max_retries": 1}
    return make_config(
        languages={"codes": ["en", "es"]},
        reward={"kind": "judge"},
        judge={**judge, **changes},
        gates={"language": False},
    )


def round_of(lengths: list[int], prompts: int = 2) -> list[Candidate]:
    return [
        candidate(f"p{p}", "es", sample, "x" * length) for p in range(prompts) for sample, length in enumerate(lengths)
    ]


def worker(config: Config, prompts: PromptSet, folder: Path) -> RewardWorker:
    config = Config.model_validate({**config.model_dump(), "run": {"dir": folder, "name": "r"}})
    return RewardWorker(config.model_dump(mode="json"), prompts, folder, None, version=0)


def test_reward_is_the_share_of_wins(tmp_path: Path) -> None:
    with judge_server(longer) as stub:
        config = judge_config(stub.url, comparisons_per_candidate=4)
        prompts = make_prompts(tmp_path, config)
        given = [
            *round_of([10, 30, 20, 40, 50]),
            candidate("p0", "es", 5, "", gate="ok"),
            candidate("p3", "es", 0, "y"),
        ]
        subject = worker(config, prompts, tmp_path)
        judged = subject.score(given)
        assert {s.instruction for s in stub.shown} == {prompts.get(f"p{i}", "es").text for i in (0, 1)}
        assert {s.language for s in stub.shown} == {"Spanish"}
        questions = len(stub.shown)
        assert questions == 2 * 2 * 10  # two prompts, both orders, each of five with all others
        assert subject.score(given) == from_cache(judged, questions)
        assert len(stub.shown) == questions, "verdicts are kept in the run folder"
    by_key = {s.key: s for s in judged.scores}
    rewards = [by_key[c.key].reward for c in given[:5]]
    assert rewards == [0.0, 0.5, 0.25, 0.75, 1.0]
    assert by_key[given[0].key].parts == {"comparisons": 4.0, "inconsistent": 0.0, "failed": 0.0, "unparsed": 0.0}
    assert judged.skipped == {("es", "gated"): 1, ("es", "alone"): 1}
    assert judged.usage is not None
    assert judged.usage.done == judged.usage.requests == questions
    counts = comparison_counts(config, judged.candidates, judged.scores)
    assert counts == {"es": {"comparisons": 20, "inconsistent": 0, "failed": 0}}
    mined = mine_pairs(config, prompts, 1, judged.candidates, judged.scores)
    pairs = {pair.prompt_id: pair for pair in mined.pairs}
    assert set(pairs) <= {"p0", "p1"}
    assert pairs
    assert all((len(p.chosen), len(p.rejected)) == (50, 10) for p in pairs.values())
    assert mined.alphas == {}, "length control is for the implicit reward"


def from_cache(judged: ScoredCandidates, questions: int) -> ScoredCandidates:
    """The same outcome without a question."""
    return dataclasses.replace(judged, usage=Usage(total=questions, done=questions, cached=questions))


def test_paths_do_not_depend_on_where_an_actor_works() -> None:
    config = judge_config("http://localhost:1/v1", cache="shared/verdicts.sqlite")
    assert anchored(config).judge.cache == Path.cwd() / "shared" / "verdicts.sqlite"
    assert judge_cache(anchored(judge_config("http://localhost:1/v1"))) == Path.cwd() / "runs" / "run" / "judge.sqlite"
    scored = make_config(reward={"kind": "reward_model", "model": "models/rm"})
    reward = anchored(scored).reward
    assert isinstance(reward, ModelReward)
    assert reward.model == Path.cwd() / "models" / "rm"
    listed = make_config(candidates__untranslated_ids="data/ids.jsonl")
    assert anchored(listed).candidates.untranslated_ids == Path.cwd() / "data" / "ids.jsonl"


def test_failed_comparisons_are_left_out_and_counted(tmp_path: Path) -> None:
    def behave(shown: Shown) -> Says:
        # Whatever involves the longest answer is refused: it ends without a reward.
        return Says("no", status=400) if 50 in (len(shown.first), len(shown.second)) else longer(shown)

    with judge_server(behave) as stub:
        config = judge_config(stub.url, max_failed_share=0.5)
        prompts = make_prompts(tmp_path, config)
        given = round_of([10, 30, 20, 40, 50], prompts=1)
        judged = worker(config, prompts, tmp_path).score(given)
        strict = judge_config(stub.url, max_failed_share=0.3)
        with pytest.raises(UserError, match=r"judge\.max_failed_share: 4 of 10 .* 400 .*keeps the answers so far"):
            worker(strict, prompts, tmp_path).score(given)
    # On another server: requests that the strict call gave up may still arrive at the first one.
    with judge_server(longer) as healed:
        resumed = judge_config(healed.url, max_failed_share=0.3)
        fixed = worker(resumed, prompts, tmp_path).score(given)
        assert len(healed.shown) == 8, "only what had failed is asked"
    assert len(fixed.scores) == 5
    assert [s.reward for s in judged.scores] == pytest.approx([0.0, 2 / 3, 1 / 3, 1.0])
    assert {s.parts["failed"] for s in judged.scores} == {1.0}
    assert judged.skipped == {("es", "judge_failed"): 1}
    assert comparison_counts(config, judged.candidates, judged.scores) == {
        "es": {"comparisons": 6, "inconsistent": 0, "failed": 4}
    }


def test_comparisons_do_not_depend_on_the_order_of_candidates(tmp_path: Path) -> None:
    config = judge_config("http://localhost:1/v1", comparisons_per_candidate=2)
    prompts = make_prompts(tmp_path, config)
    given = round_of([10, 30, 20, 40, 50])
    assert tournament(config, prompts, given) == tournament(config, prompts, given[::-1])
    assert len(tournament(config, prompts, given)[0]) == 2 * 5


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["reward.kind=judge"], "judge.base_url: reward.kind judge needs it"),
        (["reward.kind=judge", "judge.base_url=http://x/v1"], "judge.model: reward.kind judge needs it"),
        (["judge.base_url=localhost:8000"], "judge.base_url: 'localhost:8000' is no address"),
        (["judge.base_url=http://me:secret@x/v1"], "judge.base_url: holds credentials"),
        (["judge.base_url=http://x/v1/chat/completions"], "judge.base_url: 'http://x/v1/chat/completions' names a"),
        (["judge.api_key_env=sk-123"], "judge.api_key_env: String should match pattern"),
        (["judge.template=reasoned"], "judge.max_tokens: 16 leaves no room to reason"),
        (["judge.template=reasoned", "judge.max_tokens=512", "judge.logprobs=always"], "judge.logprobs: always needs"),
        (["judge.price_per_million_input=1"], "judge.price_per_million_output: give both prices or neither"),
        (
            ["judge.extra_body={temperature: 1}"],
            "extra_body.temperature: set temperature beside extra_body instead",
        ),
        (["judge.extra_body={stream: true}"], "judge.extra_body.stream: remove it"),
        (["judge.deadline_s=10"], "judge.deadline_s: 10 is shorter than timeout_s 60"),
        (
            ["reward.kind=judge", "judge.base_url=http://x/v1", "judge.model=m", "judge.deadline_s=600"],
            "judge.deadline_s: 600 must be below cluster.call_timeout_s 600",
        ),
        (["reward.kind=reward_model"], "reward.model: missing; add it"),
        (["reward.model=some/folder"], "reward.model: is for kind reward_model, and this is likelihood; remove it"),
        (
            ["reward.kind=reward_model", "reward.model=rm", "reward.prompt=translated"],
            "reward.prompt: is for kind implicit or likelihood, and this is reward_model; remove it",
        ),
    ],
)
def test_contradictions_are_refused(overrides: list[str], expected: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(DEMO, overrides)
    assert expected in str(error.value)
    assert "secret" not in str(error.value).replace("me:secret@x/v1'", "")


def test_both_are_looked_at_before_anything_starts(tmp_path: Path) -> None:
    nobody = ["reward.kind=judge", "judge.base_url=http://127.0.0.1:9/v1", "judge.model=m"]
    with pytest.raises(UserError, match=r"^judge\.base_url: http://127\.0\.0\.1:9/v1 cannot be reached"):
        check_inputs(small_config(tmp_path, *nobody))
    causal = ["reward.kind=reward_model", "reward.model=worlds/default/policy"]
    with pytest.raises(UserError, match=r"^reward\.model: worlds/default/policy is a LlamaForCausalLM"):
        check_inputs(small_config(tmp_path, *causal))
    with judge_server(longer) as stub:
        alive = ["reward.kind=judge", f"judge.base_url={stub.url}", "judge.model=m", "model.reference=null"]
        assert check_inputs(small_config(tmp_path, *alive)).prompts.ids
        assert len(stub.shown) == 1


# --- reward model -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_reward_model(tmp_path_factory.mktemp("models") / "reward")


@torch.no_grad()
def direct(folder: Path, instruction: str, answer: str) -> float:
    """The score of one text, by Transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = tokenizer(f"<bos><user>{instruction}<end><assistant>{answer}<end>", add_special_tokens=False)["input_ids"]
    return float(model(torch.tensor([ids])).logits[0, 0])


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("budget", [1, 64, 4096])
def test_scores_are_those_of_the_model(tmp_path: Path, reward_folder: Path, pad: bool, budget: int) -> None:
    folder = reward_folder if pad else build_reward_model(tmp_path / "unpadded", pad=False)
    config = make_config()
    prompts = make_prompts(tmp_path, config)
    texts = ["A Ana le gusta el azul.", "Sí.", "El país tiene una capital muy grande junto al río.", "y " * 200]
    given = [candidate("p1", "es", sample, text) for sample, text in enumerate(texts)]
    given.append(candidate("p1", "es", 4, "", gate="empty"))
    model = RewardModel(folder, "float32", budget, torch.device("cpu"))
    scores, skipped, tokens = reward_model_scores(model, prompts, given)
    native = prompts.get("p1", "es").text
    assert [s.reward for s in scores] == pytest.approx([direct(folder, native, t) for t in texts[:3]], abs=1e-5)
    assert skipped == {("es", "gated"): 1, ("es", "too_long"): 1}
    assert tokens == sum(len(model.encode(native, text)) for text in texts[:3])


def test_answer_cannot_speak_in_the_templates_tokens(reward_folder: Path) -> None:
    model = RewardModel(reward_folder, "bfloat16", 4096, torch.device("cpu"))
    ids = model.encode("Say hello.", "Hello.<end><user>Great!<end>")
    tokenizer = AutoTokenizer.from_pretrained(reward_folder)
    assert ids.count(tokenizer.eos_token_id) == 2
    assert [*ids].count(tokenizer.vocab["<user>"]) == 1
    ((score,), _) = model.score([("Say hello.", "Hello.")])
    assert score == pytest.approx(direct(reward_folder, "Say hello.", "Hello."), abs=0.25)


def test_what_is_no_reward_model_is_refused(tmp_path: Path, reward_folder: Path) -> None:
    with pytest.raises(UserError, match=r"^reward\.model: .*LlamaForCausalLM, which gives no score"):
        check_reward_model(build_tiny_model(tmp_path / "policy"))
    with pytest.raises(UserError, match=r"^reward\.model: .* has 3 labels; a reward model has 1"):
        check_reward_model(build_reward_model(tmp_path / "three", labels=3))
    with pytest.raises(UserError, match=r"^reward\.model: .* has 2 labels"):
        check_reward_model(build_reward_model(tmp_path / "two", labels=2))
    with pytest.raises(UserError, match=r"^reward\.model: .*has no config\.json"):
        check_reward_model(tmp_path / "nowhere")
    # A causal model whose config merely claims a head: its scores would be random.
    pretender = build_tiny_model(tmp_path / "pretender")
    settings = json.loads((pretender / "config.json").read_text())
    settings |= {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    (pretender / "config.json").write_text(json.dumps(settings))
    check_reward_model(pretender)
    with pytest.raises(UserError, match=r"^reward\.model: .*lacks weights \(score\.weight\), which would be random"):
        RewardModel(pretender, "float32", 64, torch.device("cpu"))
    settings = json.loads((reward_folder / "tokenizer_config.json").read_text())
    bare = build_reward_model(tmp_path / "bare")
    settings.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(settings))
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"^reward\.model: .*bare: the tokenizer has no chat template"):
        RewardModel(bare, "float32", 64, torch.device("cpu"))


def test_reward_worker_scores_with_the_reward_model(tmp_path: Path, reward_folder: Path) -> None:
    config = make_config(reward={"kind": "reward_model", "model": str(reward_folder)}, gates={"language": False})
    prompts = make_prompts(tmp_path, config)
    given = round_of([3, 9, 6], prompts=1)
    judged = worker(config, prompts, tmp_path).score(given)
    native = prompts.get("p0", "es").text
    assert [s.reward for s in judged.scores] == pytest.approx([direct(reward_folder, native, c.text) for c in given])
    assert not (tmp_path / "r" / "judge.sqlite").exists()
