"""What a person reads holds what was meant: brackets of paths, lists and names are no markup."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import actors.observe.screen
from actors.observe.metrics_rows import learner_figures
from actors.observe.screen import Screen, print_nodes
from configs.schema import Config
from judges.progress import judging_progress
from learners.metrics import RoundMetrics, StepMetrics

ODD = ["runs/[x]", "[/x]", "[bold]runs[/bold]", "[red", "[link=x]b[/link]", "\\[x]", "{names}", ":smile:"]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    out = io.StringIO()
    own = actors.observe.screen.console
    # The same settings, on another file.
    console = Console(file=out, highlight=False, markup=own._markup, emoji=own._emoji, width=130)
    monkeypatch.setattr(actors.observe.screen, "console", console)
    return out


@pytest.mark.parametrize("text", ODD)
def test_a_line_is_shown_as_it_is(seen: io.StringIO, text: str) -> None:
    screen = Screen()
    screen.say(f"{text}: 3 prompts")
    with screen.stage(text):
        pass
    assert [line.split("s  ", 1)[1] for line in seen.getvalue().splitlines()] == [f"{text}: 3 prompts", text]


@pytest.mark.parametrize("text", ODD)
def test_names_of_languages_and_nodes_are_shown_as_they_are(seen: io.StringIO, text: str) -> None:
    figures = {"accuracy_sampled": 0.5, "accuracy_greedy": 0.5, "right_language": 1.0, "mean_length": 8}
    row = {"start": figures, "end": figures, "delta_ci95": [0.0, 0.1], "greedy_delta_ci95": [0.0, 0.1]}
    mean = {"start": 0.5, "end": 0.5, "greedy": {"start": 0.5, "end": 0.5, "delta_ci95": [0.0, 0.1]}}
    Screen().table({"languages": {"sw": row}, "non_english_mean": mean}, {"sw": text})
    assert f"{text} (sw)" in seen.getvalue()
    assert "mean of the others" in seen.getvalue()
    config = Config.model_validate(
        {
            "model": {"policy": "x", "reference": "y"},
            "languages": {"codes": ["en", "sw"]},
            "prompts": {"train": "{lang}.jsonl"},
        }
    )
    from actors.plan.placement import PlacementPlan

    print_nodes(PlacementPlan.from_config(config), {text: {"CPU": 64.0, "GPU": 0.0}})
    assert text in seen.getvalue().split("Nodes")[1]


def test_a_round_s_line_begins_in_bold_and_names_its_counts(seen: io.StringIO) -> None:
    counts = {"candidates": 9, "passed_gates": 7, "pairs": 3, "anchors": 2, "groups": 0}
    learner = {"reward_accuracy": 0.5, "first_loss": 0.7, "last_loss": 0.6}
    row = {"round": 2, "counts": counts, "learner": learner, "seconds": {"wall": 4.0}, "weight_version": 2}
    Screen().round_line(row)
    assert "round 2  9 candidates (2 gated)  3 pairs + 2 anchors" in seen.getvalue()


def test_a_falling_loss_is_shown_falling_though_the_last_step_is_short_and_hard(seen: io.StringIO) -> None:
    def step(epoch: int, loss: float, pairs: float) -> StepMetrics:
        return StepMetrics(1, epoch, 1, {"loss": loss, "pairs": pairs}, {}, 1.0, 1e-4, 10, 0.0, 1, 1.0)

    first, last = [step(0, 0.60, 96.0), step(0, 0.90, 24.0)], [step(1, 0.55, 96.0), step(1, 0.80, 24.0)]
    figures = learner_figures(RoundMetrics(1, 120, 4.0, [*first, *last])) | {"reward_accuracy": 0.5}
    assert figures["last_loss"] > figures["first_loss"] == 0.60
    assert figures["loss_first_pass"] == pytest.approx(0.66)  # weighted by the pairs of each step
    assert figures["loss_last_pass"] == pytest.approx(0.60)
    counts = {"candidates": 9, "passed_gates": 7, "pairs": 3, "anchors": 2, "groups": 0}
    row = {"round": 1, "counts": counts, "learner": figures, "seconds": {"wall": 4.0}, "weight_version": 1}
    Screen().round_line(row)
    assert "mean loss 0.660 in the first pass, 0.600 in the last" in seen.getvalue()
    one = learner_figures(RoundMetrics(1, 120, 4.0, first)) | {"reward_accuracy": 0.5}
    Screen().round_line({**row, "learner": one})
    assert "mean loss 0.660 (one pass)" in seen.getvalue()


@pytest.mark.parametrize("text", ODD)
def test_a_judging_is_titled_as_it_is(text: str) -> None:
    out = io.StringIO()
    with judging_progress(text, Console(file=out, width=130, emoji=False)):
        pass
    assert out.getvalue().startswith(f"{text}: 0 of 0 questions")
