"""How far a reward may be trusted: figures by hand, and real rewards on pairs in the forms of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from actors.evals.audit import run_audit
from actors.reward.reward_model import RewardModel
from cli import app
from configs.errors import UserError
from configs.load import dump_yaml
from evaluation.audit import Judgement, audit, figures, markdown, verdict
from tests.kits.forms import write
from tests.kits.judge import judge_server, longer
from tests.kits.run import small_config
from tests.kits.tiny import build_reward_model


def judged(
    chosen: float, rejected: float, lengths: tuple[int, int], language: str = "sw", subset: str = "a"
) -> Judgement:
    return Judgement("x", language, subset, chosen, rejected, *lengths)


def test_figures_by_hand() -> None:
    rows = [
        judged(2, 1, (9, 3)),
        judged(2, 1, (3, 9)),
        judged(1, 2, (3, 9)),
        judged(1, 1, (9, 3)),
        judged(2, 1, (5, 5)),
    ]
    found = figures(rows)
    assert (found["pairs"], found["right"], found["ties"], found["accuracy"]) == (5, 3, 1, 0.6)
    assert found["right_longer"] == 0.5
    assert found["right_shorter"] == 0.5
    assert found["prefers_longer"] == (1 + 0.5 + 0 + 1) / 4
    assert found["chosen_longer"] == 0.5
    low, high = found["ci95"]
    assert low < 0.6 < high
    assert figures([judged(1, 0, (4, 4))])["prefers_longer"] is None


def test_a_table_by_language_and_subset() -> None:
    rows = [judged(1, 0, (9, 3), code, name) for code in ("en", "sw") for name in ("Chat", "a|b") for _ in range(9)]
    rows += [judged(0, 1, (9, 3), "sw", "Chat") for _ in range(30)]
    found = audit(rows)
    assert found["sw"]["Chat"]["pairs"] == 39
    assert found["all"]["all"]["pairs"] == 66
    assert [verdict(found[code]["all"]) for code in ("en", "sw")] == ["above chance", "not told from chance"]
    page = markdown("T", found, ["3  a tie (first: x:1)"])
    assert "| en | 18 | 100.0 |" in page
    assert "| accuracy, % | Chat | a\\|b |" in page
    assert "- 3  a tie (first: x:1)" in page


def pairs(folder: Path) -> str:
    """Rows of M-RewardBench's form in two languages: right and wrong facts of the world."""
    rows = {
        "eng_Latn": [("What pet does David have at home?", "David has a dog at home.", "Zog zog zog zog zog.")],
        "spa_Latn": [("¿Qué mascota tiene David en casa?", "David tiene un perro en casa.", "Zog zog zog zog zog.")],
    }
    for tag, found in rows.items():
        write(
            folder / tag / "test-00000-of-00001.parquet",
            [
                {"id": n, "language": tag, "prompt": prompt, "chosen": good, "rejected": bad, "chosen_model": "m",
                 "rejected_model": "n", "category": "Chat"}
                for n, (prompt, good, bad) in enumerate(found * 3)
            ],
        )  # fmt: skip
    return str(folder / "{lang}")


def test_implicit_and_likelihood_rewards_are_audited(tmp_path: Path) -> None:
    data = pairs(tmp_path / "bench")
    (tmp_path / "c.yaml").write_text(dump_yaml(small_config(tmp_path, "languages.codes=[en, es]")))
    page = run_audit(tmp_path / "c.yaml", [data], [], tmp_path / "out", None, quiet=True)
    assert page.startswith("# Reward implicit of ")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"audit.md", "audit.json", "pairs.jsonl", "audit.html"}
    drawn = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert "es (3)" in drawn
    assert "stroke-dasharray" in drawn
    found = json.loads((tmp_path / "out" / "audit.json").read_text())["languages"]
    assert found["es"]["all"]["pairs"] == found["en"]["all"]["pairs"] == 3
    lines = (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()
    assert {json.loads(line)["subset"] for line in lines} == {"Chat"}
    # The likelihood of a sentence of the world is surely above that of gibberish.
    likelihood = ["reward={kind: likelihood, prompt: native}", "pairs.min_margin=0"]
    out = tmp_path / "likelihood"
    run_audit(tmp_path / "c.yaml", [data], likelihood, out, 2, quiet=True)
    found = json.loads((out / "audit.json").read_text())["languages"]
    assert found["all"]["all"] | {"ci95": 0} == found["all"]["all"] | {
        "ci95": 0,
        "pairs": 4,
        "right": 4,
        "accuracy": 1.0,
    }


def audited(folder: Path, data: str, *overrides: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures by language and subset, and the pairs with their rewards."""
    (folder / "c.yaml").write_text(dump_yaml(small_config(folder, "languages.codes=[en, es]")))
    out = folder / "audited"
    run_audit(folder / "c.yaml", [data], overrides, out, None, quiet=True)
    rows = [json.loads(line) for line in (out / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    return json.loads((out / "audit.json").read_text())["languages"], rows


def test_the_native_reward_is_measured_under_the_languages_own_prompt(tmp_path: Path) -> None:
    data = pairs(tmp_path / "bench")
    cross, native = ({row["language"]: row for row in audited(tmp_path, data, f"reward.prompt={prompt}")[1]}
                     for prompt in ("crosslingual", "native"))  # fmt: skip
    # English is asked in English either way; packed with other texts, sums differ in their last bits.
    assert native["en"]["chosen"] == pytest.approx(cross["en"]["chosen"], abs=1e-3)
    assert native["es"]["chosen"] != pytest.approx(cross["es"]["chosen"], abs=0.01)
    alone = audited(tmp_path, data.replace("{lang}", "spa_Latn"), "reward.prompt=native")[1]
    assert [row["chosen"] for row in alone] == pytest.approx([native["es"]["chosen"]] * 3, abs=1e-3)


def test_a_judge_is_audited_with_its_length_bias(tmp_path: Path) -> None:
    rows = [
        {"id": n, "language": "es", "prompt": f"¿{n}?", "chosen": "Sí." if n else "Sí, señor, claro.",
         "rejected": "No, señor.", "chosen_model": "m", "rejected_model": "n"}
        for n in range(3)
    ]  # fmt: skip
    data = str(write(tmp_path / "pairs.jsonl", rows))
    with judge_server(longer) as stub:
        judge = [f"judge.base_url={stub.url}", "judge.model=stub", f"judge.cache={tmp_path}/judge.sqlite"]
        found, scored = audited(tmp_path, data, "reward={kind: judge}", *judge)
    assert [(row["chosen"], row["rejected"]) for row in scored] == [(1.0, 0.0), (0.0, 1.0), (0.0, 1.0)]
    figures = found["es"]["all"]
    assert (figures["right"], figures["prefers_longer"], figures["chosen_longer"]) == (1, 1.0, 1 / 3)
    assert (figures["right_longer"], figures["right_shorter"]) == (1.0, 0.0)
    with pytest.raises(UserError, match=r"judge\.base_url"):  # nothing listens there any more
        audited(tmp_path, data, "reward={kind: judge}", *judge)


def test_terms_and_ones_own_function_are_audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"id": n, "language": "es", "prompt": f"¿{n}?", "chosen": "El gato duerme tranquilo sobre la alfombra.",
         "rejected": "The cat sleeps quietly on the carpet tonight.", "chosen_model": "m", "rejected_model": "n"}
        for n in range(2)
    ]  # fmt: skip
    data = str(write(tmp_path / "pairs.jsonl", rows))
    terms = "reward={kind: terms, terms: {tongue: {kind: language}, fresh: {kind: repetition, weight: 0.1}}}"
    found, scored = audited(tmp_path, data, terms)
    assert found["es"]["all"]["accuracy"] == 1.0
    assert all(row["chosen"] > row["rejected"] + 0.5 for row in scored)
    source = "def count(prompts, candidates):\n    return [-len(one.text.split()) for one in candidates]\n"
    (tmp_path / "audited_words.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = audited(tmp_path, data, "reward={kind: custom, function: 'audited_words:count'}")[1]
    assert [(row["chosen"], row["rejected"]) for row in own] == [(-7.0, -8.0)] * 2


def test_a_reward_model_is_audited(tmp_path: Path) -> None:
    model = build_reward_model(tmp_path / "rm")
    data = pairs(tmp_path / "bench")
    found, scored = audited(tmp_path, data, f"reward={{kind: reward_model, model: {model}}}")
    assert found["all"]["all"]["pairs"] == 6
    direct = RewardModel(model, "float32", 4096, torch.device("cpu"))
    asked = "¿Qué mascota tiene David en casa?"
    values, _ = direct.score([(asked, "David tiene un perro en casa."), (asked, "Zog zog zog zog zog.")])
    row = next(row for row in scored if row["language"] == "es")
    assert [row["chosen"], row["rejected"]] == pytest.approx(values, abs=1e-5)
    with pytest.raises(UserError, match=r"reward\.model: .* which gives no score"):
        audited(tmp_path, data, "reward={kind: reward_model, model: worlds/default/policy}")


def test_what_cannot_be_audited_is_refused(tmp_path: Path) -> None:
    data = pairs(tmp_path / "bench")
    (tmp_path / "c.yaml").write_text(dump_yaml(small_config(tmp_path, "languages.codes=[en, es]")))

    def refused(*overrides: str, data: str = data) -> str:
        with pytest.raises(UserError) as error:
            run_audit(tmp_path / "c.yaml", [data], overrides, tmp_path / "out", None, quiet=True)
        return str(error.value)

    assert "verifier compares with gold answers" in refused("reward={kind: verifier}")
    assert "reward.prompt: translated needs the policy's translations" in refused("reward.prompt=translated")
    alone = data.replace("{lang}", "spa_Latn")
    assert "reward.prompt: crosslingual asks with the prompts in en, and no pair has one" in refused(data=alone)
    assert "names no .jsonl" in refused(data=str(tmp_path / "bench"))
    missing = CliRunner().invoke(app, ["audit-reward", str(tmp_path / "c.yaml")])
    assert isinstance(missing.exception, UserError)
    assert str(missing.exception).startswith("--data: missing")
