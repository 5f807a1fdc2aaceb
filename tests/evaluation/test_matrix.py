"""The matrix of a study: cells, contrasts between runs, their intervals, and the forms they are written in."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from configs.errors import UserError
from evaluation.heldout import HeldoutResult, LanguageResult, PromptResult
from evaluation.matrix.compute import Contrast, Missing, Row, build_matrix
from evaluation.matrix.page import render_html
from evaluation.matrix.runs import Measured, RunResult, read_result
from evaluation.matrix.tables import render_markdown, to_csv, to_json
from evaluation.stats import Clustered, Pooled, clustered_bootstrap, pooled_bootstrap
from rollout.store import Store

IDS = tuple(f"p{n}" for n in range(40))
CLUSTERS = tuple(f"c{n // 4}" for n in range(40))
ROWS = [Row("en", "EN-1"), Row("all", "ML-all")]


def measured(right: int, ids: tuple[str, ...] = IDS) -> Measured:
    """Nobody right at the start, the first ``right`` prompts at the end."""
    end = np.array([float(n < right) for n in range(len(ids))])
    return Measured(ids, CLUSTERS[: len(ids)], np.zeros(len(ids)), end)


def run(row: str, seed: int, trained: dict[str, int], **right: int) -> RunResult:
    return RunResult(row, seed, trained, {"greedy": {code: measured(n) for code, n in right.items()}}, 60.0)


def runs() -> list[RunResult]:
    return [
        run("en", 0, {"en": 8}, en=20, de=8, it=4),
        run("en", 1, {"en": 8}, en=20, de=12, it=4),
        run("all", 0, {"en": 4, "de": 4}, en=20, de=28, it=16),
        run("all", 1, {"en": 4, "de": 4}, en=20, de=32, it=20),
    ]


def test_cells_are_means_over_seeds_and_mark_what_a_row_did_not_train_on() -> None:
    matrix = build_matrix("s", ROWS, runs(), [], "en")
    assert matrix.languages == ("en", "de", "it")
    assert (matrix.groups["seen"], matrix.groups["unseen"]) == (("de",), ("it",))
    first, second = matrix.lines
    cell = first.cells["greedy"]["de"]
    assert cell.uplift.value == pytest.approx(10 / 40)
    assert cell.uplift.low <= cell.uplift.value <= cell.uplift.high
    assert cell.untrained
    assert not second.cells["greedy"]["de"].untrained
    assert second.cells["greedy"]["unseen"].uplift.value == pytest.approx(18 / 40)
    assert second.cells["greedy"]["unseen"].untrained


def test_contrasts_pair_runs_by_seed_and_say_yes_only_beyond_zero() -> None:
    questions = [
        Contrast("more languages?", ("all",), ("en",), languages="unseen"),
        Contrast("the reverse?", ("en",), ("all",), languages="unseen"),
        Contrast("english?", ("all",), ("en",), languages="en"),
        Contrast("from the start?", ("en",), (), languages="it"),
    ]
    more, reverse, english, start = build_matrix("s", ROWS, runs(), questions, "en").answers
    assert more.estimate is not None
    assert more.estimate.value == pytest.approx((12 / 40 + 16 / 40) / 2)
    assert (more.estimate.runs, more.verdict) == (2, "yes")
    assert reverse.verdict == "no: the reverse"
    assert english.estimate is not None
    assert (english.estimate.value, english.verdict) == (0.0, "not shown")
    assert start.estimate is not None
    assert start.estimate.value == pytest.approx(0.1)


def test_only_seeds_that_both_rows_have_are_compared() -> None:
    answer = build_matrix("s", ROWS, runs()[:3], [Contrast("?", ("all",), ("en",))], "en").answers[0]
    assert answer.estimate is not None
    assert answer.estimate.runs == 1
    nothing = build_matrix("s", ROWS, runs()[:2], [Contrast("?", ("all",), ("en",))], "en").answers[0]
    assert (nothing.estimate, nothing.verdict) == (None, "not measured")


def test_runs_over_other_prompts_are_paired_on_those_that_they_share() -> None:
    shorter = RunResult("all", 0, {"de": 1}, {"greedy": {"de": measured(20, IDS[:20])}}, 1.0)
    matrix = build_matrix(
        "s", ROWS, [run("en", 0, {"en": 1}, de=10), shorter], [Contrast("?", ("all",), ("en",))], "en"
    )
    estimate = matrix.answers[0].estimate
    assert estimate is not None
    assert (estimate.prompts, estimate.value) == (20, pytest.approx(0.5))


def test_the_pooled_interval_of_one_run_is_the_clustered_one_and_runs_that_differ_widen_it() -> None:
    rng = np.random.default_rng(1)
    change = rng.normal(size=200)
    clusters = tuple(str(n // 5) for n in range(200))
    value, (low, high) = pooled_bootstrap([Pooled(change[None], clusters)], 20_000, 0)
    alone = clustered_bootstrap([Clustered(np.zeros(200), change, clusters)], 20_000, 0)
    assert value == pytest.approx(alone.delta)
    assert (low, high) == pytest.approx(alone.ci95, abs=0.01)
    apart = np.stack([change - 1, change, change + 1])
    _, (wide_low, wide_high) = pooled_bootstrap([Pooled(apart, clusters)], 2000, 0)
    assert wide_high - wide_low > 2 * (high - low)
    with pytest.raises(ValueError, match="the same number"):
        pooled_bootstrap([Pooled(apart, clusters), Pooled(change[None], clusters)], 10, 0)


def test_the_matrix_is_written_as_markdown_json_csv_and_a_page() -> None:
    titled = [Row("en", "EN-1 | <b>"), ROWS[1]]
    missing = [Missing("all", 2, "exit status 2: <no memory>")]
    question = Contrast("Do *more* languages help?", ("all",), ("en",), languages="unseen")
    matrix = build_matrix("dang", titled, runs(), [question], "en", missing=missing)
    text = render_markdown(matrix)
    assert "| Do \\*more\\* languages help? | yes | +35.0 |" in text
    assert "EN-1 \\| \\<b\\>" in text
    assert "+25.0 (" in text
    assert "Runs without a result: 1" in text
    assert "it | mean, seen | mean, unseen" in text
    data = json.loads(to_json(matrix))
    assert data["rows"][0]["cells"]["greedy"]["de"]["uplift"]["value"] == pytest.approx(0.25)
    assert data["contrasts"][0]["verdict"] == "yes"
    rows = list(csv.DictReader(io.StringIO(to_csv(matrix))))
    assert {row["kind"] for row in rows} == {"cell", "contrast"}
    assert [row["untrained"] for row in rows if row["row"] == "en" and row["column"] == "it"] == ["1"]
    page = render_html(matrix)
    assert "&lt;b&gt;" in page
    assert "<b>|" not in page
    assert "&lt;no memory&gt;" in page
    assert "\\*" not in page


def test_a_matrix_without_any_run_says_so_and_does_not_break() -> None:
    matrix = build_matrix(
        "s", ROWS, [], [Contrast("?", ("all",), ("en",))], "en", missing=[Missing("all", 0, "failed")]
    )
    assert "not measured" in render_markdown(matrix)
    assert "not measured" in render_html(matrix)


def journal(folder: Path, rounds: int = 2) -> Path:
    """A finished run as its journal and summary show it."""
    folder.mkdir(parents=True)
    with Store.open(folder / "store.sqlite", folder.name, {"digest": "of no config"}) as store:
        for round, right in ((0, 0.0), (rounds, 1.0)):
            preference = 0.75 if round else None  # the start is compared with nothing
            row = PromptResult("p0", right, 0.5, cluster="x", marked=1.0 - right, judged=True, preference=preference)
            language = LanguageResult(right, 0.5, 1.0, 0.0, 9.0, 3.0, 0.0, (row, PromptResult("p1", None, None)))
            store.put_evaluation(round, HeldoutResult(round, {"de": language}).to_json())
    (folder / "summary.json").write_text(json.dumps({"rounds": rounds, "wall_seconds": 3.5}), encoding="utf-8")
    return folder


def test_a_finished_run_is_read_from_its_journal(tmp_path: Path) -> None:
    found = read_result(journal(tmp_path / "run"), "en", 3)
    assert (found.row, found.seed, found.wall_seconds) == ("en", 3, 3.5)
    assert found.values["greedy"]["de"].ids == ("p0",)
    assert found.values["greedy"]["de"].end.tolist() == [1.0]
    assert found.values["artefacts"]["de"].start.tolist() == [1.0]
    judged = found.values["judged"]["de"]
    assert (judged.start.tolist(), judged.end.tolist()) == ([0.5], [0.75])
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"rounds": 3}), encoding="utf-8")
    with pytest.raises(UserError, match=r"not evaluated at start and end"):
        read_result(tmp_path / "run", "en", 3)
