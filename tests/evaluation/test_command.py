"""``isogloss eval`` as a whole: answers from files or the cache, a judge over HTTP; real generation at the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.evals.evaluate import EvalRequest, run_eval
from cli import run
from configs.errors import Stopped, UserError
from configs.model_config import longest_context
from evaluation.suites.cache import EvalCache
from evaluation.suites.read import load_suite
from evaluation.suites.records import Answer, Decoding
from evaluation.suites.sources import resolve
from evaluation.suites.weights import model_checksum
from tests.evaluation.test_suites import write
from tests.kits.judge import always_first, judge_server, longer

LINES = {
    "en": "The river was frozen and nobody could cross it that winter, said {n}.",
    "es": "El río estaba helado y nadie podía cruzarlo aquel invierno, dijo {n}.",
}
WITHOUT_RAY = (
    "import sys\nfrom cli import main\nsys.argv[0] = 'isogloss'\nmain()\n"
    "assert not {'ray', 'vllm', 'torch', 'transformers'} & set(sys.modules)\n"
)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Twelve prompts in two languages, and two systems' answers: the second's are longer, one of the first is empty."""
    items = [(f"p{n}", code, n) for code in LINES for n in range(12)]
    write(tmp_path / "prompts.jsonl", [{"id": i, "language": code, "prompt": f"{code} {n}?"} for i, code, n in items])
    short = [{"id": i, "language": code, "answer": LINES[code].format(n=n)} for i, code, n in items]
    long = [{**row, "answer": f"{row['answer']}\n{row['answer']}"} for row in short]
    short[3] = {**short[3], "answer": ""}
    long[5] = short[5]  # equal answers need no judge
    write(tmp_path / "short.jsonl", short)
    write(tmp_path / "long.jsonl", long)
    return {name: tmp_path / f"{name}.jsonl" for name in ("prompts", "short", "long")} | {"root": tmp_path}


def request(files: dict[str, Path], **changes: Any) -> EvalRequest:
    values: dict[str, Any] = {
        "suite": "head-to-head",
        "model": str(files["long"]),
        "against": str(files["short"]),
        "data": str(files["prompts"]),
        "out": files["root"] / "out",
        "cache": files["root"] / "cache",
    }
    return EvalRequest(**{**values, **changes})


def result_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


def figure(result: dict[str, Any], name: str, language: str) -> dict[str, Any]:
    found: dict[str, Any] = next(f for f in result["figures"] if (f["name"], f["language"]) == (name, language))
    return found


def test_head_to_head_under_a_judge(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with judge_server(longer) as stub:
        judge = files["root"] / "judge.yaml"
        judge.write_text(f"judge: {{base_url: '{stub.url}', model: stub}}\n", encoding="utf-8")
        out = run_eval(request(files, judge=judge))
        asked = len(stub.shown)
        again = run_eval(request(files, judge=judge, out=files["root"] / "again", format="md"))
        assert len(stub.shown) == asked == 2 * (24 - 2)  # neither the empty answer nor the equal ones
    first, second = result_of(out), result_of(again)
    assert first["figures"] == second["figures"]
    wins = figure(first, "win_rate", "en")
    assert (wins["value"], wins["items"], wins["counts"]["ties"]) == (pytest.approx(100 * 11.5 / 12), 12, 1)
    assert wins["counts"]["inconsistent"] == wins["counts"]["failed"] == 0
    refused = figure(first, "lc_win_rate", "es")
    assert (refused["value"], refused["ci95"], refused["counts"]["models_needed"]) == (None, None, 10)
    assert first["missing"][0].startswith("en, es: no length-controlled win rate from 1 model: it takes at least 10")
    assert figure(first, "win_rate", "all")["items"] == 24
    assert first["judge"]["model"] == "stub"
    assert "api_key_env" not in first["judge"]
    rows = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    assert [row["preference"] for row in rows[3:6]] == [2.0, 2.0, 1.5]
    assert (out / "answers.jsonl").is_file()
    assert (out / "answers-against.jsonl").is_file()
    row = json.loads((out / "answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert (row["detected"], row["lines"], row["wrong_lines"], row["switches"]) == ("en", 2, 0, False)
    text = capsys.readouterr().out
    assert "Length-controlled win rate" in text
    assert "- en, es: no length-controlled win rate from 1 model" in text
    assert "| language | % | 95 % | items | wins | ties | losses | inconsistent | failed |" in text


def test_position_bias_is_inconsistent(files: dict[str, Path]) -> None:
    with judge_server(always_first) as stub:
        overrides = (f"judge.base_url={stub.url}", "judge.model=stub")
        out = run_eval(request(files, overrides=overrides))
    found = figure(result_of(out), "win_rate", "es")
    assert (found["value"], found["counts"]["inconsistent"], found["counts"]["ties"]) == (50.0, 12, 12)


def test_difficulty_comes_from_other_models(files: dict[str, Path]) -> None:
    root = files["root"]
    with judge_server(longer) as stub:
        overrides = (f"judge.base_url={stub.url}", "judge.model=stub")
        others = []
        for name in ("a", "b"):
            rows = [json.loads(line) for line in files["long"].read_text(encoding="utf-8").splitlines()]
            rows = [{**row, "answer": row["answer"][: 40 + (ord(name) * k) % 90]} for k, row in enumerate(rows)]
            model = write(root / f"{name}.jsonl", rows)
            others.append(run_eval(request(files, model=str(model), overrides=overrides, out=root / name)))
        out = run_eval(request(files, overrides=overrides, others=tuple(others)))
        counts = figure(result_of(out), "lc_win_rate", "en")["counts"]
        assert (counts["other_models"], counts["models_needed"]) == (2, 10)
        wrong = request(files, model=str(files["short"]), against=str(files["long"]), overrides=overrides)
        with pytest.raises(UserError, match="was judged against other answers"):
            run_eval(EvalRequest(**{**vars(wrong), "others": tuple(others)}))
        with pytest.raises(UserError, match=r"has no result.json with verdicts.jsonl"):
            run_eval(request(files, overrides=overrides, others=(root,)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "name a model folder, a run folder or a file of answers"),
        ({"model": "nowhere", "suite": "custom", "against": None}, "MODEL nowhere: no such folder or file"),
        ({"against": None}, "head-to-head: needs --against"),
        ({}, "needs a judge to compare answers"),
        ({"overrides": ("learner.beta=1",)}, "only judge.field=value and prompts.field=value may follow the model"),
        ({"overrides": ("judge.model=x",)}, "judge.base_url: is missing"),
        ({"overrides": ("judge.modle=x",)}, r"judge.modle: unknown field"),
        ({"judge": Path("nowhere.yaml")}, "nowhere.yaml: no such config file"),
        ({"suite": "custom", "overrides": ("judge.model=x",)}, "custom is not judged"),
        ({"suite": "custom", "others": (Path("x"),), "against": None}, "--others: only a judged evaluation"),
        ({"suite": "x-alpacaeval", "against": None, "overrides": ("judge.model=x",)}, "needs --against"),
        ({"suite": "custom"}, "no gold answers to compare by"),
        ({"format": "pdf"}, "--format pdf: unknown; use table, md, json"),
        ({"dtype": "half"}, "--dtype half: unknown; use auto, float32, bfloat16"),
        ({"suite": "custom", "languages": ("it",)}, "has no such language; there are en, es"),
    ],
)
def test_bad_requests(files: dict[str, Path], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_eval(request(files, **changes))


def test_what_a_path_is(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has neither config.json"):
        resolve(str(tmp_path / "empty"), "MODEL")
    run = tmp_path / "run"
    (run / "policy").mkdir(parents=True)
    (run / "policy" / "config.json").write_text("{}", encoding="utf-8")
    (run / "config.yaml").write_text("run: {name: r}\n", encoding="utf-8")
    with pytest.raises(UserError, match="is no config of a run"):
        resolve(str(run), "MODEL")
    text = "run: {name: r}\nmodel: {policy: start, dtype: bfloat16, add_bos: true}\n"
    (run / "config.yaml").write_text(text, encoding="utf-8")
    found = resolve(str(run), "MODEL")
    assert (found.name, found.folder, found.dtype, found.add_bos) == ("r", run / "policy", "bfloat16", True)
    assert (found.chat_template, found.template_values) == (None, {})
    (run / "config.yaml").write_text(
        text.replace(
            "add_bos: true", "add_bos: true, chat_template: '{{ x }}', chat_template_kwargs: {thinking: false}"
        )
    )
    templated = resolve(str(run), "MODEL")
    assert (templated.chat_template, templated.template_values) == ("{{ x }}", {"thinking": False})
    shutil.rmtree(run / "policy")
    assert resolve(str(run), "MODEL").folder == Path("start")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"text_config": {"max_position_embeddings": 77}, "torch_dtype": "bfloat16"}')
    assert resolve(str(model), "MODEL").dtype == "bfloat16"
    assert longest_context(model) == 77


def test_blocks_do_not_depend_on_what_is_kept() -> None:
    from actors.evals.generate import suite_chunks

    suite = load_suite("world", None, languages=["sw", "fr"], limit=70)
    decoding = Decoding(0.7, 1.0, 32, "float32", False, 5)
    blocks = suite_chunks(suite, decoding, 32)
    assert [len(chunk.requests) for chunk, _ in blocks] == [32, 32, 6] * 2
    assert all(len({request.key.language for request in chunk.requests}) == 1 for chunk, _ in blocks)
    requests = [request for chunk, _ in blocks for request in chunk.requests]
    assert [(r.key.language, r.key.prompt_id) for r in requests] == [item.key for item in suite.items]
    assert len({request.seed for request in requests}) == 140
    assert {request.temperature for request in requests} == {0.7}


def test_a_runs_template_is_the_engines_too() -> None:
    from actors.evals.generate import Machine, _config, _longest
    from learners.encode import ChatEncoder

    suite = load_suite("world", None, languages=["sw"], limit=2)
    folder = Path("worlds/default/policy")
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8") + "{{ more }}"
    plain = Decoding(0.0, 1.0, 8, "float32", False, 0)
    own = Decoding(0.0, 1.0, 8, "float32", False, 0, None, template, {"more": "Ana anapenda rangi gani?"})
    model = _config(suite, folder, own, Machine(), 256).model
    longest = max(len(ChatEncoder.of(model, folder).prompt_ids(item.prompt)) for item in suite.items)
    assert _longest(suite, folder, own) == longest + 8 > _longest(suite, folder, plain)


def test_an_end_before_the_end_says_how_to_continue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from actors.evals.generate import _stop_explained
    from actors.runtime.calls import ActorDied
    from actors.runtime.signals import StopFlag, StopRequested

    flag = StopFlag()
    flag.asked_by = "SIGTERM"
    with pytest.raises(Stopped, match="stopped by SIGTERM; .* the same command continues"), _stop_explained(flag):
        raise StopRequested
    with (
        pytest.raises(UserError, match=r"rollout actor 0 failed\n  The answers so far are kept"),
        _stop_explained(flag),
    ):
        raise ActorDied("rollout actor 0 failed")

    def stopped(_: EvalRequest) -> Path:
        raise Stopped("stopped by SIGINT")

    monkeypatch.setattr("actors.evals.evaluate.run_eval", stopped)
    monkeypatch.setattr(sys, "argv", ["isogloss", "eval", "x"])
    with pytest.raises(SystemExit) as end:
        run()
    assert end.value.code == 130
    assert capsys.readouterr().err == "isogloss: stopped by SIGINT\n"


def test_kept_answers_start_nothing(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    (model / "model.safetensors").write_bytes(b"weights")
    suite = load_suite("world", None, languages=["sw", "fr"], limit=5)
    decoding = Decoding(0.0, 1.0, 32, "float32", False, 0)
    with EvalCache.open(tmp_path / "cache" / "eval.sqlite") as cache:
        checksum = model_checksum(model, cache)
        cache.put_answers({decoding.key(checksum, item): Answer(item.gold or "", "stop", 9) for item in suite.items})
    command = [sys.executable, "-c", WITHOUT_RAY, "eval", str(model), "--languages", "sw,fr", "--limit", "5"]
    command += ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out"), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed == result_of(tmp_path / "out")
    assert (printed["model"]["generated"], printed["model"]["cached"]) == (0, 10)
    assert figure(printed, "accuracy", "all")["value"] == 100.0
    assert printed["model"]["decoding"]["temperature"] == 0.0


@pytest.mark.ray
def test_real_answers_are_made_once(tmp_path: Path) -> None:
    """The world's model on a real rollout actor; the second time another process has every answer from the cache."""
    command = ["eval", "worlds/default/policy", "--languages", "sw,fr", "--limit", "3", "--max-new-tokens", "8"]
    command += ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out"), "--format", "json"]
    done = subprocess.run(
        [sys.executable, "-m", "cli", *command], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    assert (first["model"]["generated"], first["model"]["cached"]) == (6, 0)
    again = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, *command], capture_output=True, text=True, timeout=60, check=False
    )
    assert again.returncode == 0, again.stderr
    second = json.loads(again.stdout)
    assert second["figures"] == first["figures"]
    assert second["model"]["answers"] == first["model"]["answers"]
    assert (second["model"]["generated"], second["model"]["cached"]) == (0, 6)
    tokens = [json.loads(line)["tokens"] for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert all(1 <= count <= 8 for count in tokens)
