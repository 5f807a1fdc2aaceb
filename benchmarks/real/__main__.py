"""Does online training keep a real model's answers in the language that they were asked for in, and what does it cost?

    python -m benchmarks.real                      # benchmarks/real/settings.yaml; writes docs/real.md; 1 to 3 hours
    python -m benchmarks.real --short              # a tenth of it: shows that the parts hold, not what they do
    python -m benchmarks.real --train DIR --heldout DIR --page docs/real-other.md     # other prompts

The model answers the held-out prompts, is trained for some rounds on the training prompts, and answers again; once with
the rewards, and once with the rewards shuffled within each prompt, as control. Everything is an ordinary ``isogloss
train`` or ``isogloss eval`` and is kept in ``runs/real``: what is finished is not done again, what is unfinished is
continued, so the command can be stopped and repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers import CANNOT_RUN
from benchmarks.real.kept import Kept, kept
from benchmarks.real.measurement import DTYPE, HERE, Measurement, of_command_line
from benchmarks.real.measures import System, measure
from benchmarks.real.page import Found, answers_page, page
from configs.errors import UserError
from rollout.language import LanguageDetector
from rollout.words import of_letters, words


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
        name: {
            code: [measure(texts[name][code, key], prompts[code, key], code, detector) for key in ids]
            for code in settings.languages
        }
        for name in names
    }
    found = Found(
        [*measurement.facts(), *_walls(measurement, names), fact],
        settings.languages,
        settings.goal,
        systems,
        _kept(measurement, names, ids),
        ids,
        {
            name: {
                code: [word for key in ids for word in words(texts[name][code, key]) if of_letters(word)]
                for code in settings.languages
            }
            for name in names
        },
    )
    out.write_text(page((HERE / "head.md").read_text(encoding="utf-8"), found), encoding="utf-8")
    reading = out.with_name(f"{out.stem}-answers.md")
    reading.write_text(answers_page(found, prompts, texts), encoding="utf-8")
    print(f"{out}, {reading}")


def _walls(measurement: Measurement, names: Sequence[str]) -> list[str]:
    walls = []
    for name in names:
        path = measurement.folder / name / "summary.json"
        if path.is_file():
            walls.append(f"{name} {json.loads(path.read_text(encoding='utf-8'))['wall_seconds'] / 60:.0f} min")
    return [f"the last sitting of training took: {', '.join(walls)}"] if walls else []


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
    begun = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measurement, given = of_command_line(parser)
    settings = measurement.settings
    out: Path = given.page or (measurement.folder / "real.md" if given.short else Path("docs/real.md"))
    try:
        fact = measurement.prepare()
    except UserError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        sys.exit(CANNOT_RUN)
    steps = [("answers before", "answer", "start"), ("answers elsewhere", "answer_elsewhere", "start")]
    for name in settings.runs:
        steps += [(f"training: {name}", "run", name), (f"answers after: {name}", "answer", name)]
    for number, (title, verb, name) in enumerate(steps, start=1):
        print(f"== {number} of {len(steps)}: {title} ({(time.monotonic() - begun) / 60:.0f} min so far)", flush=True)
        getattr(measurement, verb)(name)
        if verb == "answer":
            render(measurement, fact, out)


if __name__ == "__main__":
    main()
