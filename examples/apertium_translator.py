"""Answers translated by Apertium, a rule-based system, as a source of candidates (docs/training.md, "Sources").

    apt-get install apertium apertium-en-es       # Debian; other pairs: apertium-fr-es, apertium-es-it, ...

    candidates:
      sources:
        - {kind: policy}
        - {kind: file, name: english, path: answers.jsonl, languages: [en], scored: false}
        - {kind: translation, name: translated, of: english, by: command,
           command: [python, examples/apertium_translator.py]}

Reads JSON lines ``{id, text, from, to}`` and writes ``{id, text}``. A word that Apertium does not know stays as it is,
with a star in front: that is what the artefact rule below finds, where the text's own stars come in twos.

    evaluation: {markers: {es: ['(?<![\\w*])\\*\\w+(?![\\w*])']}}
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict

import langcodes

BREAK = "\n\n"  # ends a sentence for Apertium, so that no word is moved into the next line


def translate(texts: list[str], origin: str, target: str) -> list[str]:
    """Texts in one call, line by line.

    Raises:
        RuntimeError: Apertium is not there, lacks the pair, or lost a line.
    """
    mode = "-".join(langcodes.Language.get(code).to_alpha3() for code in (origin, target))
    lines = [text.split("\n") for text in texts]
    flat = [line for own in lines for line in own if line.strip()]
    if not flat:
        return texts
    try:
        done = subprocess.run(
            ["apertium", "-f", "txt", mode], input=BREAK.join(flat) + "\n", capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise RuntimeError("apertium is not installed: apt-get install apertium apertium-en-es") from None
    if done.returncode:
        raise RuntimeError(f"apertium {mode}: {(done.stderr or done.stdout).strip()[:300]}")
    made = done.stdout.removesuffix("\n").split(BREAK)
    if len(made) != len(flat):
        raise RuntimeError(f"apertium {mode}: gave {len(made)} lines for {len(flat)}")
    taken = iter(made)
    return ["\n".join(next(taken) if line.strip() else line for line in own) for own in lines]


def main() -> int:
    """Translate standard input, pair of languages by pair."""
    by_pair: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for line in sys.stdin:
        row = json.loads(line)
        by_pair[row["from"], row["to"]].append((row["id"], row["text"]))
    try:
        for (origin, target), rows in by_pair.items():
            for (key, _), text in zip(rows, translate([text for _, text in rows], origin, target), strict=True):
                print(json.dumps({"id": key, "text": text}, ensure_ascii=False))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
