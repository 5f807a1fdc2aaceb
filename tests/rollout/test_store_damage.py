"""A journal on a disk that errs: what flipped is noticed and named, and what is lost can be made again."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.train.resume import rewind
from cli import export
from configs.errors import UserError
from rollout.identity import comparable_config, config_digest
from rollout.records import Candidate, SampleGroup, Score
from rollout.store import Store
from rollout.store_checksum import DamagedRow, row_checksum
from rollout.store_export import export_parquet
from rollout.store_schema import SCHEMA
from tests.kits.rollout import candidate, make_config
from tests.rollout.test_store import pair

FLIPS = 250
ROUNDS = (1, 2, 3)
CONFIG = make_config()


def answers(round: int, number: int) -> list[Candidate]:
    return [candidate(f"p{number}", sample=s, round=round, text=f"añ\0o 🦜 {round} {s}") for s in range(3)]


def fill(path: Path) -> None:
    """Three rounds: pairs, sample groups, and one that is sampled and not yet paired."""
    with Store.open(path, config_digest(CONFIG), comparable_config(CONFIG), "demo") as store:
        for round in ROUNDS:
            for number in range(3):
                rows = answers(round, number)
                store.put_chunk(f"c{number}", round, "answer", rows)
                scores = [Score(c.key, -0.0 if c.key.sample else 1, {"logprob": -0.5}) for c in rows]
                judged = [replace(c, gate="empty", detected_language="es") for c in rows]
                store.put_scores(round, f"c{number}", scores, judged)
            store.set_round_state(round, "scored", {"alphas": {"es": 0.1}})
        store.put_pairs(1, [pair(f"p{n}", chosen_score=1, prompt="¿Q?") for n in range(3)])
        group = SampleGroup("r0002/es/p0", 2, "p0", "es", "¿Q?", ("a", "b"), (1.0, 0.0), 1, (answers(2, 0)[0].key,))
        store.put_groups(2, [group])
        store.put_reference_logprobs(1, {"r0001/es/p0": (-1, -2.5)})
        store.mark_consumed(1, 1)
        for round in (1, 2):
            store.set_round_state(round, "trained", {"loss": 0.5})
        for version in (0, 1):
            store.put_evaluation(version, {"es": 0.25})


def content(store: Store) -> list[Any]:
    """All that a run, the report and an export read."""
    by_round = [
        (
            store.candidates(r),
            store.scores(r),
            store.examples(r),
            store.candidates(r, "c1"),
            store.done_chunks(r, "score"),
        )
        for r in ROUNDS
    ]
    tables = [list(store.table(name, ("round", "language"))) for name in ("candidates", "scores", "pairs", "groups")]
    return [by_round, store.round_states(), store.evaluations(), store.meta(), tables]


def look(path: Path, writing: bool) -> list[Any]:
    if not writing:
        with Store.read(path) as store:
            return content(store)
    with Store.open(path, config_digest(CONFIG), comparable_config(CONFIG), "demo") as store:
        return content(store)


def outcome_of(path: Path, writing: bool) -> tuple[list[Any] | None, str | None]:
    """What is read of the file, or what is said of it."""
    try:
        return look(path, writing), None
    except UserError as error:
        return None, str(error)


def test_every_flipped_byte_is_noticed_or_without_effect(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.sqlite", tmp_path / "store.sqlite"
    fill(whole)
    expected = look(whole, writing=False)
    original = whole.read_bytes()
    chance = random.Random(11)
    noticed = 0
    for number in range(FLIPS):
        place, flip = (
            chance.randrange(len(original)),
            chance.choice((1 << chance.randrange(8), chance.randrange(1, 256))),
        )
        path.write_bytes(original[:place] + bytes([original[place] ^ flip]) + original[place + 1 :])
        found, message = outcome_of(path, writing=number % 2 == 0)
        noticed += message is not None
        assert found == expected or (message or "").startswith(f"{path}: "), (place, flip)
        assert "\n" not in (message or ""), (place, flip)
    assert noticed > FLIPS // 10  # or nothing was hit


def flip_in(path: Path, text: bytes, into: bytes) -> None:
    """Damage every occurrence of a text in the file."""
    data = path.read_bytes()
    assert text in data
    path.write_bytes(data.replace(text, into))


def test_a_damaged_row_is_named_with_its_cure_and_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    fill(path)
    flip_in(path, "🦜 2 1".encode(), "🦜 2 9".encode())
    cure = r"; continue with --resume --from-round 1: "
    key = "round 2, prompt_id p0, language es, source policy, origin es, sample 1"
    row = rf"table candidates, row \({key}\): its checksum"
    with Store.open(path, config_digest(CONFIG), comparable_config(CONFIG)) as store:
        with pytest.raises(DamagedRow, match=f"store.sqlite: {row}.*{cure}"):
            store.candidates(2)
        with pytest.raises(DamagedRow, match=row):
            store.put_scores(2, "again", [], answers(2, 0))
        assert len(store.candidates(1)) == len(store.scores(2)) == 9
        damage: list[UserError] = []
        exported = export_parquet(store, tmp_path / "out", damage)
    import pyarrow.parquet as pq

    assert len(damage) == 3  # one prompt each
    assert pq.read_table(exported["candidates"]).num_rows == 27 - 3
    with pytest.raises(UserError, match="3 damaged rows were left out of the files above, the first one: .*sample 1"):
        export(tmp_path)


def test_an_export_that_finds_no_room_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    fill(path)
    export(tmp_path)
    before = {file.name: file.read_bytes() for file in (tmp_path / "export").iterdir()}
    assert len(before) == 4
    (tmp_path / "export" / ".candidates.parquet.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"export: cannot be written .*--out"):
        export(tmp_path)
    assert {file.name: file.read_bytes() for file in (tmp_path / "export").iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/out: cannot be written \(Not a directory\)"):
        export(tmp_path, tmp_path / "file" / "out")


def test_going_back_a_round_drops_what_is_damaged_and_it_can_be_made_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    path = run / "store.sqlite"
    fill(path)
    with Store.read(path) as store:
        expected = content(store)
    for old, new in (("🦜 2 1", "🦜 2 9"), ("🦜 3 0", "🦜 3 9"), ('"loss": 0.5', '"loss": 0.7')):
        flip_in(path, old.encode(), new.encode())
    lines = rewind(CONFIG, run, 0)
    assert lines == [
        "damaged in the journal, or made from what was: 18 of candidates, 18 of scores, 2 of rounds; dropped, and made "
        "again"
    ]
    assert rewind(CONFIG, run, 0) == []
    with Store.open(path, config_digest(CONFIG), comparable_config(CONFIG)) as store:
        assert store.round_states() == {3: ("planned", {"alphas": {"es": 0.1}})}  # the others begin from nothing too
        assert store.done_chunks(2, "answer") == store.done_chunks(2, "score") == set()
        assert store.done_chunks(1, "answer") == {"c0", "c1", "c2"}
        assert [one.id for one in store.examples(1)] == [one.id for one in expected[0][0][2]]
    fill(path)  # as a run that continues does: what is still there is not written twice
    with Store.read(path) as store:
        assert content(store) == expected


def test_a_journal_of_version_1_is_read_and_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    fill(path)
    with sqlite3.connect(path) as db:
        for table in ("meta", "chunks", "candidates", "scores", "pairs", "groups", "rounds", "evaluations"):
            db.execute(f"ALTER TABLE {table} DROP COLUMN checksum")
        for column in ("logprobs", "model"):
            db.execute(f"ALTER TABLE candidates DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 1")
        made = {sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
        fresh = sqlite3.connect(":memory:")
        fresh.executescript(SCHEMA)
        assert made == {sql for (sql,) in fresh.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    db.close()
    expected = look(path, writing=False)
    with Store.open(path, config_digest(CONFIG), comparable_config(CONFIG)) as store:
        assert {**content(store)[3], "rows_without_checksum": "1"} == store.meta()
        assert [one for place, one in enumerate(content(store)) if place != 3] == [
            one for place, one in enumerate(expected) if place != 3
        ]
        store.put_chunk("new", 3, "answer", [candidate("p9", round=3, text="only new rows carry one")])
    flip_in(path, b"only new rows", b"only old rows")
    flip_in(path, "🦜 1 1".encode(), "🦜 1 9".encode())
    with Store.read(path) as store:
        assert len(store.candidates(1)) == 9  # unchecked, as it always was
        with pytest.raises(DamagedRow, match="prompt_id p9"):
            store.candidates(3)


def test_a_row_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    fill(path)
    with sqlite3.connect(path) as db:
        db.create_function("row_checksum", -1, row_checksum)
        db.execute("UPDATE rounds SET data = '[1', checksum = row_checksum(round, state, '[1') WHERE round = 2")
        db.execute("UPDATE scores SET parts = '', checksum = NULL WHERE round = 1")
    db.close()
    with Store.read(path) as store:
        with pytest.raises(
            DamagedRow, match=r"table rounds, row \(round 2\): it cannot be read \(JSONDecodeError.*-round 1:"
        ):
            store.round_states()
        with pytest.raises(DamagedRow, match=r"table scores, row \(round 1.*its checksum does not match.*-round 0:"):
            store.scores(1)  # no checksum is one that does not match, where all rows have one


def test_the_checksum_tells_types_and_borders_apart() -> None:
    rows = [
        ("a", "bc"),
        ("ab", "c"),
        (b"a", "bc"),
        (1, 2),
        (1.0, 2),
        (12,),
        ("1", 2),
        (None, "a"),
        ("", "a"),
        (1, None),
    ]
    assert len({row_checksum(*row) for row in rows}) == len(rows)
    assert row_checksum(-0.0) == row_checksum(0.0) != row_checksum(0)
    assert row_checksum(float("nan")) == row_checksum(None)
    assert all(-(1 << 63) <= row_checksum(n) < 1 << 63 for n in range(100))
