"""Held-out evaluation and its intervals, against SciPy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from configs.errors import UserError
from configs.load import load_config
from evaluation.heldout import GREEDY, HeldoutResult, heldout_chunks, score_heldout
from evaluation.stats import Clustered, clustered_bootstrap, paired_bootstrap, wilson
from evaluation.summary import build_summary, language_figures
from rollout.language import LanguageDetector
from rollout.prompts import PromptSet
from rollout.records import Candidate
from rollout.token_ids import TokenIds
from tests.kits.rollout import make_config, make_prompts

CONFIG = make_config(evaluation__samples_per_prompt=2, rollout__chunk_prompts=4)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptSet:
    return make_prompts(tmp_path_factory.mktemp("prompts"), CONFIG, 6)


@pytest.fixture(scope="module")
def detector() -> LanguageDetector:
    return LanguageDetector(["en", "es", "fr"])


def answered(prompts: PromptSet, right: dict[str, set[int]], version: int = 0) -> list[Candidate]:
    """Answers of which those with a sample index in ``right[language]`` are right."""
    out = []
    for chunk in heldout_chunks(CONFIG, prompts, version):
        for request in chunk.requests:
            key = request.key
            gold = prompts.get(key.prompt_id, key.language).answer or ""
            text = gold if key.sample in right.get(key.language, set()) else "no"
            out.append(Candidate(key, text, TokenIds((1, 2, 3)), "stop", version))
    return out


def test_requests(prompts: PromptSet) -> None:
    before, after = heldout_chunks(CONFIG, prompts, 0), heldout_chunks(CONFIG, prompts, 3)
    requests = [r for c in before for r in c.requests]
    assert len(requests) == len({r.key for r in requests}) == 6 * 3 * 3
    assert len({c.id for c in before + after}) == len(before + after) == 12
    assert {r.temperature for r in requests if r.key.sample == GREEDY} == {0.0}
    assert {r.temperature for r in requests if r.key.sample != GREEDY} == {1.0}
    assert [r.seed for r in requests] == [r.seed for c in after for r in c.requests]
    assert {r.key.round for c in after for r in c.requests} == {3}
    assert len({r.seed for r in requests}) == len(requests)


def test_accuracy(prompts: PromptSet, detector: LanguageDetector) -> None:
    result = score_heldout(prompts, answered(prompts, {"en": {0, 1, 2}, "es": {1}, "fr": {0}})[::-1], detector)
    figures = {c: (r.accuracy_greedy, r.accuracy_sampled) for c, r in result.languages.items()}
    assert figures == {"en": (1.0, 1.0), "es": (0.0, 0.5), "fr": (1.0, 0.0)}
    assert result.languages["fr"].mean_length == 2.0
    assert result.languages["fr"].mean_length_tokens == 3.0
    assert [row.id for row in result.languages["es"].prompts] == list(prompts.ids)
    assert HeldoutResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_language_fidelity(prompts: PromptSet, detector: LanguageDetector) -> None:
    texts = {1: "La capital del país está junto al mar.", 2: "The capital of the country lies by the sea."}
    answers = [
        Candidate(c.key, texts.get(c.key.sample, "Paris"), TokenIds((1,)), "length", 0) for c in answered(prompts, {})
    ]
    result = score_heldout(prompts, answers, detector).languages
    assert (result["es"].right_language, result["en"].right_language, result["fr"].right_language) == (0.5, 0.5, 0.0)
    assert result["es"].undecided_language == 0.0
    assert result["es"].truncated == 1.0
    short = score_heldout(prompts, answered(prompts, {}), detector).languages["es"]
    assert (short.right_language, short.undecided_language) == (None, 1.0)


def test_without_gold_answers(tmp_path: Path, detector: LanguageDetector) -> None:
    prompts = make_prompts(tmp_path, CONFIG, 3, answers=False)
    result = score_heldout(prompts, answered(prompts, {}), detector)
    assert result.languages["es"].accuracy_sampled is None
    assert result.languages["es"].accuracy_greedy is None
    summary = build_summary(CONFIG, result, result, 0, 1.0)
    assert summary["languages"]["es"]["delta_ci95"] is None
    none = {"start": None, "end": None, "delta_ci95": None}
    assert summary["non_english_mean"] == {**none, "greedy": none}
    json.dumps(summary, allow_nan=False)


def test_incomplete_answers_are_refused(prompts: PromptSet, detector: LanguageDetector) -> None:
    answers = answered(prompts, {})
    with pytest.raises(ValueError, match="incomplete"):
        score_heldout(prompts, answers[1:], detector)
    with pytest.raises(ValueError, match="incomplete: 15 of 18"):
        score_heldout(prompts, answers[9:], detector)
    with pytest.raises(ValueError, match="weight versions"):
        score_heldout(prompts, answers[1:] + answered(prompts, {}, 1)[:1], detector)
    with pytest.raises(ValueError, match="one greedy and one sampled"):
        score_heldout(prompts, [c for c in answers if c.key.sample != GREEDY], detector)


def test_summary(prompts: PromptSet, detector: LanguageDetector) -> None:
    start = score_heldout(prompts, answered(prompts, {"en": {0, 1, 2}, "fr": {1}}), detector)
    end = score_heldout(prompts, answered(prompts, {"en": {0, 1, 2}, "es": {1, 2}, "fr": {1}}, 2), detector)
    summary = build_summary(CONFIG, start, end, 2, 12.5)
    assert summary["languages"]["es"]["start"]["accuracy_sampled"] == 0.0
    assert summary["languages"]["es"]["end"]["accuracy_sampled"] == 1.0
    assert summary["languages"]["es"]["delta_ci95"] == [1.0, 1.0]
    assert summary["languages"]["en"]["delta_ci95"] == [0.0, 0.0]
    sampled = {"start": 0.25, "end": 0.75, "delta_ci95": [0.5, 0.5]}
    greedy = {"start": 0.0, "end": 0.0, "delta_ci95": [0.0, 0.0]}
    assert summary["non_english_mean"] == {**sampled, "greedy": greedy}
    assert (summary["rounds"], summary["weight_version"], summary["wall_seconds"]) == (2, 2, 12.5)
    assert summary["languages"]["en"]["start"]["accuracy_greedy_ci95"][0] == pytest.approx(wilson(6, 6)[0])
    assert build_summary(CONFIG, start, end, 2, 12.5) == summary
    json.dumps(summary, allow_nan=False)


def test_a_lower_temperature_stands_beside_the_gain(tmp_path: Path, detector: LanguageDetector) -> None:
    """Samples 1 and 2 are at temperature 1.0, 3 and 4 at 0.3; es is right at 0.3 alone, fr once at 1.0."""
    config = CONFIG.model_copy(update={"evaluation": CONFIG.evaluation.model_copy(update={"temperatures": [0.3]})})
    prompts = make_prompts(tmp_path, config, 6)
    requests = [request for chunk in heldout_chunks(config, prompts, 0) for request in chunk.requests]
    assert [r.temperature for r in requests][:5] == [0.0, 1.0, 1.0, 0.3, 0.3]
    right = {"en": {0, 1, 2, 3, 4}, "es": {3, 4}, "fr": {2, 3}}
    gold = {key: prompts.get(key.prompt_id, key.language).answer or "" for key in (r.key for r in requests)}
    answers = [
        Candidate(key, text if key.sample in right[key.language] else "no", TokenIds((1,)), "stop", 0)
        for key, text in gold.items()
    ]
    result = score_heldout(prompts, answers, detector, temperatures=config.evaluation.temperatures)
    figures = {code: language_figures(row) for code, row in result.languages.items()}
    assert (figures["es"]["accuracy_sampled"], figures["es"]["pass_at_k"]) == (0.0, 0.0)
    assert (figures["es"]["accuracy_by_temperature"], figures["es"]["best_over_temperature"]) == ({"0.3": 1.0}, 1.0)
    assert (figures["fr"]["accuracy_sampled"], figures["fr"]["pass_at_k"]) == (0.5, 1.0)
    assert figures["fr"]["best_over_temperature"] == 0.5


def test_whole_clusters_are_drawn() -> None:
    """Twelve prompts in three clusters, of which one is gained: the interval is as wide as three coins', not twelve."""
    start, end = np.zeros(12), np.repeat([1.0, 0.0, 0.0], 4)
    together = Clustered(start, end, tuple("aaaabbbbcccc"))
    alone = Clustered(start, end, tuple("abcdefghijkl"))
    wide, narrow = (clustered_bootstrap([one], 20_000, 0) for one in (together, alone))
    assert (wide.delta, narrow.delta) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert wide.ci95 == (0.0, 1.0)
    assert narrow.ci95 == pytest.approx(paired_bootstrap(start, end, 20_000, 1).ci95, abs=0.02)
    # Clusters of unequal size weigh by their prompts; languages weigh alike.
    uneven = Clustered(np.zeros(4), np.array([1.0, 1.0, 1.0, 0.0]), ("a", "a", "a", "b"))
    assert clustered_bootstrap([uneven], 1000, 0).delta == 0.75
    assert clustered_bootstrap([uneven, Clustered(np.zeros(2), np.zeros(2), ("a", "b"))], 1000, 0).delta == 0.375
    with pytest.raises(ValueError, match="do not match"):
        clustered_bootstrap([Clustered(np.zeros(4), np.zeros(4), ("a",))], 100, 0)


def test_groups_and_clusters_come_from_the_prompt_files(tmp_path: Path, detector: LanguageDetector) -> None:
    prompts = make_prompts(tmp_path, CONFIG, 4)
    for code in prompts.languages:
        path = tmp_path / f"{code}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for number, row in enumerate(rows):
            row.update(value=f"v{number // 2}", affected="yes" if number < 2 else "no")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    marked = PromptSet.load(str(tmp_path / "{lang}.jsonl"), CONFIG.languages)
    answers = answered(marked, {"es": {0}})
    answers = [c if c.key.prompt_id in marked.ids[:2] else replace(c, text="no") for c in answers]
    found = score_heldout(marked, answers, detector).languages["es"]
    assert [row.cluster for row in found.prompts] == ["v0", "v0", "v1", "v1"]
    assert language_figures(found)["accuracy_greedy_by_group"] == {"no": 0.0, "yes": 1.0}


def test_answers_with_a_marker_are_counted_by_prompt_and_language(tmp_path: Path, detector: LanguageDetector) -> None:
    prompts = make_prompts(tmp_path, CONFIG, 2)
    first = prompts.ids[0]
    answers = [
        replace(c, text=f"Pues bien, {c.text}") if c.key.prompt_id == first and c.key.sample == 1 else c
        for c in answered(prompts, {"es": {0, 1}})
    ]
    markers = {"es": ["^Pues bien, ", ", al final"], "fr": ["^Eh bien, "]}
    result = score_heldout(prompts, answers, detector, markers=markers).languages
    sampled = len({c.key.sample for c in answers}) - 1
    assert [row.marked for row in result["es"].prompts] == [1 / sampled, 0.0]
    assert language_figures(result["es"])["marked"] == 0.5 / sampled
    assert (result["fr"].marked, result["en"].marked) == (0.0, None)
    data = HeldoutResult(0, result).to_json()
    assert HeldoutResult.from_json(json.loads(json.dumps(data))).languages["es"] == result["es"]
    for row in data["languages"].values():  # as a version before markers wrote it
        del row["marked"]
        for prompt in row["prompts"]:
            del prompt["marked"]
    assert HeldoutResult.from_json(data).languages["es"].prompts[0].marked is None


@pytest.mark.parametrize(
    ("markers", "message"),
    [
        ({"es": ["("]}, r"evaluation.markers.es.0 is no regular expression"),
        ({"es": ["a", "b*"]}, r"evaluation.markers.es.1 is found in an empty answer"),
        ({"es": []}, r"evaluation.markers.es has no pattern"),
        ({"uk": ["x"]}, r"evaluation.markers.uk: is no evaluated language"),
    ],
)
def test_markers_that_count_nothing_are_refused(markers: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(Path("configs/icr.yaml"), [f"evaluation.markers={json.dumps(markers)}"])


def test_bootstrap_is_scipys() -> None:
    rng = np.random.default_rng(1)
    start = rng.binomial(8, 0.5, 120) / 8
    end = np.clip(start + rng.normal(0.1, 0.2, 120), 0, 1)
    ours = paired_bootstrap(start, end, 20_000, 0)
    theirs = stats.bootstrap(
        (start, end),
        lambda a, b, axis: np.mean(b - a, axis=axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert ours.delta == pytest.approx(float(np.mean(end) - np.mean(start)))
    width = theirs.high - theirs.low
    assert abs(ours.ci95[0] - theirs.low) < 0.03 * width
    assert abs(ours.ci95[1] - theirs.high) < 0.03 * width


def test_bootstrap_draws_whole_prompts() -> None:
    """Languages of a prompt move together: drawing cells instead of prompts would halve the width here."""
    rng = np.random.default_rng(3)
    gain = np.repeat(rng.normal(0.1, 0.3, (100, 1)), 4, axis=1)
    ours = paired_bootstrap(np.zeros_like(gain), gain, 4000, 0)
    one = paired_bootstrap(np.zeros(100), gain[:, 0], 4000, 0)
    assert ours.ci95 == pytest.approx(one.ci95)
    cells = paired_bootstrap(np.zeros(400), gain.reshape(-1), 4000, 0)
    assert (cells.ci95[1] - cells.ci95[0]) < 0.6 * (ours.ci95[1] - ours.ci95[0])


def test_bootstrap_covers() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    # The true mean gain: 0.1, less what the clip at 1 takes away under Beta(2, 2).
    truth = 0.1 - float(stats.beta(2, 2).expect(lambda a: max(a - 0.9, 0.0)))
    trials = 1500
    for trial in range(trials):
        ability = rng.beta(2, 2, 80)
        start = rng.binomial(8, ability) / 8
        end = rng.binomial(8, np.clip(ability + 0.1, 0, 1)) / 8
        ci = paired_bootstrap(start, end, 300, trial).ci95
        hits += ci[0] <= truth <= ci[1]
    assert 0.93 <= hits / trials <= 0.97


def test_wilson_covers() -> None:
    """Exactly, over all outcomes: the mean over true shares of the chance that the interval holds them."""
    bounds = np.array([wilson(k, 100) for k in range(101)])
    shares = np.linspace(0.05, 0.95, 91)
    inside = (bounds[:, 0, None] <= shares) & (shares <= bounds[:, 1, None])
    chance = stats.binom.pmf(np.arange(101)[:, None], 100, shares)
    assert 0.94 <= float((inside * chance).sum(axis=0).mean()) <= 0.96


def test_bootstrap_edges() -> None:
    assert paired_bootstrap(np.array([0.5]), np.array([1.0]), 100, 0).ci95 == (0.5, 0.5)
    with pytest.raises(ValueError, match="paired values of shapes"):
        paired_bootstrap(np.zeros(3), np.zeros(2), 100, 0)
    big = paired_bootstrap(np.zeros(5000), np.ones(5000), 2000, 0)  # more than one block of draws
    assert big.ci95 == (1.0, 1.0)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (480, 1000), (1, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_is_scipys(successes: int, trials: int, confidence: float) -> None:
    theirs = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert wilson(successes, trials, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_refuses_nonsense() -> None:
    for successes, trials in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="successes in"):
            wilson(successes, trials)
