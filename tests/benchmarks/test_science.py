"""The study's settings load, and the page is made of what was run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.science import load_study, of_world, render, run_name
from benchmarks.science_validation import load_rows, overrides, split
from configs.load import load_config

STUDY = load_study()


def summary(start: float, end: float, english: float = 1.0) -> dict[str, Any]:
    def side(value: float) -> dict[str, Any]:
        groups = {"yes": value, "no": 1.0}
        return {
            "accuracy_greedy": value,
            "accuracy_greedy_by_group": groups,
            "best_over_temperature": value,
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


def test_page_holds_what_was_run_and_no_more(tmp_path: Path) -> None:
    def write(name: str, world: int, seed: int, end: float) -> None:
        folder = tmp_path / run_name(name, world, seed)
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps(summary(0.6, end)))

    write("likelihood", 0, 0, 0.9)
    write("sharpening", 0, 0, 0.7)
    page = render(STUDY, tmp_path)
    assert "| likelihood under the English instruction | 1 | 90.0 | **+30.0** |" in page
    assert "| start | 1 | 60.0 |" in page
    assert "less control: the policy's own likelihood, native prompt | 1 | +20.0 | +20.0 |" in page
    assert "LIDR |" not in page
    assert "## The same where" not in page
    write("likelihood-0.6", 0, 0, 0.65)
    assert "## The same where answers under the English instruction are true at 0.6" in (
        page := render(STUDY, tmp_path)
    )
    assert page.count("| likelihood under the English instruction | 1 | 90.0 |") == 1
    assert "| likelihood under the English instruction, 0.6 | 1 | 65.0 |" in page
    for world, end in ((1, 0.8), (2, 0.85)):
        write("likelihood", world, 0, end)
        write("sharpening", world, 0, 0.7)
    page = render(STUDY, tmp_path)
    assert "| 3 | 85.0 | **+25.0** (+20.0 to +30.0) |" in page
    assert "| 3 | +15.0 [+10.0, +20.0] | +20.0, +10.0, +15.0 |" in page
