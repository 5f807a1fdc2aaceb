"""Study files: what is accepted, which configs come out, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import UserError
from configs.study import line_of, load_study

BASE = """
extends: likelihood.yaml
evaluation: {languages: [it]}
"""
STUDY = """
name: small
base: base.yaml
seeds: [0, 3]
set: [schedule.rounds=1]
axes:
  method:
    dpo: []
    ipo: [learner.objective=ipo]
  data:
    one: ["languages.quota={pairs_per_round: {de: 4}}"]
    all: ["languages.quota={pairs_per_round: 10}"]
rows:
  more: {title: more of it, set: [rollout.samples_per_prompt=9]}
contrasts:
  - question: Is it better?
    first: [ipo-one, ipo-all]
    second: [dpo-one, dpo-all]
    languages: unseen
"""


def written(folder: Path, text: str) -> Path:
    (folder / "base.yaml").write_text(BASE, encoding="utf-8")
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_are_the_product_of_the_axes_and_those_beside_it(tmp_path: Path) -> None:
    study = load_study(written(tmp_path, STUDY))
    assert [row.name for row in study.rows] == ["dpo-one", "dpo-all", "ipo-one", "ipo-all", "more"]
    row = study.rows[2]
    assert row.overrides[:2] == ("schedule.rounds=1", "learner.objective=ipo")
    assert (row.config.learner.objective, row.config.schedule.rounds) == ("ipo", 1)
    assert (row.config.run.name, row.config.run.dir) == ("ipo-one-s0", Path("runs/studies/small"))
    assert row.trains_on == {"de"}
    assert study.rows[1].trains_on == {"de", "es", "fr", "ru", "sw"}
    assert study.rows[4].title == "more of it"
    assert [(row.name, seed) for row, seed in study.runs()][4:6] == [("more", 0), ("dpo-one", 3)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[ipo-one, ipo-all]", "[ipo-one, ipo-al]", r"line 17: contrasts.0.first.1: 'ipo-al' is no row .*dpo-one"),
        ("second: [dpo-one, dpo-all]", "second: [dpo-one]", r"line 18: contrasts.0.second: has 1 rows and first 2"),
        ("second: [dpo-one, dpo-all]", "second: [dpo-one, ipo-all]", "compared with itself"),
        ("languages: unseen", "languages: xx", r"line 19: contrasts.0.languages: 'xx' is not evaluated by row"),
        ("languages: unseen", "languages: uk", r"'uk' is not evaluated by row 'ipo-one' \(evaluated: de, en"),
        ("  more: {", "  dpo-one: {", "'dpo-one' is the name of two rows"),
        ("samples_per_prompt=9", "sample_per_prompt=9", r"line 14: rows.more: .*rollout.sample_per_prompt: unknown"),
        ("rollout.samples_per_prompt=9", "run.seed=3", r"line 14: rows.more: 'run.seed=3': a study sets this itself"),
        (
            "set: [rollout.samples_per_prompt=9]",
            'set: [prompts.heldout=null, "evaluation.languages=[]"]',
            "rows.more: prompts.heldout is not set",
        ),
        ("    ipo: [learner.objective=ipo]", "    ipo: []", "'ipo-one' has the same config as 'dpo-one'"),
        ("seeds: [0, 3]", "seeds: [3, 3]", "line 4: seeds: a seed is named twice"),
        ("base: base.yaml", "base: basis.yaml", "no such config file"),
        ("    languages: unseen", "    measure: artefacts", "line 19: contrasts.0.measure: artefacts: row 'ipo-one'"),
        ("    languages: unseen", "    measure: judged", "line 19: contrasts.0.measure: judged: row 'ipo-one' has no"),
        ("question: Is it better?", "querstion: Is it better?", "line 16: contrasts.0.querstion: unknown field"),
        ("name: small", "name: [", "not valid YAML"),
        (STUDY, "- 1", "expected fields such as name"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in STUDY
    with pytest.raises(UserError, match=message):
        load_study(written(tmp_path, STUDY.replace(old, new)))


def test_a_question_about_unseen_languages_needs_one(tmp_path: Path) -> None:
    path = written(tmp_path, STUDY)
    (tmp_path / "base.yaml").write_text("extends: likelihood.yaml\nlanguages: {shares: {en: 1.0}}\n", encoding="utf-8")
    with pytest.raises(UserError, match="unseen: every evaluated language is trained on"):
        load_study(path)


def test_lines_are_those_of_the_deepest_part_that_is_there() -> None:
    text = "a:\n  - b: 1\n  - c: {d: 2,\n      e: 3}\n"
    assert line_of(text, ["a", "1", "c", "e"]) == 4
    assert line_of(text, ["a", "1", "x"]) == 3
    assert line_of(text, ["y"]) is None


def test_the_study_of_dang_loads_and_has_the_rule_of_the_translator() -> None:
    from worlds.build import LANGUAGES_DIR
    from worlds.languages import load_languages
    from worlds.translator import load_fillers

    study = load_study(Path("configs/studies/dang.yaml"))
    assert len(study.rows) == 13
    assert len(study.config.seeds) == 3
    fillers = load_fillers(load_languages(LANGUAGES_DIR))
    for row in study.rows:
        assert row.config.evaluation.markers == {code: one.patterns for code, one in fillers.items()}
        assert len(row.config.evaluated) == 10
        assert row.config.learner.learning_rate == study.rows[0].config.learner.learning_rate
    sizes = {}
    for row in study.rows:
        quota = row.config.languages.quota
        assert quota is not None
        pairs = quota.pairs_per_round
        sizes[row.name] = pairs if isinstance(pairs, int) else sum(pairs.values())
    assert {name: size for name, size in sizes.items() if size != 144} == dict.fromkeys(
        ("offline-ML-6-full", "online-ML-6-full", "rloo-ML-6-full"), 6 * 144
    )
