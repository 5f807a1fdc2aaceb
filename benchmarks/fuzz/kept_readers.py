"""What earlier commands left and another may have touched: verdicts, caches, results, folders of models and runs."""

from __future__ import annotations

import json
import random
import sqlite3
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.fuzz import odd
from benchmarks.fuzz.case import Place, Read, Reader, json_file, rows_file
from benchmarks.fuzz.mutate import plain, spoiled

_KEYS = [bytes([n]) * 32 for n in range(3)]
_CELLS: tuple[Any, ...] = (None, b"\xff", b"", "x", "", "\0", 0.5, -1, 7, 2**63 - 1, float("inf"), "0.5", "z" * 999)


def spoil(path: Path, rng: random.Random, table: str, keys: list[Any], key: str = "key") -> None:
    """Spoil a sound SQLite file: a cell, the schema, or bytes.

    Args:
        path: The file.
        rng: Draws how.
        table: Of it.
        keys: Of rows that it has.
        key: Their column.
    """
    pick = rng.random()
    if pick < 0.4:
        data = path.read_bytes()
        path.write_bytes(spoiled(data, data[::-1], rng))
        return
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA synchronous=OFF")
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    column = rng.choice(columns)
    changes = (
        f"ALTER TABLE {table} RENAME TO other",
        f"ALTER TABLE {table} RENAME COLUMN {column} TO other",
        f"DROP TABLE {table}",
        f"DROP TABLE {table}; CREATE TABLE {table} (key)",
        f"DROP TABLE {table}; CREATE VIEW {table} AS SELECT 1 AS key",
        f"CREATE VIEW v AS SELECT * FROM {table}",
        f"CREATE TRIGGER t BEFORE INSERT ON {table} BEGIN SELECT RAISE(FAIL, 'no'); END",
        "PRAGMA user_version=7",
        "PRAGMA user_version=-1",
        "PRAGMA journal_mode=DELETE",
    )
    try:
        if pick < 0.75:
            value = rng.choice(_CELLS) if rng.random() < 0.8 else str(plain(odd.scalar(rng)))
            db.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (value, rng.choice(keys)))
        else:
            db.executescript(rng.choice(changes))
    except (sqlite3.Error, UnicodeEncodeError):
        pass  # the schema does not take it, which is as well
    finally:
        db.close()


def _check(sound: bool, found: object) -> None:
    assert sound, f"a damaged row is taken: {str(found)[:200]}"


@cache
def _sound_verdicts(base: Path) -> bytes:
    from judges.cache import Answer, VerdictCache

    path = base / "verdicts.sqlite"
    with VerdictCache(path) as kept:
        for key in _KEYS:
            kept.put(key, "j", "label/1", "en", Answer(0.25, "logprobs", "A", 3, 1))
    return path.read_bytes()


def _verdicts(rng: random.Random, place: Place) -> Read:
    from judges.cache import Answer, VerdictCache

    path = place.write("v.sqlite", _sound_verdicts(place.base))
    spoil(path, rng, "verdicts", _KEYS)

    def read() -> None:
        with VerdictCache(path) as kept:
            for answer in kept.get([*_KEYS, b"new"]).values():
                _check(answer.preference is None or 0 <= answer.preference <= 1, answer)
                _check(isinstance(answer.words, str) and isinstance(answer.source, str), answer)
                _check(answer.prompt_tokens + answer.completion_tokens >= 0, answer)
            kept.put(b"new", "j", "label/1", "en", Answer(None, "", "?", 3, 1))

    return read


@cache
def _sound_answers(base: Path) -> bytes:
    from evaluation.suites.cache import EvalCache
    from evaluation.suites.records import Answer

    path = base / "eval.sqlite"
    with EvalCache.open(path) as kept:
        kept.put_answers({"a": Answer("x", "stop", 3), "b": Answer("y", None, None)})
        kept.put_notes("k", {"a": "1", "b": "2"})
    return path.read_bytes()


def _eval_cache(rng: random.Random, place: Place) -> Read:
    from evaluation.suites.cache import EvalCache
    from evaluation.suites.records import Answer

    path = place.write("e.sqlite", _sound_answers(place.base))
    spoil(path, rng, rng.choice(("answers", "notes")), ["a", "b"])

    def read() -> None:
        with EvalCache.open(path) as kept:
            for answer in kept.get_answers(["a", "b", "c"]).values():
                _check(isinstance(answer.text, str) and isinstance(answer.finish, str | None), answer)
                _check(answer.tokens is None or isinstance(answer.tokens, int), answer)
            for note in kept.get_notes("k", ["a", "b"]).values():
                _check(isinstance(note, str), note)
            kept.put_answers({"d": Answer("x")})
            kept.put_notes("k", {"d": "1"})
            kept.forget("k")

    return read


def _others(rng: random.Random, place: Place) -> Read:
    from evaluation.suites.verdicts import read_others
    from evaluation.winrate import win_rates

    result: dict[str, Any] = {"suite": "custom", "against": {"answers": "abc"}, "figures": {}}
    row = {"language": "en", "preference": 1.5, "inconsistent": False, "baseline_chars": 90, "model_chars": 70}
    place.write("result.json", json_file(result, rng) if rng.random() < 0.3 else json.dumps(result).encode())
    place.write("verdicts.jsonl", rows_file([row | {"id": n} for n in range(3)], rng))

    def read() -> None:
        for verdicts in read_others([place.folder], "custom", "abc").values():
            win_rates(verdicts, resamples=20)

    return read


def _sources(rng: random.Random, place: Place) -> Read:
    from actors.plan.preflight import check_model
    from actors.reward.reward_model import check_reward_model
    from configs.model_config import longest_context
    from evaluation.suites.sources import resolve

    config: dict[str, Any]
    if rng.random() < 0.6:
        config = {"model_type": "llama", "dtype": "float32", "max_position_embeddings": 512}
        config |= {"text_config": {"dtype": "bfloat16"}, "num_labels": 1, "id2label": {"0": "x"}}
        config["architectures"] = ["LlamaForSequenceClassification"]
        place.write("config.json", json_file(config, rng))
        place.write("model.safetensors", b"")
    else:
        config = {"model": {"policy": "x", "dtype": "float32", "add_bos": False}, "run": {"name": "r"}}
        place.write("config.yaml", json_file(config, rng))
    given = str(place.folder) if rng.random() < 0.97 else place.strange(rng)

    def read() -> None:
        source = resolve(given, "MODEL")
        if source.folder is not None and source.folder.resolve() == place.folder.resolve():
            longest_context(source.folder)
            check_model(source.folder, "model.policy")
            check_reward_model(source.folder)

    return read


READERS = (
    Reader("verdicts", "data", 4, _verdicts),
    Reader("evaluation cache", "data", 3, _eval_cache),
    Reader("earlier evaluations", "data", 3, _others),
    Reader("model and run folders", "data", 3, _sources, slow=True),
)
