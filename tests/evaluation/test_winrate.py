"""Win rates, their intervals and the length-controlled form, on made-up judges with known truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from configs.errors import UserError
from evaluation.length_controlled import (
    _fit,
    estimate_difficulty,
    length_controlled,
    length_controlled_by_language,
)
from evaluation.winrate import (
    Comparison,
    clustered_interval,
    merge_orders,
    ratio_interval,
    read_annotations,
    win_rate,
    win_rates,
)


def verdicts(preferences: Sequence[float | None], language: str = "en") -> list[Comparison]:
    return [Comparison(f"p{i}", language, p) for i, p in enumerate(preferences)]


def test_counts_beside_the_figure() -> None:
    rows = [*verdicts([2.0, 2.0, 1.0, 1.5, None]), Comparison("q", "en", 1.5, inconsistent=True)]
    result = win_rate(rows)
    assert result.win_rate == pytest.approx(60.0)
    assert (result.items, result.wins, result.ties, result.losses) == (5, 2, 2, 1)
    assert (result.inconsistent, result.failed) == (1, 1)
    assert result.wilson95 is None  # ties are not coin flips


def test_soft_labels_and_wilson() -> None:
    assert win_rate(verdicts([1.25, 1.75, 1.9])).win_rate == pytest.approx(100 * 1.9 / 3)
    oracle = stats.binomtest(30, 40).proportion_ci(0.95, method="wilson")
    found = win_rate(verdicts([2.0] * 30 + [1.0] * 10)).wilson95
    assert found == pytest.approx((100 * oracle.low, 100 * oracle.high))


def test_nothing_but_failures() -> None:
    result = win_rate(verdicts([None, None]))
    assert (result.win_rate, result.ci95, result.items, result.failed) == (None, None, 0, 2)


def test_bad_verdicts() -> None:
    with pytest.raises(ValueError, match="not from 1 to 2"):
        Comparison("a", "en", 0.5)
    with pytest.raises(ValueError, match="not from 1 to 2"):
        Comparison("a", "en", float("nan"))
    with pytest.raises(ValueError, match="twice"):
        win_rate([*verdicts([1.0]), *verdicts([2.0])])
    with pytest.raises(ValueError, match="no verdicts"):
        win_rate([])


def test_languages_and_their_mean() -> None:
    # Spanish has fewer items; the overall figure is the mean of the languages, not of the verdicts.
    by_code, overall = win_rates(verdicts([2.0] * 8 + [1.0] * 2) + verdicts([2.0, 1.0], "es"))
    assert {code: r.win_rate for code, r in by_code.items()} == {"en": pytest.approx(80.0), "es": pytest.approx(50.0)}
    assert overall.win_rate == pytest.approx(65.0)
    assert overall.items == 12


def test_copies_in_other_languages_add_no_certainty() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((200, 1)) < 0.5
    one = clustered_interval(values.astype(float), 4000, 1)
    three = clustered_interval(np.repeat(values, 3, axis=1).astype(float), 4000, 1)
    assert three == pytest.approx(one)
    naive = clustered_interval(np.repeat(values, 3, axis=0).astype(float), 4000, 1)
    assert naive[1] - naive[0] < 0.65 * (one[1] - one[0])


def test_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(3).random((300, 1))
    oracle = stats.bootstrap((values[:, 0],), np.mean, n_resamples=4000, method="percentile", rng=5)
    found = clustered_interval(values, 4000, 2)
    assert found == pytest.approx(
        (oracle.confidence_interval.low, oracle.confidence_interval.high), abs=0.1 * oracle.standard_error
    )


def test_ratio_interval_agrees_with_scipy() -> None:
    """Right lines over lines, an answer's lines together: a ratio of sums, not a mean of shares."""
    rng = np.random.default_rng(8)
    lines = rng.integers(0, 12, 250).astype(float)
    right = rng.binomial(lines.astype(int), rng.beta(5, 1, 250)).astype(float)
    oracle = stats.bootstrap(
        (right, lines),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        n_resamples=6000,
        method="percentile",
        rng=5,
    )
    found = ratio_interval(right[:, None], lines[:, None], 6000, 2)
    bounds = (oracle.confidence_interval.low, oracle.confidence_interval.high)
    assert found == pytest.approx(bounds, abs=0.1 * oracle.standard_error)
    empty = ratio_interval(np.zeros((3, 2)), np.array([[0.0, 4], [0, 4], [0, 4]]), 50, 0)
    assert empty == (0.0, 0.0)


def test_coverage() -> None:
    """95 % intervals hold the truth in 93 to 97 % of simulated studies with prompts shared by three languages."""
    rng = np.random.default_rng(11)
    studies, hits = 1200, 0
    for study in range(studies):
        chance = rng.beta(1.5, 1.0, size=(120, 1))  # mean 0.6; hard in one language, hard in all
        values = (rng.random((120, 3)) < chance).astype(float)
        values[rng.random((120, 3)) < 0.05] = np.nan  # failed verdicts
        low, high = clustered_interval(values, 300, study)
        hits += low <= 0.6 <= high
    assert 0.93 <= hits / studies <= 0.97


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        (2.0, 2.0, (2.0, False)),
        (1.0, 2.0, (1.5, True)),
        (1.2, 1.4, (1.3, False)),
        (1.5, 2.0, (1.75, False)),
        (None, 2.0, (None, False)),
        (1.0, None, (None, False)),
    ],
)
def test_both_orders(first: float | None, second: float | None, merged: tuple[float | None, bool]) -> None:
    value, inconsistent = merge_orders(first, second)
    assert (pytest.approx(value) if value is not None else None, inconsistent) == merged


def test_a_judge_that_prefers_the_first_answer_is_worth_nothing() -> None:
    rows = []
    for i in range(200):
        preference, inconsistent = merge_orders(1.0, 2.0)  # always the one shown first
        rows.append(Comparison(str(i), "en", preference, inconsistent=inconsistent))
    result = win_rate(rows)
    assert result.win_rate == 50.0
    assert result.ci95 is not None
    assert result.ci95[0] <= 50.0 <= result.ci95[1]
    assert result.inconsistent == 200


# --- length control ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged() -> dict[str, list[Comparison]]:
    """Ten models under a judge that likes length; "equal-long" is as good as the baseline but writes far more."""
    rng = np.random.default_rng(7)
    easy = rng.normal(size=400)
    models = {
        f"m{k}": (quality, shift)
        for k, (quality, shift) in enumerate(zip(np.linspace(-2, 1, 9), range(-4, 5), strict=True))
    }
    models["equal-long"] = (0.0, 6)
    out: dict[str, list[Comparison]] = {}
    for name, (quality, shift) in models.items():
        baseline = rng.integers(800, 3000, size=400)
        model = np.maximum(1, baseline + 150 * shift + rng.normal(0, 500, size=400).astype(int))
        difference = (baseline - model) / (baseline - model).std(ddof=1)
        logits = -1.5 * np.tanh(difference) + 0.8 * easy + quality
        wins = rng.random(400) < 1 / (1 + np.exp(-logits))
        out[name] = [
            Comparison(str(i), "en", 2.0 if wins[i] else 1.0, int(baseline[i]), int(model[i])) for i in range(400)
        ]
    return out


def test_length_no_longer_wins(judged: dict[str, list[Comparison]]) -> None:
    rows = judged["equal-long"]
    others = {name: rows for name, rows in judged.items() if name != "equal-long"}
    result = length_controlled(rows, estimate_difficulty(others), resamples=200)
    raw = win_rate(rows).win_rate
    assert raw is not None
    assert raw > 68
    assert result.win_rate == pytest.approx(50, abs=5)
    assert result.ci95 is not None
    assert result.ci95[0] < 50 < result.ci95[1]
    assert result.slope == pytest.approx(-1.5, abs=0.4)
    assert (result.items, result.left_out, result.difficulty_models) == (400, 0, 9)


def test_difficulty_is_recovered(judged: dict[str, list[Comparison]]) -> None:
    difficulty = estimate_difficulty(judged)
    assert difficulty is not None
    truth = np.random.default_rng(7).normal(size=400)
    found = np.array([difficulty.items[str(i)] for i in range(400)])
    wins = np.array([[v.preference for v in rows] for rows in judged.values()], dtype=float).mean(axis=0)
    # Ten coin flips an item are little, but the fit must make more of them than their mean does.
    assert np.corrcoef(truth, found)[0, 1] > max(0.65, np.corrcoef(truth, wins)[0, 1] + 0.02)
    assert difficulty.slope == pytest.approx(-1.5, abs=0.5)


def test_the_fit_against_scipy() -> None:
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(80, 3)), rng.random(80)
    weights = rng.random(80)

    def loss(terms: np.ndarray) -> float:
        logits = features @ terms
        return float((weights * (np.logaddexp(0, logits) - labels * logits)).sum() + 0.5e-2 * terms @ terms)

    oracle = optimize.minimize(loss, np.zeros(3), tol=1e-12).x
    assert _fit(features, labels, weights[None], np.zeros(3))[0] == pytest.approx(oracle, abs=1e-4)
    many = _fit(features, labels, np.stack([weights, np.ones(80)]), np.zeros(3))
    assert many[0] == pytest.approx(oracle, abs=1e-4)


def test_without_other_models(judged: dict[str, list[Comparison]]) -> None:
    assert estimate_difficulty({"only": judged["m0"]}) is None
    result = length_controlled(judged["equal-long"], None)
    assert result.difficulty_models == 0
    assert result.weight == 0.0
    assert result.win_rate == pytest.approx(50, abs=7)


def test_items_that_cannot_be_fitted_are_counted(judged: dict[str, list[Comparison]]) -> None:
    extra = [Comparison("new", "en", 2.0, 10, 10), Comparison("0", "en", None, 10, 10), Comparison("1", "en", 2.0)]
    result = length_controlled([*judged["m3"][2:], *extra], estimate_difficulty(judged))
    assert (result.items, result.left_out) == (398, 3)
    with pytest.raises(ValueError, match="no verdict"):
        length_controlled(extra, estimate_difficulty(judged))


def test_degenerate_models_stay_finite(judged: dict[str, list[Comparison]]) -> None:
    always = [Comparison(str(i), "en", 2.0, 100, 100) for i in range(400)]  # one length, always wins
    result = length_controlled(always, estimate_difficulty(judged), resamples=50)
    assert 99 < result.win_rate <= 100
    assert np.isfinite([result.slope, result.weight, result.quality, *(result.ci95 or ())]).all()


def test_languages_are_drawn_together(judged: dict[str, list[Comparison]]) -> None:
    """A copy of a language adds no certainty to the mean of the languages; an independent one does."""
    name = next(iter(judged))
    rows = judged[name]
    difficulty = estimate_difficulty({other: rows for other, rows in judged.items() if other != name})
    alone = length_controlled(rows, difficulty, resamples=300)
    verdicts = {"en": rows, "es": [replace(row, language="es") for row in rows]}
    both, (mean, interval) = length_controlled_by_language(verdicts, {"en": difficulty, "es": difficulty}, 300)
    assert both["en"] == alone
    assert (mean, *interval) == pytest.approx((alone.win_rate, *(alone.ci95 or ())))
    verdicts["es"] = [replace(row, item=f"other {row.item}") for row in verdicts["es"]]
    _, (mean, narrower) = length_controlled_by_language(verdicts, {}, 300)
    wide = length_controlled(rows, None, resamples=300).ci95
    assert wide is not None
    assert narrower[1] - narrower[0] < 0.85 * (wide[1] - wide[0])


def test_one_language_at_a_time(judged: dict[str, list[Comparison]]) -> None:
    spanish = [Comparison(v.item, "es", v.preference, v.baseline_chars, v.model_chars) for v in judged["m1"]]
    with pytest.raises(ValueError, match=r"\['en', 'es'\]"):
        estimate_difficulty({"m0": judged["m0"], "m1": spanish})


# --- files ---------------------------------------------------------------------------------------------------------

HEADER = "item,preference,baseline_chars,model_chars\n"


def test_reading(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(HEADER + "0,1.75,100,90\n1,,100,90\n2,0,100,\n3,nan,1,1\n", encoding="utf-8")
    rows = read_annotations(path, "es")
    assert rows[0] == Comparison("0", "es", 1.75, 100, 90)
    assert [row.preference for row in rows] == [1.75, None, 1.5, None]
    assert rows[2].model_chars is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "0,2.5,1,1\n", r"m.csv:2: preference is 2.5"),
        (HEADER + "0,2,1,1\n0,2,1,1\n", r"m.csv:3: item 0 occurs twice"),
        (HEADER + "0,yes,1,1\n", r"m.csv:2: preference is 'yes'"),
        (HEADER + "0,2,-1,1\n", r"m.csv:2: baseline_chars is -1"),
        (HEADER + ",2,1,1\n", r"m.csv:2: item is empty"),
        (HEADER + "0,2\n5,oops\n", r"m.csv:3: preference is 'oops'"),
        ("item,preference\n", r"m.csv:1: column baseline_chars is missing"),
        (HEADER, r"m.csv: no annotations"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_annotations(path, "en")


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.write_bytes(b"\xff\xfe\x00"), lambda p: p.mkdir()])
def test_unreadable_files(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "m.csv")
    with pytest.raises(UserError, match=r"m\.csv"):
        read_annotations(tmp_path / "m.csv", "en")
