"""What is chosen for the study, chosen where the study does not look: on train facts that are set aside.

    python -m benchmarks.science.validation                     # all rows of benchmarks/science/validation.yaml
    python -m benchmarks.science.validation --rows icr icr-floor

A quarter of the shipped world's train facts is taken out of prompts and anchors and evaluated instead; the held-out
facts are not read. These facts differ from held-out ones in one way: the supervised data has them under the English
instruction. Runs are kept in ``runs/science-validation``, and finished ones are not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.product import isogloss
from benchmarks.science.page import table
from benchmarks.science.results import Results, of_summary
from benchmarks.science.study import Row, rows_of
from configs.yaml12 import read_yaml
from evaluation.matrix.runs import SUMMARY, is_finished
from rollout.seeds import stable_seed

SETTINGS = Path(__file__).with_name("validation.yaml")
WORLD = Path("worlds/default")
HEAD = """# Choices of the study, on a validation split

Written by `python -m benchmarks.science.validation`. A quarter of the shipped world's train facts was taken out of
prompts and anchors, and is evaluated here in their place: no held-out fact was looked at. One run a row, one world and
one seed, so that differences under 4 points mean little. Settings: `benchmarks/science/validation.yaml`;
the conclusions are in science.md.
"""


def split(world: Path, out: Path, share: float) -> int:
    """Write ``out/{train,heldout}/<language>.jsonl`` and ``out/anchor.jsonl`` from a world's train facts.

    Args:
        world: Folder of the world; of its prompts only ``train`` is read.
        out: Folder to write.
        share: Of the facts, set aside for validation; drawn by id.

    Returns:
        How many facts are left to train on.
    """
    files = sorted((world / "prompts" / "train").glob("*.jsonl"))
    ids = [json.loads(line)["id"] for line in files[0].read_text(encoding="utf-8").splitlines()]
    drawn = sorted(ids, key=lambda key: stable_seed("validation", key))
    aside = set(drawn[: round(len(ids) * share)])
    for path in files:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for part in ("train", "heldout"):
            target = out / part / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            kept = [line for line in lines if (json.loads(line)["id"] in aside) == (part == "heldout")]
            target.write_text("".join(kept), encoding="utf-8")
    anchors = (world / "anchor.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in anchors if json.loads(line)["id"].rpartition("-")[0] not in aside]
    (out / "anchor.jsonl").write_text("".join(kept), encoding="utf-8")
    return len(ids) - len(aside)


def load_rows(path: Path = SETTINGS) -> tuple[dict[str, Row], dict[str, Any]]:
    """The rows, and the other settings."""
    raw = read_yaml(path, "settings of the validation")
    return rows_of(raw.pop("rows")), raw


def overrides(split_folder: Path, prompts: int, settings: dict[str, Any]) -> list[str]:
    """What every row is run with."""
    return [
        f"prompts.train={split_folder}/train/{{lang}}.jsonl",
        f"prompts.heldout={split_folder}/heldout/{{lang}}.jsonl",
        f"anchor.path={split_folder}/anchor.jsonl",
        f"rollout.prompts_per_round={prompts}",
        f"run.seed={settings['seed']}",
        f"evaluation.temperatures={json.dumps(settings['temperatures'])}",
        f"evaluation.languages={json.dumps(settings['unseen'])}",
    ]


def run(row: Row, common: Sequence[str], folder: Path) -> None:
    """Run a row, or continue it, unless its summary is there."""
    if is_finished(folder / row.name):
        return
    print(f"== {row.name}", flush=True)
    named = [f"run.name={row.name}", f"run.dir={folder}"]
    words = [*named, *common, *row.overrides, "--resume-or-start"]
    isogloss("train", row.config, *words)


def main() -> None:
    """Command line."""
    rows, settings = load_rows()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/science-validation.md"))
    parser.add_argument("--runs", type=Path, default=Path("runs/science-validation"))
    parser.add_argument("--rows", nargs="*", choices=list(rows), default=list(rows))
    arguments = parser.parse_args()
    prompts = split(WORLD, arguments.runs / "prompts", settings["share"])
    common = overrides(arguments.runs / "prompts", prompts, settings)
    for name in arguments.rows:
        run(rows[name], common, arguments.runs)
    found = {
        key: of_summary(json.loads(path.read_text(encoding="utf-8")), key, "")
        for row in rows.values()
        if (path := arguments.runs / row.name / SUMMARY).exists()
        for key in [(row.name, 0, settings["seed"], "")]
    }
    lines = [
        HEAD.rstrip(),
        "",
        *table("## Start and end, validation facts, per cent", list(rows.values()), Results(found)),
    ]
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(arguments.out)


if __name__ == "__main__":
    main()
