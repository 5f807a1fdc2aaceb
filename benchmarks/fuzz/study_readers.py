"""Studies, the results of their runs, settings and pairs of reward training, and suites as others publish them."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.fuzz import odd
from benchmarks.fuzz.case import Place, Read, Reader, json_file, rows_file
from benchmarks.fuzz.data_readers import preferences, rows_bytes
from benchmarks.fuzz.form_readers import FORMS, contained
from benchmarks.fuzz.kept_readers import spoil
from benchmarks.fuzz.mutate import encoded, mutated, spoiled, to_yaml, tree


def _study(rng: random.Random, place: Place) -> Read:
    from configs.study import load_study

    content: dict[str, Any] = {
        "name": "s",
        "base": str(place.root / "configs" / "demo.yaml"),
        "dir": str(place.folder / "out"),
        "set": ["schedule.rounds=1"],
        "seeds": [0, 1],
        "rows": {
            "low": {"title": "Low", "set": ["learner.beta=0.1"]},
            "high": {"base": str(place.root / "configs" / "icr.yaml"), "set": []},
        },
        "titles": {"low": "Lower"},
        "contrasts": [
            {"question": "Is it?", "first": ["low"], "second": ["high"], "languages": "others", "better": "up"}
        ],
        "prepare": [{"run": ["build-world", "--out", "x"], "creates": "x/manifest.json"}],
        "bootstrap_samples": 100,
    }
    if rng.random() < 0.3:
        content["axes"] = {"beta": {"b1": ["learner.beta=0.2"], "b2": ["learner.beta=0.3"]}}
        del content["rows"]
        content |= {"titles": {"b1": "One"}, "contrasts": [{"question": "?", "first": ["b1"]}]}
    seed = tree(content)
    if rng.random() < 0.8:
        data = encoded(to_yaml(mutated(seed, rng, odd.yaml_value)))
    else:
        data = spoiled(encoded(to_yaml(seed)), b"rows: {a: {}}\n", rng)
    path = place.write("study.yaml", data + b"\n")
    if rng.random() < 0.02:
        path = Path(place.strange(rng))
    return lambda: load_study(path).runs()


@cache
def _sound_journal(base: Path) -> bytes:
    from evaluation.heldout import HeldoutResult, LanguageResult, PromptResult
    from rollout.store import Store

    path = base / "finished" / "store.sqlite"
    with Store.open(path, "digest", {}, "r") as store:
        for version in (0, 1):
            rows = tuple(PromptResult(f"p{n}", float(version), 0.5, cluster="c") for n in range(3))
            languages = {code: LanguageResult(1.0, 0.5, 1.0, 0.0, 9.0, 3.0, 0.0, rows) for code in ("en", "es")}
            store.put_evaluation(version, HeldoutResult(version, languages).to_json())
    return path.read_bytes()


def _result(rng: random.Random, place: Place) -> Read:
    """A finished run as a study's matrix takes it."""
    from evaluation.matrix.compute import Contrast, Row, build_matrix
    from evaluation.matrix.page import render_html
    from evaluation.matrix.runs import read_result
    from evaluation.matrix.tables import render_markdown, to_csv, to_json

    path = place.write("store.sqlite", _sound_journal(place.base))
    summary = {"rounds": 1, "weight_version": 1, "wall_seconds": 12.5, "languages": {"en": {"greedy": [0.0, 1.0]}}}
    if rng.random() < 0.5:
        spoil(path, rng, "evaluations", [0, 1], key="round")
        place.write("summary.json", json.dumps(summary).encode())
    else:
        place.write("summary.json", json_file(summary, rng))

    def read() -> None:
        run = read_result(place.folder, "r", 0)
        matrix = build_matrix("s", [Row("r", "R")], [run], [Contrast("?", ("r",), ())], "en", resamples=20)
        for shown in (render_markdown(matrix), to_json(matrix), to_csv(matrix), render_html(matrix)):
            shown.encode()

    return read


@cache
def _run_config(root: Path) -> bytes:
    from configs.load import dump_yaml, load_config

    return dump_yaml(load_config(root / "configs" / "demo.yaml")).encode()


def _shown_run(rng: random.Random, place: Place) -> Read:
    """A run's folder as `isogloss report` and `isogloss status` read it."""
    from evaluation.report import render_report
    from evaluation.status import status_lines

    figures = {"accuracy_sampled": 0.4, "accuracy_greedy": 0.5, "right_language": 0.9, "mean_length": 31.0}
    entry = {"start": figures, "end": figures, "delta_ci95": [0.1, 0.2]}
    mean = {"start": 0.4, "end": 0.55, "delta_ci95": [0.12, 0.18]}
    summary = {"rounds": 1, "wall_seconds": 20, "languages": {"en": entry, "es": entry}, "others": mean}
    sides = {"chosen_characters": 30.0, "rejected_characters": 32.0, "margin": 0.3}
    counts = {"pairs": 8, "anchors": 2, "pairs_by_language": {"es": 4}, "pair_lengths": {"es": sides}}
    learner = {"languages": {"es": {"reward_margin": 0.02, "reward_accuracy": 0.9, "pairs": 4}}}
    seconds = {"wall": 9.0, "stages": {"generate": 5.0, "train": 3.5}}
    rows = [{"round": 1, "counts": counts, "learner": learner, "seconds": seconds}]
    place.write("store.sqlite", _sound_journal(place.base))
    place.write("config.yaml", _run_config(place.root))
    spoilt = rng.random() < 0.5
    place.write("summary.json", json_file(summary, rng) if spoilt else json.dumps(summary).encode())
    place.write("metrics.jsonl", rows_bytes(rows) if spoilt else rows_file(rows, rng))

    def read() -> None:
        for form in ("html", "md"):
            render_report(place.folder, [], form).encode()
        "\n".join(status_lines(place.folder)).encode()

    return read


_TRAINING = (
    "learning_rate", "warmup_share", "weight_decay", "epochs", "pairs_per_step", "pairs_per_micro_batch", "max_length",
    "heldout_share", "languages", "dtype", "seed", "threads", "saves", "x", "",
)  # fmt: skip


def _training(rng: random.Random, place: Place) -> Read:
    from configs.load import load_section
    from configs.reward_training import RewardTrainingConfig

    given = []
    for _ in range(rng.choice((1, 2))):
        name = rng.choice(_TRAINING) + (rng.choice(odd.TEXTS)[:300] if rng.random() < 0.1 else "")
        section = "training" if rng.random() < 0.95 else rng.choice(("", "run", "training.training", "TRAINING"))
        value = to_yaml(odd.yaml_value(rng)).removeprefix("\n")
        if rng.random() < 0.3:
            value = rng.choice(("1", "8", "0.5", "1e-5", "[en, es]", "bfloat16"))
        given.append(f"{section}.{name}={value}".replace("\0", ""))
    return lambda: load_section(None, "training", RewardTrainingConfig, given).micro_batch


def _reward_pairs(rng: random.Random, place: Place) -> Read:
    """Pairs of reward training: in any form, or as ``isogloss build-data`` leaves them."""
    from actors.evals.train_reward import read_pairs

    built = rng.random() < 0.3
    rows = preferences() if built else [dict(row) for row in FORMS[rng.choice(("helpsteer3", "orca", "reward-bench"))]]
    path = contained(rows[:2] if built else rows, rng, place)
    if built:
        (place.folder / "journal").mkdir()
        path.rename(place.folder / "train.parquet")
        path = place.folder
    given = [str(path) if rng.random() < 0.95 else place.strange(rng)]
    return lambda: read_pairs(given, rng.choice(((), ("en",), ("es", "ar"))), "en")


_PUBLISHED = {"m-arenahard": "arena-hard", "aya": "aya", "language-confusion": "language-confusion"}
_FOLDERS = ("", "", "es", "en", "okapi", "monolingual/okapi", "crosslingual/x/y", "dolly_human_edited")


def _published(rng: random.Random, place: Place) -> Read:
    from evaluation.suites.read import load_suite

    name = rng.choice(list(_PUBLISHED))
    path = contained([dict(row) for row in FORMS[_PUBLISHED[name]]], rng, place)
    under = place.folder / rng.choice(_FOLDERS)
    under.mkdir(parents=True, exist_ok=True)
    language = rng.choice(("es", "en", "a", "xx", "zh-Hant"))
    moved = under / ("saved" if path.is_dir() else path.name.replace("a.", f"{language}.", 1))
    path.rename(moved)
    if name == "aya":
        (place.folder / "dolly_machine_translated").mkdir(exist_ok=True)
    given = rng.choice((str(moved), str(place.folder), str(under), f"{under}/{{lang}}{moved.suffix}"))
    if rng.random() < 0.04:
        given = place.strange(rng)
    codes = rng.choice(((), (), ("es",), ("en", "ar")))
    return lambda: load_suite(name, given, languages=codes, limit=rng.choice((None, 1)))


READERS = (
    Reader("studies", "configs", 6, _study),
    Reader("reward training", "configs", 4, _training),
    Reader("results of a study", "data", 4, _result),
    Reader("report and status", "data", 4, _shown_run),
    Reader("pairs for rewards", "data", 4, _reward_pairs),
    Reader("published suites", "data", 5, _published),
)
