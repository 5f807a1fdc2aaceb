"""``isogloss status`` and ``isogloss pairs``, and the pace of a stage: what a person reads of a run."""

from __future__ import annotations

import fcntl
import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import actors.observe.screen
from actors.observe.rates import Rates
from actors.observe.screen import Screen
from cli import app
from configs.errors import UserError
from configs.load import dump_yaml
from evaluation.status import heldout_line, pair_lines, status_lines
from rollout.records import Message, Pair
from rollout.store import Store
from tests.kits.rollout import candidate, make_config

GATES = {"en": {"ok": 11, "truncated": 1}, "sw": {"ok": 8, "language": 4}}


def pair(n: int, language: str, text: str = "good") -> Pair:
    prompt = (Message("system", "Be kind."), Message("user", f"Q{n}"))
    return Pair(f"r0001/{language}/p{n}", 1, f"p{n}", language, "mined", prompt, text, "bad", 2.5, 1.0, 0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    config = make_config(languages={"codes": ["en", "sw"]}, schedule={"rounds": 3})
    (folder / "config.yaml").write_text(dump_yaml(config))
    with Store.open(folder / "store.sqlite", "digest", {}, run_name="mine") as store:
        store.put_pairs(1, [pair(n, code) for code in ("en", "sw") for n in range(4)])
        for state in ("scored", "paired", "referenced", "trained", "done"):
            store.set_round_state(1, state)
        store.put_chunk("r0002/answer/sw/0000", 2, "answer", [candidate("p0", "sw", round=2)])
        store.set_round_state(2, "planned")
    counts = {"pairs": 8, "candidates": 24, "gates": {"policy": GATES}}
    row = {"round": 1, "counts": counts, "learner": {"reward_accuracy": 0.75}, "seconds": {"wall": 12.4}}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def test_where_a_run_stands(run: Path) -> None:
    shown = "\n".join(status_lines(run))
    assert shown.startswith("mine  (reward implicit; en, sw)\n  state      not running; isogloss train CONFIG --resume")
    assert "  rounds     1 of 3 done; round 2 is planned\n" in shown
    assert "  waits for  sampling answers and scoring them (1 chunks answered)\n" in shown
    assert "  round 1    pairs 8  candidates 24  reward accuracy 0.75  seconds 12\n" in shown
    assert shown.endswith("  gated      sw 4, en 1")
    with (run / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "  state      running; last wrote " in "\n".join(status_lines(run))
    assert "not running" in "\n".join(status_lines(run))


def test_a_finished_run(run: Path) -> None:
    with Store.open(run / "store.sqlite", "digest", {}, run_name="mine") as store:
        for round in (2, 3):
            for state in ("planned", "scored", "paired", "referenced", "trained", "done"):
                store.set_round_state(round, state)
    (run / "summary.json").write_text(json.dumps({"rounds": 3}))
    shown = status_lines(run, now=4e9)
    assert shown[1].startswith("  state      finished; last wrote ")
    assert shown[1].endswith(" d ago")
    assert shown[2] == "  rounds     3 of 3 done"


def test_pairs_to_read(run: Path) -> None:
    result = CliRunner().invoke(app, ["pairs", str(run), "--language", "Swahili", "--count", "2"])
    lines = result.output.splitlines()
    assert lines[0] == "round 1: 2 of 4 pairs in sw"
    assert lines[2] == "r0001/sw/p0  (mined, sw, margin 1.5)"
    assert lines[3:7] == ["  prompt    system: Be kind.", "            user: Q0", "  chosen    good", "  rejected  bad"]
    assert "r0001/sw/p2" in result.output
    with pytest.raises(UserError, match="--language fr: round 1 has no pair in it; there are en, sw"):
        pair_lines(run, "fr", None, 5)
    with pytest.raises(UserError, match="no pairs in round 2; the run has rounds 1, 2"):
        pair_lines(run, None, 2, 5)
    with pytest.raises(UserError, match=r"store\.sqlite: no such file; name the folder of a run"):
        pair_lines(run / "nowhere", None, None, 5)
    (run / "new").mkdir()
    Store.open(run / "new" / "store.sqlite", "digest", {}, run_name="new").close()
    with pytest.raises(UserError, match="new: no pairs; the run has no rounds"):
        pair_lines(run / "new", None, None, 5)


def test_what_would_steer_a_terminal_is_spelt_out(run: Path) -> None:
    with Store.open(run / "store.sqlite", "digest", {}, run_name="mine") as store:
        store.put_pairs(2, [replace(pair(0, "en", "a\x1b[2Jb\u202ec\r"), round=2, id="r0002/en/p0")])
    assert "  chosen    a\\x1b[2Jb\\u202ec\\r" in pair_lines(run, None, None, 5)


def test_the_pace_of_a_stage() -> None:
    rates = Rates(began=100.0, steps=10, before=10, total=40)
    assert rates.text(101.0) == "10 of 40 chunks"
    rates.steps, rates.candidates, rates.tokens = 20, 400, 12_345
    assert rates.text(110.0) == "20 of 40 chunks, 40 candidates/s, 1,234 tokens/s, about 20 s left"
    assert rates.left(110.0) == 20.0
    assert Rates(0.0, steps=5).text(1.0) == "5 chunks"


def test_a_log_gets_lines_and_a_quiet_screen_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(actors.observe.screen, "LINE_EVERY_S", 0.0)
    for quiet in (False, True):
        screen = Screen(quiet)
        with screen.stage("round 1: sampling and scoring") as progress:
            progress.total(4)
            progress.sampled([candidate("p0", "sw")])
            progress.advance(1)
        screen.result("took 3s")
        out = capsys.readouterr().out
        assert ("1 of 4 chunks, " in out) is not quiet
        assert out.endswith("took 3s\n")
    assert out == "took 3s\n"


def test_without_gold_answers_the_language_is_shown() -> None:
    one = {"accuracy_greedy": 0.5, "accuracy_sampled": None, "right_language": 1.0}
    none = {"accuracy_greedy": None, "accuracy_sampled": None, "right_language": 0.75}
    assert heldout_line({"en": one, "es": none}) == "greedy / sampled accuracy, per cent: en 50.0 / -, es - / -"
    assert heldout_line({"en": none}) == "answers in the right language, per cent: en 75.0"
