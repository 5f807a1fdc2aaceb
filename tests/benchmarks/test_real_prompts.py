"""The shipped parallel prompts: parallel, split for good, and in the languages that their files are named after."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from benchmarks.real import LANGUAGES, PROMPTS
from rollout.language import LanguageDetector

# The split is frozen: what was measured on the held-out half may not become training data later.
HELDOUT_IDS = "deabcda11046b469"


def rows(part: str, code: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (PROMPTS / part / f"{code}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_prompts_are_parallel_and_the_split_is_the_frozen_one() -> None:
    ids = {part: [row["id"] for row in rows(part, "en")] for part in ("train", "heldout")}
    for part, expected in ids.items():
        assert all([row["id"] for row in rows(part, code)] == expected for code in LANGUAGES)
    assert (len(ids["train"]), len(ids["heldout"])) == (200, 201)
    assert len({*ids["train"], *ids["heldout"]}) == 401
    assert hashlib.sha256(" ".join(ids["heldout"]).encode()).hexdigest()[:16] == HELDOUT_IDS
    assert {path.name for part in ids for path in Path(PROMPTS / part).iterdir()} == {f"{c}.jsonl" for c in LANGUAGES}


def test_no_prompt_is_there_twice_and_none_is_too_short_or_long() -> None:
    for code in LANGUAGES:
        texts = [row["prompt"] for part in ("train", "heldout") for row in rows(part, code)]
        assert len({text.casefold() for text in texts}) == len(texts)
        assert all(15 <= len(text) <= 160 and text == text.strip() for text in texts)


def test_every_prompt_is_in_its_language() -> None:
    detector = LanguageDetector(LANGUAGES)
    for code in LANGUAGES:
        texts = [row["prompt"] for part in ("train", "heldout") for row in rows(part, code)]
        outcomes = [detector.judge(text, code).outcome for text in texts]
        assert outcomes.count("other") == 0
        assert outcomes.count("undecided") <= 4  # short ones
