"""Prompts and preferences in the forms that others publish, in files of every kind."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from pathlib import Path

from benchmarks.fuzz import odd
from benchmarks.fuzz.case import Place, Read, Reader, json_file, rows_file
from benchmarks.fuzz.data_readers import Row, chat, config_of, parquet, with_fields
from benchmarks.fuzz.mutate import spoiled

FORMS: dict[str, list[Row]] = {
    "helpsteer3": [
        {"domain": "general", "language": "english", "context": chat("Hi"), "response1": "a", "response2": "b",
         "overall_preference": n - 1} for n in range(3)
    ],
    "arena": [
        {"question_id": str(n), "winner": winner, "language": "English", "conversation_a": chat("Hi", "a"),
         "conversation_b": chat("Hi", "b")} for n, winner in enumerate(("model_a", "model_b", "tie"))
    ],
    "ultrafeedback": [
        {"prompt": "Hi", "prompt_id": str(n), "messages": chat("Hi", "a"), "chosen": chat("Hi", "a"),
         "rejected": chat("Hi", "b"), "score_chosen": 8.0} for n in range(2)
    ],
    "orca": [{"system": "s" * n, "question": "Hi", "chosen": "a", "rejected": "b"} for n in range(2)],
    "reward-bench": [
        {"id": n, "language": "arb_Arab", "prompt": "Hi", "chosen": "a", "rejected": "b", "chosen_model": "m",
         "rejected_model": "n", "category": "Chat"} for n in range(2)
    ],
    "messages": [{"id": n, "messages": chat("Hi", "Yes", "So?", "No")} for n in range(2)],
    "conversations": [{"id": n, "conversations": [{"from": "human", "value": "Hi"}]} for n in range(2)],
    "alpaca": [{"id": n, "instruction": "Add.", "input": "1", "output": "2"} for n in range(2)],
    "aya": [{"id": n, "inputs": "Hi", "targets": "x", "language": "eng", "script": "Latn"} for n in range(2)],
    "arena-hard": [{"question_id": f"q{n}", "cluster": "c", "prompt": "Hi"} for n in range(2)],
    "language-confusion": [{"prompt": f"Hi {n}", "source": "okapi", "language": "en"} for n in range(2)],
    "plain": [{"id": n, "prompt": "Hi", "language": "en", "system": "Be kind."} for n in range(2)],
}  # fmt: skip
_OF_PREFERENCES = ("helpsteer3", "arena", "ultrafeedback", "orca", "reward-bench")


def contained(rows: list[Row], rng: random.Random, place: Place) -> Path:
    """Rows in a file of some kind, which may be spoiled; or a folder as `datasets` saves it."""
    kind = rng.choice((".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv", ".csv.gz", ".parquet", "saved"))
    if kind == "saved":
        data = _arrow(rows)
        place.write("saved/data-00000-of-00001.arrow", data if rng.random() < 0.5 else spoiled(data, data[::-1], rng))
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": None}
        return place.write("saved/state.json", json_file(state, rng)).parent
    if kind.startswith((".csv", ".tsv")):
        data = _delimited(rows, "\t" if kind.startswith(".tsv") else ",", rng)
    elif kind == ".parquet":
        data = parquet(rows, rng)
    else:
        data = json_file(rows, rng) if kind == ".json" else rows_file(rows, rng)
    if kind.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
        data = data if rng.random() < 0.5 else spoiled(data, data[::-1], rng)
    return place.write(f"a{kind}", data)


def _arrow(rows: list[Row]) -> bytes:
    import pyarrow as pa

    sink = io.BytesIO()
    table = pa.Table.from_pylist([{name: str(value) for name, value in row.items()} for row in rows])
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _delimited(rows: list[Row], delimiter: str, rng: random.Random) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    table = [list(rows[0]), *([json.dumps(v) if isinstance(v, list) else v for v in row.values()] for row in rows)]
    row = rng.choice(table)
    change = rng.randrange(5)
    if change == 0:
        row[rng.randrange(len(row))] = rng.choice(odd.TEXTS)
    elif change == 1:
        row.append("x")
    elif change == 2:
        row.clear()
    for one in table:
        writer.writerow(str(cell).encode("utf-8", "surrogatepass").decode("utf-8", "replace") for cell in one)
    data = out.getvalue().encode()
    return data if change < 4 else spoiled(data, b'"\r,\0', rng)


def _forms(rng: random.Random, place: Place) -> Read:
    from rollout.preferences import digest, read_preferences
    from rollout.prompts import PromptSet

    name = rng.choice(list(FORMS))
    path = contained([dict(row) for row in FORMS[name]], rng, place)
    codes = rng.choice(([], ["en", "ar"]))
    form = rng.choice(("auto", "auto", "plain", name if name != "conversations" else "messages"))
    if name in _OF_PREFERENCES:
        config = with_fields(config_of(place.root, "offline"), "offline", path=str(path), format=form)
        config = with_fields(config, "languages", codes=codes)
        return lambda: digest(read_preferences(config).rows)
    config = with_fields(config_of(place.root, "online"), "prompts", train=str(path), format=form)
    config = with_fields(config, "languages", codes=rng.choice((["en"], ["en", "es"])))
    config = with_fields(config, "prompts", incomplete=rng.choice(("refuse", "leave_out")))
    return lambda: PromptSet.from_config(config, "train")


READERS = (Reader("forms", "data", 9, _forms),)
