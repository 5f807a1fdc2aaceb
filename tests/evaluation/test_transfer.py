"""What training on some languages does to all: mixtures, unseen languages, the matrix; and figures within a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.observe.metrics import MetricsLog, StageClock, read_metrics
from configs.errors import UserError
from configs.load import load_config
from configs.schema import Config, LanguagesConfig
from evaluation.heldout import heldout_chunks, score_heldout
from evaluation.report import render_report
from evaluation.report.data import RunData, read_run
from evaluation.report.figures import others_curve, timelines, transfer
from evaluation.summary import build_summary, language_figures
from rollout.language import LanguageDetector
from rollout.prompts import PromptSet
from rollout.records import Candidate
from rollout.token_ids import TokenIds
from tests.evaluation.test_report import make_run, parsed
from tests.kits.rollout import make_config, make_prompts

CODES = ["en", "de", "es", "fr", "ru", "sw"]


def shares(mix: str | None, codes: list[str] = CODES) -> dict[str, float]:
    languages = LanguagesConfig.model_validate({"codes": codes, "mix": mix})
    return {code: languages.share(code) for code in codes if languages.share(code)}


def test_mixtures_hold_the_number_of_pairs() -> None:
    assert shares("EN-1") == {"en": 1.0}
    assert shares("ML-5") == dict.fromkeys(CODES[:5], 0.2)
    assert shares("ML-all") == dict.fromkeys(CODES, 1 / 6)
    assert shares(None) == dict.fromkeys(CODES, 1.0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["languages.mix=EN-1"], "languages.mix: EN-1 sets the shares that `shares` sets too"),
        (
            ["languages.shares={}", "languages.mix=ML-5", "languages.codes=[en, es]"],
            "ML-5 needs 5 languages, codes has 2",
        ),
        (["languages.mix=ML-7"], "languages.mix: Input should be 'EN-1'"),
        (["evaluation.languages=[es]"], "evaluation.languages: 'es' is in languages.codes"),
        (["languages.codes=[en, es]", "evaluation.languages=[fr, fr]"], "languages: a language is named twice"),
        (["languages.codes=[en, es]", "evaluation.languages=[fr]", "prompts.heldout=null"], "needs held-out prompts"),
    ],
)
def test_contradictions(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(Path("configs/icr.yaml"), overrides)


# --- unseen languages ---------------------------------------------------------------------------------------------


@pytest.fixture
def unseen(tmp_path: Path) -> tuple[Config, PromptSet]:
    """Trained on English and Spanish, evaluated on French too."""
    full = make_config()
    make_prompts(tmp_path, full, 4)
    pattern = str(next(tmp_path.rglob("fr.jsonl")).with_name("{lang}.jsonl"))
    config = make_config(
        languages={"codes": ["en", "es"]},
        prompts={"train": pattern, "heldout": pattern},
        evaluation={"languages": ["fr"], "samples_per_prompt": 2},
    )
    return config, PromptSet.from_config(config, "heldout")


def test_unseen_languages_are_evaluated_and_nothing_else(unseen: tuple[Config, PromptSet]) -> None:
    config, heldout = unseen
    assert heldout.languages == ("en", "es", "fr")
    assert PromptSet.from_config(config, "train").languages == ("en", "es")

    def answers(version: int, right: set[str]) -> list[Candidate]:
        keys = [request.key for chunk in heldout_chunks(config, heldout, version) for request in chunk.requests]
        gold = {key: heldout.get(key.prompt_id, key.language).answer or "" for key in keys}
        return [
            Candidate(key, gold[key] if key.language in right else "-", TokenIds((1,)), "stop", version) for key in keys
        ]

    detector = LanguageDetector(config.evaluated)
    start, end = (score_heldout(heldout, answers(v, r), detector) for v, r in ((0, {"en"}), (2, {"en", "es"})))
    summary = build_summary(config, start, end, 2, 1.0)
    assert list(summary["languages"]) == ["en", "es", "fr"]
    rise, none = ({"start": 0.0, "end": end, "delta_ci95": [end, end]} for end in (1.0, 0.0))
    assert summary["non_english_mean"] == {**rise, "greedy": rise}
    assert summary["unseen_mean"] == {**none, "greedy": none}
    assert "prompts" not in language_figures(start.languages["en"])


# --- the report's matrix ------------------------------------------------------------------------------------------


def transfer_run(folder: Path, trained: str, gain: float) -> Path:
    """A run that trained on one language and also looked at Arabic, which it never saw."""
    run = make_run(folder)
    config = {"languages": {"dominant": "en", "codes": ["en", "es"]}, "evaluation": {"languages": ["ar"]}}
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    figures = {"start": {"accuracy_sampled": 0.2}, "end": {"accuracy_sampled": 0.2 + gain}}
    summary["languages"]["ar"] = {**figures, "delta_ci95": [gain - 0.05, gain + 0.05]}
    summary["unseen_mean"] = {"start": 0.2, "end": 0.2 + gain, "delta_ci95": [gain - 0.05, gain + 0.05]}
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["counts"]["pairs_by_language"] = {trained: 8}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return run


def test_the_matrix(tmp_path: Path) -> None:
    runs = [transfer_run(tmp_path / "one", "en", 0.1), transfer_run(tmp_path / "two", "es", 0.3)]
    rows, columns = transfer([read_run(run) for run in runs])
    assert columns == ["en", "ar", "es", "mean of the others", "mean of the unseen"]
    assert [round(found["ar"].delta, 6) for _, found in rows] == [10.0, 30.0]
    text = render_report(runs[0], [runs[1]], "md")
    assert "| one (en) | +15.0 (+10.0 to +20.0) | +10.0 ° (+5.0 to +15.0) | +15.0 ° (+10.0 to +20.0) |" in text
    assert "| two (es) | +15.0 ° (+10.0 to +20.0) | +30.0 ° (+25.0 to +35.0) | +15.0 (+10.0 to +20.0) |" in text
    page = render_report(runs[0], [runs[1]])
    parsed(page)
    assert "+30.0 °</span><small> [+25.0, +35.0]</small>" in page
    curve = others_curve(read_run(runs[0]))
    assert list(curve) == [0, 2]
    assert curve[2] == pytest.approx(60.0)  # of Spanish alone


# --- within a run -------------------------------------------------------------------------------------------------


def test_calls_of_actors_stay_few() -> None:
    clock = StageClock()
    at = clock.started
    clock.call("rollout actor 0", "generate", at + 1.0, at + 2.0)
    clock.call("rollout actor 0", "generate", at + 2.005, at + 3.0)
    clock.call("rollout actor 0", "generate", at + 4.0, at + 5.5)
    clock.call("learner", "train", at + 5.0, at + 9.0)
    assert clock.timeline() == {"learner": {"train": [5.0, 9.0]}, "rollout actor 0": {"generate": [1.0, 3.0, 4.0, 5.5]}}
    for k in range(5000):
        clock.call("reward actor 0", "judge", at + k, at + k + 0.5)
    spans = clock.timeline()["reward actor 0"]["judge"]
    assert len(spans) <= 300
    assert (spans[0], spans[-1]) == (0.0, 4999.5)


def test_timelines_of_a_report() -> None:
    row = {"timeline": {"learner": {"train": [5, 9.0]}, "rollout actor 0": {"generate": [1, 3, 4, 5.5, 7]}, "x": 3}}
    run = RunData("r", Path("r"), metrics={1: row, 2: {}})
    rounds, kinds = timelines(run)
    assert rounds == {
        "round 1": {"rollout actor 0": {"generate": [(1, 3), (4, 5.5)]}, "learner": {"train": [(5, 9.0)]}, "x": {}}
    }
    assert kinds == ["generate", "train"]


def test_the_report_draws_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", rounds=6)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["timeline"] = {"<b>0": {"generate": [0.0, 2.5]}, "learner": {"train": [2.5, 9.0]}}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    page = render_report(run)
    parsed(page)
    assert "last 4 rounds" in page
    assert "&lt;b&gt;0, generate: 0 to 2.5 s" in page
    assert page.count("learner, train: 2.5 to 9 s") == 4


def test_held_out_figures_join_their_row(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(tmp_path)
    figures: dict[str, Any] = {"es": {"accuracy_sampled": 0.5, "right_language": None}}
    log.write({"round": 1, "heldout_start": {"es": {"accuracy_sampled": 0.25}}, "counts": {"pairs": 3}})
    log.add(1, {"heldout": figures})
    log.add(1, {"heldout": figures})  # after a resume
    log.add(2, {"heldout": figures})  # has no row
    log.close()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["round"] for row in rows] == [1]
    assert rows[0]["heldout"] == figures
    assert rows[0]["counts"] == {"pairs": 3}
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    points = [(point.step, point.value) for point in board.Scalars("heldout/es/accuracy_sampled")]
    assert points == [(0, 0.25), (1, 0.5)]
    assert "heldout_start/es/accuracy_sampled" not in board.Tags()["scalars"]
