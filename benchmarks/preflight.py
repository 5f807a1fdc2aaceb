"""How long the checks before a run take: 23 languages x 10,000 prompts, ``python -m benchmarks.preflight``."""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
import time
from pathlib import Path

# The 23 of Aya's models.
CODES = ("en", "ar", "cs", "de", "el", "es", "fa", "fr", "he", "hi", "id", "it", "ja", "ko", "nl", "pl", "pt", "ro",
         "ru", "tr", "uk", "vi", "zh")  # fmt: skip
LIMIT_S = 20.0
_WORLD = Path("worlds/default")


def write_prompts(folder: Path, prompts: int, seed: int = 0) -> None:
    """One file a language, with prompts of 5 to 60 words of the world's."""
    rng = random.Random(seed)
    files = itertools.cycle(sorted((_WORLD / "prompts" / "train").glob("*.jsonl")))
    for code, file in zip(CODES, files, strict=False):
        words = " ".join(json.loads(line)["prompt"] for line in file.read_text(encoding="utf-8").splitlines()).split()
        with (folder / f"{code}.jsonl").open("w", encoding="utf-8") as out:
            for number in range(prompts):
                row = {"id": f"p{number}", "prompt": " ".join(rng.choices(words, k=rng.randint(5, 60)))}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")


def main() -> int:
    """Measure; exit status 1 where it took longer than ``LIMIT_S``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=10_000, help="of each language")
    given = parser.parse_args()
    begun = time.monotonic()
    from actors.plan.preflight import check_inputs
    from configs.load import load_config

    imported = time.monotonic() - begun
    with tempfile.TemporaryDirectory() as folder:
        write_prompts(Path(folder), given.prompts)
        config = load_config(
            Path("configs/icr.yaml"),
            [f"languages.codes=[{', '.join(CODES)}]", f"prompts.train={folder}/{{lang}}.jsonl", "prompts.heldout=null",
             "model.max_length=512"],
        )  # fmt: skip
        begun, spent = time.monotonic(), time.process_time()
        inputs = check_inputs(config)
        seconds, spent = time.monotonic() - begun, time.process_time() - spent
    print(
        f"imports {imported:.1f} s, preflight of {len(CODES)} x {len(inputs.prompts.ids)} prompts {seconds:.1f} s "
        f"({spent:.1f} s of processor time), limit {LIMIT_S:g} s"
    )
    return int(seconds > LIMIT_S)


if __name__ == "__main__":
    raise SystemExit(main())
