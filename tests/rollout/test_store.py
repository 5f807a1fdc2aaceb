"""The journal: idempotent, exact, durable, and clear about what it refuses."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.errors import UserError
from configs.schema import Config
from rollout.identity import comparable_config, config_digest, differing_fields
from rollout.records import Candidate, CandidateKey, Pair, Score
from rollout.store import Store, StoreConflict
from rollout.store_export import export_parquet
from rollout.token_ids import TokenIds
from tests.kits.rollout import candidate, make_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "run" / "store.sqlite", "digest") as opened:
        yield opened


def chunk(size: int = 4, prompt_id: str = "p0", **fields: Any) -> list[Candidate]:
    return [candidate(prompt_id, sample=s, text=f"text {s}", **fields) for s in range(size)]


def pair(name: str = "p0", **fields: Any) -> Pair:
    one, two = candidate(name, sample=0), candidate(name, sample=1)
    made = Pair(f"r0001/es/{name}", 1, name, "es", "mined", "¿Q?", "sí", "no", 1.5, -0.25, 0, one.key, two.key)
    return replace(made, **fields)


def test_chunks_come_back_exactly(store: Store) -> None:
    rows = [
        candidate(sample=0, text="añ\u0000o 🦜\n", detected_language="es"),
        replace(candidate(sample=1, text="", finish_reason="length"), token_ids=TokenIds((0, 2**32 - 1, 7))),
        candidate(sample=2, text="t", source="translation", origin="en", translation="salvaged"),
    ]
    assert store.put_chunk("c1", 1, "answer", rows)
    assert store.candidates(1) == sorted(rows, key=lambda c: c.key)
    assert store.candidates(1, chunk_id="c2") == []
    assert store.candidates(1, language="es", chunk_id="c1") == store.candidates(1)
    assert store.candidates(2) == []
    assert store.done_chunks(1, "answer") == {"c1"}
    assert store.done_chunks(1, "translate") == set()


def test_repeated_chunk_is_a_no_op_even_after_gates(store: Store) -> None:
    rows = chunk()
    assert store.put_chunk("c1", 1, "answer", rows)
    judged = [replace(rows[0], gate="language", detected_language="en"), *rows[1:]]
    assert store.put_scores(1, "c1", [Score(rows[1].key, 0.5)], judged)
    before = store.counts()
    assert not store.put_chunk("c1", 1, "answer", rows[::-1])
    assert store.counts() == before
    assert store.candidates(1)[0].gate == "language"


@pytest.mark.parametrize("change", [{"text": "other"}, {"weight_version": 1}, {"finish_reason": "length"}])
def test_conflicting_chunk(store: Store, change: dict[str, object]) -> None:
    rows = chunk()
    store.put_chunk("c1", 1, "answer", rows)
    other = [*rows[:3], replace(rows[3], **change)]  # type: ignore[arg-type]
    with pytest.raises(StoreConflict, match="chunk c1: already written with other content"):
        store.put_chunk("c1", 1, "answer", other)
    with pytest.raises(StoreConflict, match="chunk c1"):
        store.put_chunk("c1", 1, "answer", rows[:3])
    with pytest.raises(StoreConflict, match="under another chunk"):
        store.put_chunk("c2", 1, "answer", chunk(1))
    assert store.candidates(1) == rows
    assert store.done_chunks(1, "answer") == {"c1"}


def test_wrong_round_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="not of round 2"):
        store.put_chunk("c1", 2, "answer", chunk())
    with pytest.raises(ValueError, match="not of round 2"):
        store.put_pairs(2, [pair()])


def test_scores_are_exact_and_idempotent(store: Store) -> None:
    rows = chunk()
    store.put_chunk("c1", 1, "answer", rows)
    scores = [Score(c.key, 0.1 * c.key.sample + 1e-17, {"policy_logprob": -1 / 3}) for c in rows]
    assert store.put_scores(1, "c1", scores, rows)
    assert store.scores(1) == scores
    assert not store.put_scores(1, "c1", scores[::-1], rows)
    with pytest.raises(StoreConflict, match="scores of c1"):
        store.put_scores(1, "c1", [replace(scores[0], reward=9.0), *scores[1:]])
    with pytest.raises(StoreConflict, match="gates of c1"):
        store.put_scores(1, "c1", scores, [replace(rows[0], gate="empty")])
    assert store.done_chunks(1, "score") == {"c1"}


def test_bad_scores_leave_nothing_behind(store: Store) -> None:
    store.put_chunk("c1", 1, "answer", chunk())
    with pytest.raises(ValueError, match="not finite"):
        store.put_scores(1, "c1", [Score(chunk()[0].key, math.nan)])
    with pytest.raises(StoreConflict, match="1 candidates are not in the journal"):
        store.put_scores(1, "c1", [Score(chunk()[0].key, 1.0)], [candidate("p9")])
    assert store.scores(1) == []
    assert store.done_chunks(1, "score") == set()


def test_pairs_reference_and_consumption(store: Store) -> None:
    pairs = [pair("p0"), pair("p1", chosen_key=None, rejected_key=None, source="anchor")]
    assert store.put_pairs(1, pairs)
    assert store.pairs(1) == pairs
    assert store.put_reference_logprobs(1, {pairs[0].id: (-1.25, -3.5)})
    assert not store.put_reference_logprobs(1, {pairs[0].id: (-1.25, -3.5)})
    assert store.pairs(1)[0].reference_rejected == -3.5
    assert not store.put_pairs(1, pairs)
    with pytest.raises(StoreConflict, match="reference log-probabilities"):
        store.put_reference_logprobs(1, {pairs[1].id: (0.0, 0.0), pairs[0].id: (-1.0, -3.5)})
    assert store.pairs(1)[1].reference_chosen is None  # the whole call was undone
    with pytest.raises(StoreConflict, match="not among the pairs of round 1"):
        store.put_reference_logprobs(1, {"r0001/es/nope": (0.0, 0.0)})
    with pytest.raises(StoreConflict, match="pairs of round 1"):
        store.put_pairs(1, pairs[:1])
    assert store.mark_consumed(1, 1) == 2
    assert store.mark_consumed(1, 1) == 0
    with pytest.raises(StoreConflict, match="consumed by version 1, now by 2"):
        store.mark_consumed(1, 2)
    assert store.counts()["consumed"] == 2


def test_a_round_without_pairs_is_remembered(store: Store) -> None:
    assert store.put_pairs(3, [])
    assert not store.put_pairs(3, [])
    with pytest.raises(StoreConflict):
        store.put_pairs(3, [pair(round=3)])


def test_round_states_and_evaluations(store: Store) -> None:
    assert store.round_state(1) is None
    store.set_round_state(1, "planned", {"seconds": 1.5})
    store.set_round_state(1, "generated", {"alphas": {"es": 0.1}})  # as earlier versions called it
    assert store.round_state(1) == ("scored", {"seconds": 1.5, "alphas": {"es": 0.1}})
    assert store.put_evaluation(0, {"a": [1, 2]})
    assert not store.put_evaluation(0, {"a": [1, 2]})
    with pytest.raises(StoreConflict, match="evaluation after round 0"):
        store.put_evaluation(0, {"a": [1]})
    assert store.evaluations() == {0: {"a": [1, 2]}}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=15))
def test_any_sequence_of_repeated_writes_gives_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int]]
) -> None:
    sizes: dict[int, int] = {}
    with Store.open(tmp_path_factory.mktemp("s") / "store.sqlite", "d") as store:
        for number, size in writes:
            rows = chunk(size, f"p{number}")
            if sizes.setdefault(number, size) == size:
                store.put_chunk(f"c{number}", 1, "answer", rows)
            else:
                with pytest.raises(StoreConflict):
                    store.put_chunk(f"c{number}", 1, "answer", rows)
        assert store.candidates(1) == [c for n in sorted(sizes) for c in chunk(sizes[n], f"p{n}")]
        assert store.done_chunks(1, "answer") == {f"c{n}" for n in sizes}


def test_reopening_checks_the_config(tmp_path: Path) -> None:
    path = tmp_path / "demo" / "store.sqlite"
    one, two = make_config(), make_config(learner__beta=0.2, languages__shares={"es": 0.5})
    with Store.open(path, config_digest(one), comparable_config(one), "demo") as store:
        store.put_chunk("c1", 1, "answer", chunk())
    with Store.open(path, config_digest(one), comparable_config(one)) as store:
        assert store.candidates(1) == chunk()
        assert store.meta()["run_name"] == "demo"
    with pytest.raises(UserError) as caught:
        Store.open(path, config_digest(two), comparable_config(two))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'demo'}: this run folder was begun with another config")
    assert "learner.beta: 0.1 -> 0.2" in message
    assert "languages.shares.es: null -> 0.5" in message
    assert "set run.name to another name" in message


def bounded(bound: float | None, first: int) -> Config:
    return make_config(reward__upper_bound=bound, reward__upper_bound_from_round=first)


def test_the_bound_of_a_round_without_pairs_may_change(tmp_path: Path) -> None:
    path = tmp_path / "demo" / "store.sqlite"

    def reopen(config: Config) -> Store:
        return Store.open(path, config_digest(config), comparable_config(config))

    with reopen(bounded(None, 1)) as store:
        store.set_round_state(1, "paired")
        store.set_round_state(2, "scored")
    for accepted in (bounded(500.0, 2), bounded(200.0, 2), bounded(200.0, 3), bounded(500.0, 2)):
        reopen(accepted).close()
    with pytest.raises(UserError, match=r"reward\.upper_bound_from_round: 2 -> 1"):
        reopen(bounded(500.0, 1))
    with reopen(bounded(500.0, 2)) as store:
        store.set_round_state(2, "paired")
    with pytest.raises(UserError, match=r"reward\.upper_bound: 500\.0 -> 200\.0"):
        reopen(bounded(200.0, 2))
    reopen(bounded(500.0, 2)).close()


def test_a_run_from_before_a_field_continues_with_its_default(tmp_path: Path) -> None:
    path = tmp_path / "demo" / "store.sqlite"
    config = make_config(languages__shares={"es": 0.5}, learner__deepspeed={"a": {"b": 1}})
    now = comparable_config(config)
    gone = ("reward.upper_bound_from_round", "gates.language", "languages.names", "evaluation.languages")
    before = {name: value for name, value in now.items() if name not in gone}
    with Store.open(path, "digest of that time", before, "demo") as store:
        store.put_chunk("c1", 1, "answer", chunk())
    with Store.open(path, config_digest(config), now) as store:
        assert store.candidates(1) == chunk()
    other = make_config(languages__shares={"es": 0.5}, learner__deepspeed={"a": {"b": 1}}, gates__language=False)
    with pytest.raises(UserError, match=r"\(different: gates\.language: true -> false\)"):
        Store.open(path, config_digest(other), comparable_config(other))


def test_fields_that_do_not_change_results_may_change() -> None:
    free = make_config(schedule__rounds=9, cluster__num_cpus=3, rollout__actors=4, run__dir="/elsewhere")
    assert config_digest(free) == config_digest(make_config())
    assert config_digest(make_config(run__seed=1)) != config_digest(make_config())
    assert differing_fields({}, {"a": 1}) == []


def test_one_writer_and_many_readers(store: Store) -> None:
    store.put_chunk("c1", 1, "answer", chunk())
    with pytest.raises(UserError, match=r"another process \(process id \d+\) is writing to this run folder; wait"):
        Store.open(store.path, "digest")
    with Store.read(store.path) as reader:
        assert reader.candidates(1) == chunk()
        store.put_chunk("c2", 1, "answer", chunk(1, "p1"))
        assert reader.done_chunks(1, "answer") == {"c1", "c2"}
        with pytest.raises(UserError, match="readonly"):
            reader.put_chunk("c3", 1, "answer", chunk(1, "p2"))


def test_files_that_are_no_journal(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.sqlite: no such file; name the folder"):
        Store.read(tmp_path / "none.sqlite")
    garbage = tmp_path / "garbage.sqlite"
    garbage.write_bytes(b"not a database at all " * 500)
    with pytest.raises(UserError, match=r"garbage\.sqlite: the journal cannot be used .*restore it from a backup"):
        Store.open(garbage, "d")
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE t (x)")
    with pytest.raises(UserError, match=r"not a journal of isogloss; set run.name"):
        Store.open(other, "d")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*correct run\.dir"):
        Store.open(blocked / "store.sqlite", "d")


def test_newer_and_damaged_journals(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with Store.open(path, "d") as store:
        for number in range(40):
            store.put_chunk(f"c{number}", 1, "answer", chunk(20, f"p{number}"))
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 3")
    db.close()
    for opened in (lambda: Store.open(path, "d"), lambda: Store.read(path)):
        with pytest.raises(UserError, match=r"newer isogloss \(journal version 3, this one knows 2\); upgrade"):
            opened()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 2")
    db.close()
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = b"\xff" * 4096
    path.write_bytes(content)
    with pytest.raises(UserError, match="the journal cannot be used"):
        Store.open(path, "d")


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from rollout.store import Store
from tests.kits.rollout import candidate
store = Store.open(Path({path!r}), "d")
number = len(store.done_chunks(1, "answer"))
while True:
    rows = [candidate(f"p{{number}}", sample=s, text="x" * 400) for s in range(50)]
    store.put_chunk(f"c{{number}}", 1, "answer", rows)
    print(number, flush=True)
    number += 1
"""


def test_a_killed_writer_leaves_whole_chunks_only(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    code = WRITER.format(root=str(ROOT), path=str(path))
    acknowledged = -1
    for delay in (0.05, 0.11, 0.17):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = process.stdout.readline()
        assert int(first) == acknowledged + 1, "the writer continues after the last chunk"
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        lines = process.stdout.read().splitlines()
        process.wait()
        with Store.open(path, "d") as store:
            done = store.done_chunks(1, "answer")
            acknowledged_now = int(lines[-1]) if lines else int(first)
            assert {f"c{n}" for n in range(acknowledged_now + 1)} <= done
            assert len(done) <= acknowledged_now + 2  # one may have been written and not yet printed
            assert store.counts()["candidates"] == 50 * len(done)
            assert all(len(store.candidates(1, chunk_id=name)) == 50 for name in done)
            acknowledged = len(done) - 1
    assert acknowledged > 3


def test_threads_share_a_store(store: Store) -> None:
    def write(number: int) -> None:
        for step in range(10):
            store.put_chunk(f"c{number}/{step}", 1, "answer", chunk(5, f"p{number}-{step}"))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.counts()["candidates"] == 200


def test_parquet(store: Store, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    rows = chunk()
    store.put_chunk("c1", 1, "answer", rows)
    store.put_scores(1, "c1", [Score(c.key, 0.5, {"a": 1.0}) for c in rows], rows)
    store.put_pairs(1, [pair()])
    store.mark_consumed(1, 1)
    files = export_parquet(store, tmp_path / "out")
    candidates = pq.read_table(files["candidates"]).to_pylist()
    assert [row["text"] for row in candidates] == [c.text for c in rows]
    assert candidates[0]["token_ids"] == list(rows[0].token_ids)
    assert pq.read_table(files["scores"]).column("reward").to_pylist() == [0.5] * 4
    only = pq.read_table(files["pairs"]).to_pylist()[0]
    assert (only["chosen"], only["consumed_version"], only["reference_chosen"]) == ("sí", 1, None)
    with Store.open(tmp_path / "empty.sqlite", "d") as empty:
        assert pq.read_table(export_parquet(empty, tmp_path / "none")["pairs"]).num_rows == 0


def test_writes_are_fast(store: Store) -> None:
    """A guard against a commit per row: 8,000 candidates in far less than the minute that would take."""
    began = time.perf_counter()
    for number in range(4):
        rows = [
            Candidate(
                CandidateKey(1, f"p{number}-{i}", "es", "policy", "es", 0), "x" * 500, TokenIds(range(100)), "stop", 0
            )
            for i in range(2000)
        ]
        store.put_chunk(f"c{number}", 1, "answer", rows)
    assert time.perf_counter() - began < 10
