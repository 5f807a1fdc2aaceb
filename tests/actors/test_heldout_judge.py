"""``evaluation.judge``: greedy answers against those of the start, in figures, summary, report and screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.observe.screen import Screen
from actors.plan.preflight import check_heldout_judge
from actors.runtime.signals import StopRequested
from actors.train.heldout import judged
from configs.errors import UserError
from configs.schema import Config
from evaluation.heldout import HeldoutResult, LanguageResult, PromptResult
from evaluation.judged import answers_of, verdicts, win_figures
from evaluation.report.data import RunData
from evaluation.report.markdown import render_markdown
from evaluation.report.page import render_html
from evaluation.suites.figures import win_figures as eval_figures
from evaluation.summary import build_summary, language_figures
from judges import Item, compare
from tests.kits.judge import Says, Stub, judge_server, longer
from tests.kits.rollout import make_config, make_prompts

CODES = ("en", "es", "fr")


def config_of(stub: Stub, folder: Path, **judge: object) -> Config:
    asked = {"base_url": stub.url, "model": "stub", "max_retries": 0, **judge}
    return make_config(
        run={"dir": str(folder)},
        prompts={"train": "{lang}.jsonl", "heldout": "{lang}.jsonl"},
        evaluation={"judge": asked},
    )


def result(version: int, words: int, count: int = 4) -> HeldoutResult:
    """Answers of that many words and more; the last one is empty."""
    rows = tuple(
        PromptResult(f"p{i}", 1.0, 0.5, 1.0, answer="" if i == count - 1 else " ".join(["word"] * (words + i)))
        for i in range(count)
    )
    return HeldoutResult(version, {code: LanguageResult(1.0, 0.5, 1.0, 0.0, 10.0, 3.0, 0.0, rows) for code in CODES})


def test_answers_against_those_of_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with judge_server(longer) as stub:
        config = config_of(stub, tmp_path)
        judge = config.evaluation.judge
        assert judge is not None
        prompts = make_prompts(tmp_path, config, 4)
        start, end = result(0, 3), result(2, 5)
        found = judged(config, judge, prompts, start=start, result=end, should_stop=lambda: False)
        assert len(stub.shown) == 2 * 3 * len(CODES)  # both orders; two empty answers are a tie without a question
        # The same questions as those of `isogloss eval` on these answers: nothing is asked again.
        ours, theirs = answers_of(end), answers_of(start)
        items = [Item("any", code, prompts.get(i, code).text, ours[code, i], theirs[code, i]) for code, i in ours]
        compare(items, judge, tmp_path / ".cache" / "judge.sqlite")
        assert len(stub.shown) == 2 * 3 * len(CODES)
    assert HeldoutResult.from_json(found.to_json()) == found
    figures = language_figures(found.languages["es"])["win_rate"]
    assert (figures["wins"], figures["ties"], figures["losses"], figures["failed"]) == (3, 1, 0, 0)
    assert figures["win_rate"] == 87.5
    assert figures["ci95"][0] < 87.5 <= figures["ci95"][1]
    said = verdicts(found, CODES)
    (over_all,) = [f for f in eval_figures(said, {}) if (f.name, f.language) == ("win_rate", "all")]
    figured = win_figures(said)
    assert figured is not None
    assert (over_all.value, list(over_all.ci95 or ())) == (figured["win_rate"], figured["ci95"])
    assert "win_rate" not in language_figures(start.languages["es"])
    summary = build_summary(config, start, found, 2, 1.0)
    assert summary["languages"]["fr"]["end"]["win_rate"] == figures
    assert summary["non_english_mean"]["win_rate"]["items"] == 8
    Screen().table(summary, {code: code.upper() for code in CODES})
    shown = capsys.readouterr().out
    assert "Greedy answers judged against those of the start" in shown
    assert "87.5" in shown
    Screen().evaluation_line(2, found, ["es", "fr"])
    assert "judged against the start 87.5% [" in capsys.readouterr().out
    run = RunData("mine", Path("mine"), summary=summary)
    assert "| es | 87.5 |" in render_markdown(run)
    assert "Judged against the start" in render_html(run)
    assert "Judged against the start" not in render_html(
        RunData("mine", Path("mine"), summary=build_summary(config, start, end, 2, 1))
    )


def test_a_failure_names_the_field_below_evaluation(tmp_path: Path) -> None:
    with judge_server(lambda _shown: Says("no", status=400)) as stub:
        config = config_of(stub, tmp_path)
        judge = config.evaluation.judge
        assert judge is not None
        prompts = make_prompts(tmp_path, config, 4)
        with pytest.raises(UserError, match=r"^evaluation\.judge\.max_failed_share: .* got no verdict"):
            judged(config, judge, prompts, start=result(0, 3), result=result(2, 5), should_stop=lambda: False)
    with (
        judge_server(lambda _shown: Says("well ...")) as stub,
        pytest.raises(UserError, match=r"^evaluation\.judge\.template: the answer to a plain question is no verdict"),
    ):
        check_heldout_judge(config_of(stub, tmp_path))  # fmt: skip


def test_a_stop_ends_the_asking(tmp_path: Path) -> None:
    with judge_server(longer) as stub:
        config = config_of(stub, tmp_path, max_concurrency=1)
        judge = config.evaluation.judge
        assert judge is not None
        prompts = make_prompts(tmp_path, config, 4)
        with pytest.raises(StopRequested):
            judged(
                config,
                judge,
                prompts,
                start=result(0, 3),
                result=result(2, 5),
                should_stop=lambda: len(stub.shown) >= 2,
            )
        assert len(stub.shown) == 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"evaluation": {"judge": {"model": "m"}}}, r"evaluation\.judge\.base_url: missing"),
        ({"evaluation": {"judge": {"base_url": "http://localhost:1/v1"}}}, r"evaluation\.judge\.model: missing"),
        (
            {"evaluation": {"judge": {"base_url": "http://localhost:1/v1", "model": "m"}}},
            r"evaluation\.judge: compares held-out answers; set prompts\.heldout",
        ),
    ],
)
def test_what_it_needs(values: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        make_config(**values)
