"""The study's settings load, and the page is made of what was run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.science.page import render
from benchmarks.science.results import FIGURES, GREEDY, Pool, Result, Results, collect, read, write
from benchmarks.science.study import COMMIT, load_study, of_world, run_name
from benchmarks.science.validation import load_rows, overrides, split
from configs.load import load_config

STUDY = load_study()


def summary(start: float, end: float, *, english: float = 1.0, temperatures: bool = True) -> dict[str, Any]:
    def side(value: float) -> dict[str, Any]:
        groups = {"yes": value, "no": 1.0}
        return {
            "accuracy_greedy": value,
            "accuracy_greedy_by_group": groups,
            "best_over_temperature": value,
            "accuracy_by_temperature": {"0.6": value} if temperatures else {},
            "pass_at_k": 0.9,
        }

    mean = {"start": start, "end": end, "delta_ci95": [end - start - 0.1, end - start + 0.1]}
    return {
        "languages": {
            "en": {"start": side(1.0), "end": side(english)},
            "de": {"start": side(start), "end": side(end)},
            "it": {"start": side(0.1), "end": side(0.1)},
        },
        "unseen_languages": ["it"],
        "non_english_mean": {**mean, "greedy": mean},
        "unseen_mean": {**mean, "greedy": mean},
        "wall_seconds": 12.0,
    }


def test_every_row_is_a_config_that_loads() -> None:
    assert {name for pair in STUDY.contrasts for name in pair} <= set(STUDY.rows)
    assert set(STUDY.core) <= set(STUDY.rows)
    for row in STUDY.rows.values():
        load_config(Path(row.config), row.overrides)
        world = of_world(Path("elsewhere"), row)
        config = load_config(Path(row.config), [*world, *row.overrides])
        assert str(config.model.policy) == "elsewhere/policy"
    assert load_config(Path("configs/likelihood.yaml"), STUDY.rows["no-anchors"].overrides).anchor.path is None
    assert len(STUDY.runs()) == len(set(STUDY.runs())) == 9 * len(STUDY.core) + 3 * (len(STUDY.rows) - len(STUDY.core))
    assert {row.rate for row in STUDY.rows.values()} == {None, *STUDY.dial}
    assert {STUDY.rows[name].rate for name in STUDY.dial[0.6]} == {0.6}


def test_validation_sets_facts_aside_that_no_pair_and_no_anchor_is_about(tmp_path: Path) -> None:
    rows, settings = load_rows()
    left = split(Path("worlds/default"), tmp_path, settings["share"])
    ids = {
        part: {json.loads(line)["id"] for line in (tmp_path / part / "de.jsonl").read_text().splitlines()}
        for part in ("train", "heldout")
    }
    assert left == len(ids["train"]) == 3 * len(ids["heldout"])
    assert not ids["train"] & ids["heldout"]
    world = Path("worlds/default/prompts")
    known = {json.loads(line)["id"] for line in (world / "train" / "de.jsonl").read_text().splitlines()}
    assert ids["train"] | ids["heldout"] == known
    anchors = [
        json.loads(line)["id"].rpartition("-")[0] for line in (tmp_path / "anchor.jsonl").read_text().splitlines()
    ]
    assert set(anchors) == ids["train"]
    for row in rows.values():
        config = load_config(Path(row.config), [*overrides(tmp_path, left, settings), *row.overrides])
        assert config.rollout.prompts_per_round == left


def write_run(folder: Path, name: str, world: int, seed: int, end: float, commit: str = "abc") -> None:
    run = folder / run_name(name, world, seed)
    run.mkdir()
    (run / "summary.json").write_text(json.dumps(summary(0.6, end)))
    (run / COMMIT).write_text(commit)


def page_of(folder: Path, kept: Results | None = None) -> str:
    return render(STUDY, collect(STUDY, folder, kept))


def test_page_holds_what_was_run_and_no_more(tmp_path: Path) -> None:
    write_run(tmp_path, "likelihood", 0, 0, 0.9)
    write_run(tmp_path, "sharpening", 0, 0, 0.7)
    page = page_of(tmp_path)
    assert "| likelihood under the English instruction | 1 | 90.0 | **+30.0** |" in page
    assert "| start | 1 | 60.0 |" in page
    assert "| likelihood under the English instruction less start | 1 | +30.0 | +30.0 |" in page
    assert "less control: the policy's own likelihood, native prompt | 1 | +20.0 | +20.0 |" in page
    assert "LIDR |" not in page
    assert "## The same where" not in page
    write_run(tmp_path, "likelihood-0.6", 0, 0, 0.65)
    write_run(tmp_path, "sharpening-0.6", 0, 0, 0.62)
    page = page_of(tmp_path)
    assert "## The same where answers under the English instruction are true at 0.6" in page
    assert page.count("| likelihood under the English instruction | 1 | 90.0 |") == 1
    assert "| likelihood under the English instruction, 0.6 | 1 | 65.0 |" in page
    assert "native prompt, 0.6 | 1 | +3.0 | +3.0 |" in page
    for world, end in ((1, 0.8), (2, 0.85)):
        write_run(tmp_path, "likelihood", world, 0, end)
        write_run(tmp_path, "sharpening", world, 0, 0.7)
    page = page_of(tmp_path)
    assert "| 3 | 85.0 | **+25.0** (+20.0 to +30.0) |" in page
    assert "| 3 | +15.0 [+10.0, +20.0] | +20.0, +10.0, +15.0 |" in page


def kept_run(seed: int, end: float) -> Result:
    return Result("lidr", 0, seed, "old", {GREEDY: 0.6}, {GREEDY: end}, (0.0, 0.1), 0.05, 9.0)


def test_results_outlive_their_folders_and_a_run_replaces_its_own(tmp_path: Path) -> None:
    write_run(tmp_path, "lidr", 0, 0, 0.9)
    file = tmp_path / "kept.jsonl"
    write(collect(STUDY, tmp_path, Results({("lidr", 0, 1, ""): kept_run(1, 0.8)})), file)
    for path in (tmp_path / run_name("lidr", 0, 0)).iterdir():
        path.unlink()
    assert page_of(tmp_path) == page_of(tmp_path, Results({})) != page_of(tmp_path, read(file))
    kept = read(file)
    assert {key: (result.commit, result.change) for key, result in kept.runs.items()} == {
        ("lidr", 0, 0, ""): ("abc", pytest.approx(0.3)),
        ("lidr", 0, 1, ""): ("old", pytest.approx(0.2)),
    }
    write_run(tmp_path, "lidr", 0, 1, 0.7, "new")
    assert collect(STUDY, tmp_path, kept).runs["lidr", 0, 1, ""].commit == "new"
    write(kept, tmp_path / "again.jsonl")
    assert file.read_text() == (tmp_path / "again.jsonl").read_text()


def test_means_that_were_kept_for_several_runs_count_for_each_until_one_runs_again(tmp_path: Path) -> None:
    pooled = {figure: 0.9 for figure in FIGURES if figure != GREEDY}
    pool = Pool("lidr", ((0, 0, ""), (0, 1, "")), pooled, pooled)
    kept = Results({result.key: result for result in (kept_run(0, 0.8), kept_run(1, 0.9))}, (pool,))
    write_run(tmp_path, "lidr", 0, 2, 0.7)
    file = tmp_path / "kept.jsonl"
    write(collect(STUDY, tmp_path, kept), file)
    found = collect(STUDY, tmp_path, read(file))
    runs = {(0, 0, ""), (0, 1, ""), (0, 2, "")}
    assert found.mean("lidr", "end", GREEDY) == (pytest.approx(0.8), runs)
    assert found.mean("lidr", "end", "sampled") == (pytest.approx((0.9 + 0.9 + 0.7) / 3), runs)
    write_run(tmp_path, "lidr", 0, 1, 0.7)
    assert not collect(STUDY, tmp_path, read(file)).pools
    again = collect(STUDY, tmp_path, read(file))
    assert again.mean("lidr", "end", "sampled") == (pytest.approx(0.7), {(0, 1, ""), (0, 2, "")})


def test_runs_in_another_build_of_a_world_are_paired_with_each_other_alone(tmp_path: Path) -> None:
    def earlier(row: str, end: float) -> Result:
        return replace(kept_run(0, end), row=row, build="earlier build")

    kept = [earlier("lidr", 0.95), earlier("sharpening", 0.65)]
    write(Results({result.key: result for result in kept}), tmp_path / "kept.jsonl")
    write_run(tmp_path, "lidr", 0, 0, 0.9)
    write_run(tmp_path, "sharpening", 0, 0, 0.7)
    page = page_of(tmp_path, read(tmp_path / "kept.jsonl"))
    above, title, below = page.partition("## The same in earlier builds of the worlds")
    contrast = "LIDR less control: the policy's own likelihood, native prompt"
    assert f"{contrast} | 1 | +20.0 | +20.0 |" in above, "one pair a world and seed, of today's build"
    assert f"{contrast} | 1 | +30.0 | +30.0 |" in below
    assert "| LIDR | 1 | 90.0 |" in above
    assert title
    assert "| lidr-w0-s0 (earlier build) | 60.0 | 95.0 |" in below
    kept += [earlier("lidr-shuffled", 0.61)]
    page = page_of(tmp_path, Results({result.key: result for result in kept}))
    assert "LIDR less control: LIDR, its pairs turned round at random | 1 | +34.0 | +34.0 |" in page.partition(title)[0]
    assert "| control: LIDR, its pairs turned round at random | 1 | 61.0 |" in page, "there is no other"
    alone = page_of(tmp_path / "nothing", Results({result.key: result for result in kept}))
    assert "## The same in earlier builds" not in alone, "they are all above"


def test_a_mean_over_other_runs_than_the_rows_says_so(tmp_path: Path) -> None:
    pooled = {figure: 0.9 for figure in FIGURES if figure != GREEDY}
    pool = Pool("lidr", ((0, 0, "earlier build"),), pooled, pooled)
    of_pool = replace(kept_run(0, 0.8), build="earlier build")
    today = kept_run(0, 0.8)
    page = page_of(tmp_path, Results({of_pool.key: of_pool, today.key: today}, (pool,)))
    assert "| LIDR | 1 | 80.0 | **+20.0** | 90.0 (1) |" in page


def test_a_run_without_further_temperatures_has_no_best_of_them(tmp_path: Path) -> None:
    folder = tmp_path / run_name("gold", 0, 0)
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(summary(0.6, 0.8, temperatures=False)))
    assert "| ceiling: gold answers | 1 | 80.0 | **+20.0** |  | 80.0 |" in page_of(tmp_path)
    write_run(tmp_path, "gold", 1, 0, 0.7)
    assert "| ceiling: gold answers | 2 | 75.0 | **+15.0** (+10.0 to +20.0) | 70.0 (1) | 75.0 |" in page_of(tmp_path)
