"""Prompts, preferences, anchors, suites, answers, annotations and language packs."""

from __future__ import annotations

import io
import random
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from benchmarks.fuzz import odd
from benchmarks.fuzz.case import Place, Read, Reader, json_file, rows_file
from benchmarks.fuzz.mutate import encoded, mutated, plain, spoiled, to_yaml, tree

Row = dict[str, Any]
_QUESTION = "Which instrument does Nadia play?"


def _rows(count: int, **more: Any) -> list[Row]:
    rows: list[Row] = []
    for n in range(count):
        rows.append({"id": f"q{n}" if n % 2 else n, "prompt": f"{_QUESTION} ¿{n}?", "answer": f"Nº {n}"} | more)
    return rows


@cache
def config_of(root: Path, kind: str) -> Any:
    from configs.schema import Config

    values: dict[str, Any] = {"model": {"policy": "x", "reference": "y"}}
    if kind == "offline":
        values["offline"] = {"path": "x.jsonl"}
    else:
        values |= {"languages": {"codes": ["en", "es"]}, "prompts": {"train": "{lang}.jsonl"}}
        values["anchor"] = {"path": "x.jsonl", "pairs_per_round": 2}
    return Config.model_validate(values)


def with_fields(config: Any, section: str, **fields: Any) -> Any:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=fields)})


def _prompts(rng: random.Random, place: Place) -> Read:
    from rollout.prompts import PromptSet

    good = rows_bytes(_rows(3))
    place.write("en.jsonl", rows_file(_rows(3), rng) if rng.random() < 0.7 else good)
    place.write("es.jsonl", rows_file(_rows(3), rng, good) if rng.random() < 0.5 else good)
    pattern = str(place.folder / "{lang}.jsonl")
    if rng.random() < 0.03:
        pattern = rng.choice((place.strange(rng), pattern + "\0", str(place.folder), "{lang}" * 100))
    config = with_fields(config_of(place.root, "online"), "prompts", train=pattern, limit=rng.choice((None, 1)))
    return lambda: PromptSet.from_config(config, "train")


def rows_bytes(rows: list[Row]) -> bytes:
    """Sound JSON lines."""
    from benchmarks.fuzz.mutate import to_json

    return encoded("".join(to_json(tree(row)) + "\n" for row in rows))


def chat(*texts: str) -> list[Row]:
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 3, texts, strict=False)]


def preferences() -> list[Row]:
    return [
        {"id": 1, "language": "en", "prompt": _QUESTION, "chosen": "The saxophone.", "rejected": "The harp."},
        {"id": "b", "prompt": chat(_QUESTION), "chosen": "La flauta.", "rejected": "El arpa."},
        {"chosen": chat("Hi", "Hello."), "rejected": chat("Hi", "Bye.")},
        {
            "prompt": chat("One", "Two", "Three"),
            "chosen": [{"role": "assistant", "content": "Four"}],
            "rejected": "Five",
        },
    ]


def _offline(rng: random.Random, place: Place) -> Read:
    from rollout.preferences import digest, load_preferences, offline_pairs

    rows = preferences()
    if rng.random() < 0.5:
        path = place.write("p.jsonl", rows_file(rows, rng))
    else:
        path = place.write("p.parquet", parquet(rows, rng))
    text = str(path)
    if rng.random() < 0.03:
        text = rng.choice((place.strange(rng), str(place.folder), text + "\0", str(place.folder / "{lang}.jsonl")))
    config = with_fields(config_of(place.root, "offline"), "offline", path=text)

    def read() -> None:
        found = load_preferences(config)
        digest(found)
        offline_pairs(found, None, 1)

    return read


def parquet(rows: list[Row], rng: random.Random) -> bytes:
    import datetime
    import decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [rows[0], rows[0] | {"id": 2}] if rng.random() < 0.5 else rows[-1 if len(rows) < 3 else 2 :][:1] * 2
    columns: dict[str, list[Any]] = {name: [row.get(name) for row in rows] for name in rows[0]}
    table = pa.table(columns)
    if rng.random() < 0.5:
        name = rng.choice(list(columns))
        values: list[Any] = [
            [plain(odd.plain_value(rng)), None], [b"\xff\xfe", b"x"], [datetime.datetime(1, 1, 1), None],
            [datetime.date(9999, 12, 31), None], [decimal.Decimal("1e20"), None], [{"a": {"b": [1]}}, None],
            [datetime.timedelta(days=10**8), None], [float("nan"), 1.0], [2**63 - 1, -(2**63)], [None, None],
            [True, False], [[], [None]],
        ]  # fmt: skip
        try:
            array = pa.array(rng.choice(values))
            if rng.random() < 0.2:
                array = array.dictionary_encode()
        except (pa.ArrowException, UnicodeEncodeError, OverflowError):
            array = pa.array([None, None])
        table = table.set_column(table.column_names.index(name), name, array)
        if rng.random() < 0.3:
            table = table.append_column(rng.choice((*columns, "extra", "")), array)
        if rng.random() < 0.1:
            table = table.slice(0, rng.choice((0, 1)))
    sink = io.BytesIO()
    try:
        pq.write_table(table, sink, compression=rng.choice(("none", "snappy", "zstd", "gzip")))
    except (pa.ArrowException, ValueError):
        return b"PAR1"
    data = sink.getvalue()
    return data if rng.random() < 0.4 else spoiled(data, data[::-1], rng)


def _anchors(rng: random.Random, place: Place) -> Read:
    from rollout.anchors import anchor_pairs, load_anchors
    from rollout.plan import load_untranslated

    config = config_of(place.root, "online")
    if rng.random() < 0.3:
        path = place.write("u.jsonl", rows_file([{"id": 1}, {"id": "b"}], rng))
        config = with_fields(config, "candidates", untranslated_ids=path)
        return lambda: load_untranslated(config)
    rows = [preferences()[0] | {"id": n} for n in range(3)]
    path = place.write("a.jsonl", rows_file(rows, rng))
    if rng.random() < 0.02:
        path = Path(place.strange(rng))
    config = with_fields(config, "anchor", path=path)
    return lambda: anchor_pairs(config, load_anchors(config), 1)


_SUITES: dict[str, list[dict[str, Any]]] = {
    "mgsm": [{"query": "Tom has 3 apples and 4 pears. How many?", "response": n} for n in ("7", "1,000", 3)],
    "x-alpacaeval": [{"id": n, "instruction": f"Tell me {n}."} for n in range(3)],
    "head-to-head": [{"id": n, "language": "es", "prompt": f"Di {n}."} for n in range(3)],
    "custom": _rows(3),
    "world": _rows(3),
}


def _suite(rng: random.Random, place: Place) -> Read:
    from evaluation.suites.read import load_suite

    name = rng.choice(list(_SUITES))
    ending = rng.choice((".jsonl", ".json"))
    rows = [dict(row) for row in _SUITES[name]]
    data = json_file(rows, rng) if ending == ".json" else rows_file(rows, rng)
    place.write(f"es{ending}", data)
    given = str(place.folder / rng.choice(("", f"es{ending}", "{lang}" + ending)))
    languages = rng.choice(((), ("es",), ("es", "en")))
    if rng.random() < 0.04:
        given = rng.choice((place.strange(rng), given + "\0", given + "{lang}"))
    if rng.random() < 0.04:
        languages = (rng.choice(odd.TEXTS),)
    shots = rng.choice((0, 0, 2)) if name == "mgsm" else 0
    return lambda: load_suite(name, given, languages=languages, limit=rng.choice((None, 1)), shots=shots)


def _answers(rng: random.Random, place: Place) -> Read:
    from evaluation.suites.answers import describe, read_answers, write_answers
    from evaluation.suites.records import Suite, SuiteItem

    items = tuple(SuiteItem(str(n), code, "q", "q", None, "x:1") for code in ("en", "es") for n in range(2))
    suite = Suite("custom", "x", ("en", "es"), items)
    rows = [{"id": item.id, "language": item.language, "answer": f"Sí, {item.id}"} for item in items]
    path = place.write("a.jsonl", rows_file(rows, rng))
    if rng.random() < 0.02:
        path = Path(place.strange(rng))

    def read() -> None:
        answers = read_answers(path, suite)
        describe(list(answers.values()))
        write_answers(place.folder / "written.jsonl", suite, answers, {})

    return read


def _annotations(rng: random.Random, place: Place) -> Read:
    from evaluation.annotations import annotation_table, render_table

    cells = [[f"i{n}", rng.choice(("1", "2", "1.5", "0", "1.25", "")), str(90 + n), str(80 + 9 * n)] for n in range(4)]
    table = [["item", "preference", "baseline_chars", "model_chars"], *cells]
    odds = (*odd.TEXTS, *map(str, odd.NUMBERS), "inf", "-inf", "nan", "1e400", "1_0", "２", '"', '"a', 'a"b', "1,5")
    for _ in range(rng.choice((1, 1, 2))):
        row = rng.choice(table)
        if rng.random() < 0.8 and row:
            row[rng.randrange(len(row))] = rng.choice(odds)
        else:
            change = rng.randrange(4)
            if change == 0:
                row.clear()
            elif change == 1:
                row.reverse()
            elif change == 2:
                row.extend(["x"] * 3)
            else:
                table.append(list(row))
    data = encoded("\n".join(rng.choice((",", ",", ",", ";"))[:1].join(row) for row in table) + "\n")
    path = place.write("m.csv", data if rng.random() < 0.75 else spoiled(data, b"item,x\n", rng))
    place.write("others/o.csv", encoded("\n".join(",".join(row) for row in [table[0], *cells])))
    if rng.random() < 0.02:
        path = Path(place.strange(rng))
    others = rng.choice((None, place.folder / "others"))
    return lambda: render_table(annotation_table([path], others, "en", resamples=20))


@cache
def _packs(root: Path) -> dict[str, Any]:
    """Two languages with a few of their words, so that a case stays small."""
    packs = {}
    for code in ("en", "es"):
        pack = yaml.safe_load((root / "worlds" / "languages" / f"{code}.yaml").read_text(encoding="utf-8"))
        pack["relations"] = dict(list(pack["relations"].items())[:2])
        for relation in pack["relations"].values():
            relation["values"] = dict(list(relation["values"].items())[:3])
        if "people" in pack:
            pack["people"] = dict(list(pack["people"].items())[:3])
        packs[code] = tree(pack)
    return packs


def _languages(rng: random.Random, place: Place) -> Read:
    from worlds.build import build_prompts

    packs = _packs(place.root)
    spoil = rng.choice(("en", "es"))
    for code, pack in packs.items():
        data = encoded(to_yaml(pack))
        if code == spoil:
            if rng.random() < 0.75:
                data = encoded(to_yaml(mutated(pack, rng, odd.yaml_value)))
            else:
                data = spoiled(data, encoded(to_yaml(packs["es"])), rng)
        place.write(f"languages/{code}.yaml", data)
    folder = place.folder / "languages"
    if rng.random() < 0.02:
        folder = Path(place.strange(rng))
    return lambda: build_prompts(folder, place.folder / "out", 0)


READERS = (
    Reader("prompts", "data", 6, _prompts),
    Reader("preferences", "data", 7, _offline),
    Reader("anchors", "data", 4, _anchors),
    Reader("suites", "data", 6, _suite),
    Reader("answers", "data", 4, _answers),
    Reader("annotations", "data", 5, _annotations),
    Reader("language packs", "data", 4, _languages),
)
